//! Puts a network configuration of our own into the configuration directory, made from the operator's template
//! and the ranges that the kubelet was given for this node's pods.
//!
//! A configuration that somebody else has put there is left alone: it knows its ranges from elsewhere.

use std::path::{Path, PathBuf};

use crate::bounded::read;
use crate::conf;
use crate::error::Error;
use crate::template::{self, Range, TEMPLATE_MAX_BYTES};

/// First in the order of names, where nothing else is.
const FILE: &str = "10-berth-net.conflist";

/// # Errors
/// When the template cannot be read, or does not give a configuration.
pub(crate) fn provision(conf_dir: &Path, template: Option<&Path>, ranges: &[Range]) -> Result<(), Error> {
    let Some(template) = template.filter(|_| !ranges.is_empty()) else { return Ok(()) };
    if let Some(other) = others(conf_dir)? {
        tracing::info!(file = %other.display(), "a network configuration is there; the template is not used");
        return Ok(());
    }
    let bad = |reason: String| Error::Template { template: template.into(), reason };
    let text = read(template, TEMPLATE_MAX_BYTES).map_err(|error| bad(error.to_string()))?;
    let text = String::from_utf8(text).map_err(|_| bad("it is not UTF-8".into()))?;
    let text = template::fill(&text, ranges).map_err(bad)?;
    conf::check(text.as_bytes())
        .map_err(|reason| bad(format!("filled with {}, {reason}", Range::join(ranges))))?;
    put(conf_dir, &text)
}

/// A configuration that is not ours.
fn others(conf_dir: &Path) -> Result<Option<PathBuf>, Error> {
    let failed = |source| Error::Watch { doing: "reading", path: conf_dir.into(), source };
    let files = conf::files(conf_dir).map_err(failed)?;
    Ok(files.into_iter().find(|file| !file.ends_with(FILE)))
}

/// The watch of the directory sees the rename, and only then the whole file. The same text again changes nothing.
fn put(conf_dir: &Path, text: &str) -> Result<(), Error> {
    let path = conf_dir.join(FILE);
    if std::fs::read_to_string(&path).is_ok_and(|before| before == text) {
        return Ok(());
    }
    let unfinished = conf_dir.join(format!(".{FILE}.tmp"));
    let written = std::fs::create_dir_all(conf_dir)
        .and_then(|()| std::fs::write(&unfinished, text))
        .and_then(|()| std::fs::rename(&unfinished, &path));
    written.map_err(|source| {
        // On a full disk, half a file helps nobody.
        let _ = std::fs::remove_file(&unfinished);
        Error::Watch { doing: "writing", path, source }
    })
}
