//! Our own binary, out of the reach of containers.
//!
//! A process that is about to become the container's program still is this program, and a container can make any
//! process of its own be it again: `/proc/self/exe` as its entry point, or behind `#!`. Through that link it could
//! open our file for writing (CVE-2019-5736). Run from a read-only clone of its mount, the link leads only there. Who may
//! not clone mounts, and could write the file, runs from a sealed copy in memory.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use kernel::{CStringArray, Depth, MountAttr, mount_attr, open_tree_attr};
use rustix::fs::{
    Access, CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags, access, fcntl_add_seals,
    fcntl_get_seals, memfd_create, open, stat, statvfs,
};
use rustix::io::{Errno, Result};
use rustix::process::geteuid;

use crate::Error;

/// Executes ourselves again from a read-only mount that is attached nowhere, unless we already run from one. To be
/// called first thing, by every program that makes containers. Without the right to clone mounts file permissions
/// protect the program, but for users whose own it is: their containers' root is nobody else.
///
/// # Errors
/// When the program cannot be copied or executed again.
pub fn run_from_readonly_mount() -> std::result::Result<(), Error> {
    let at = |errno: Errno| Error::step("running from a read-only mount", "/proc/self/exe", errno);
    let program = match readonly_clone() {
        Err(Errno::PERM) => sealed_copy(),
        clone => clone,
    };
    match program {
        Ok(Some(program)) => Err(at(execute(&program))),
        Ok(None) => Ok(()),
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

/// Nobody but us writes or lists a copy of ours, and no program that has a name has this mode for long.
const COPYS_MODE: Mode = Mode::RUSR.union(Mode::XUSR);

/// `None`: it is one already, or nobody could write the file with our rights.
fn sealed_copy() -> Result<Option<OwnedFd>> {
    // A file that is executed is busy for whoever may write it.
    let is_writable = matches!(access(PROGRAM, Access::WRITE_OK), Ok(()) | Err(Errno::TXTBSY));
    let now = stat(PROGRAM)?;
    let is_nameless_copy = now.st_nlink == 0 && Mode::from_raw_mode(now.st_mode) == COPYS_MODE;
    if is_nameless_copy || (!is_writable && now.st_uid != geteuid().as_raw()) {
        return Ok(None);
    }
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut program = File::open("/proc/self/exe").map_err(failed)?;
    if fcntl_get_seals(&program).is_ok_and(|seals| seals.contains(SealFlags::WRITE)) {
        return Ok(None);
    }
    let mut copy = match memory() {
        // `vm.memfd_noexec` is 2.
        Err(Errno::ACCESS) => return nameless_copy(&mut program).map(Some).map_err(failed),
        made => File::from(made?),
    };
    std::io::copy(&mut program, &mut copy).map_err(failed)?;
    fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(Some(copy.into()))
}

/// Kernels before 6.3 do not know that it is to be executed, and let it be.
fn memory() -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(c"berth-runtime", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create(c"berth-runtime", flags),
        made => made,
    }
}

/// A file that never has a name: what a container writes to it once we are gone, nobody runs.
fn nameless_copy(program: &mut File) -> std::io::Result<OwnedFd> {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_else(|| "/tmp".into());
    let mut copy = File::from(open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, COPYS_MODE)?);
    std::io::copy(program, &mut copy)?;
    // Who may write it keeps it from being run.
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
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
