//! Where the container's output goes.

use std::path::{Component, Path, PathBuf};

use super::invalid::require;
use super::{Inputs, Invalid};

/// `log_path` lies below the sandbox's log directory; no log is kept when either is empty.
pub(super) fn log_path(inputs: &Inputs<'_>) -> Result<Option<PathBuf>, Invalid> {
    let (directory, name) = (&inputs.sandbox.config.log_directory, &inputs.config.log_path);
    if directory.is_empty() || name.is_empty() {
        return Ok(None);
    }
    let below =
        Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    require(below, "log_path", || format!("{name} leaves the sandbox's log directory"))?;
    require(Path::new(directory).is_absolute(), "log_directory", || format!("{directory} is not absolute"))?;
    Ok(Some(Path::new(directory).join(name)))
}
