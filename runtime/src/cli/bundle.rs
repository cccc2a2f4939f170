//! Reading JSON files of a bundle, and writing pid files.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use runtime::spec::{self, Spec};
use serde::de::DeserializeOwned;

use super::Error;

/// The bundle's absolute path and its configuration.
pub(crate) fn load(bundle: &Path) -> Result<(PathBuf, Spec), Error> {
    let at = |e| Error::io("opening the bundle", bundle.display().to_string(), e);
    let bundle = std::path::absolute(bundle).map_err(at)?;
    let path = bundle.join("config.json");
    let at = |e| Error::io("reading", path.display().to_string(), e);
    let mut file = File::open(&path).map_err(at)?;
    refuse_anothers(&bundle, file.metadata().map_err(at)?.uid())?;
    let bytes = runtime::read_whole(&mut file).map_err(at)?;
    let spec = spec::parse(&bytes).map_err(|source| Error::Json { path, source })?;
    Ok((bundle, spec))
}

/// Its hooks run with our rights, so whoever can write the configuration has them: root and we may, nobody else.
fn refuse_anothers(bundle: &Path, owner: u32) -> Result<(), Error> {
    if owner == 0 || owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let whose = format!("config.json of {} belongs to user {owner}", bundle.display());
    Err(Error::Usage(format!(
        "{whose}, whose hooks would run with our rights (OCI bundle.md, Filesystem Bundle): chown it to root"
    )))
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = fs::read(path).map_err(|e| Error::io("reading", path.display().to_string(), e))?;
    spec::parse(&bytes).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// By rename: whoever waits for the file finds it whole.
pub(crate) fn write_pid(path: &Path, pid: i32) -> Result<(), Error> {
    let at = |e| Error::io("writing", path.display().to_string(), e);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let new = path.with_file_name(name);
    fs::write(&new, pid.to_string()).map_err(at)?;
    fs::rename(&new, path).map_err(at)
}

/// Where the bundle's configuration says that the root file system is; empty when it cannot be read any more.
pub(crate) fn rootfs(bundle: &Path) -> PathBuf {
    let spec: Option<Spec> = read_json(&bundle.join("config.json")).ok();
    spec.and_then(|spec| spec.root).map_or_else(PathBuf::new, |root| bundle.join(root.path))
}
