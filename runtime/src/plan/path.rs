//! Paths of a configuration become C strings relative to the container's root.

use std::ffi::CString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use crate::Error;

/// Without the leading `/`, `.` and `..`, which can only mean the root when they lead out of it.
pub(crate) fn inside(field: &str, path: &Path) -> Result<CString, Error> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    c_string(field, clean.into_os_string().into_vec())
}

/// A C string, or a complaint about the NUL in it.
pub(super) fn c_string(field: &str, bytes: impl Into<Vec<u8>>) -> Result<CString, Error> {
    CString::new(bytes).map_err(|_| Error::invalid(field, "holds a NUL byte"))
}

pub(super) fn c_path(field: &str, path: &Path) -> Result<CString, Error> {
    c_string(field, path.as_os_str().as_bytes())
}
