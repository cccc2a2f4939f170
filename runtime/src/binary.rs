//! Our own binary, out of the reach of containers.
//!
//! A process that is about to become the container's program still is this program, and a container can make any
//! process of its own be it again: `/proc/self/exe` as its entry point, or behind `#!`. Through that link it could
//! open our file for writing (CVE-2019-5736). Run from a read-only clone of its mount, the link leads only there.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use kernel::{CStringArray, Depth, MountAttr, mount_attr, open_tree_attr};
use rustix::fs::{CWD, StatVfsMountFlags, statvfs};
use rustix::io::{Errno, Result};

use crate::Error;

/// Executes ourselves again from a read-only mount that is attached nowhere, unless we already run from one. To be
/// called first thing, by every program that makes containers.
///
/// # Errors
/// When the program cannot be executed again. Without the right to clone mounts there is nothing to protect it from
/// that file permissions do not: that is no error.
pub fn run_from_readonly_mount() -> std::result::Result<(), Error> {
    let at = |errno: Errno| Error::step("running from a read-only mount", "/proc/self/exe", errno);
    match readonly_clone() {
        Ok(Some(program)) => Err(at(execute(&program))),
        Ok(None) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(at(errno)),
    }
}

const PROGRAM: &CStr = c"/proc/self/exe";

/// `None`: it is on one already.
fn readonly_clone() -> Result<Option<OwnedFd>> {
    if statvfs(PROGRAM)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(None);
    }
    let readonly = MountAttr { set: mount_attr::RDONLY, ..MountAttr::default() };
    open_tree_attr(CWD, PROGRAM, Depth::One, &readonly).map(Some)
}

fn execute(program: &OwnedFd) -> Errno {
    let strings = |strings: &mut dyn Iterator<Item = Vec<u8>>| {
        // What came to us as C strings has no NUL inside.
        CStringArray::new(strings.filter_map(|text| CString::new(text).ok()).collect())
    };
    let args = strings(&mut std::env::args_os().map(OsStringExt::into_vec));
    let env = strings(&mut std::env::vars_os().map(|(name, value)| {
        let mut variable = name.into_vec();
        variable.push(b'=');
        variable.extend(value.into_vec());
        variable
    }));
    kernel::execveat(program.as_fd(), &args, &env)
}
