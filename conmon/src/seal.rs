//! Runs this program from a read-only mount that nobody else sees.
//!
//! A container's process is, for a moment, this program; through its /proc/<pid>/exe somebody in the container could
//! come to write to the file on the host (CVE-2019-5736). Through this mount nothing can be written, and no
//! copy of the program is kept in memory. The price is one exec a pod.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use conmon_protocol::HEAP_VARIABLE;
use kernel::{Depth, MountAttr, mount_attr};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Error, Named as _};

/// Says that this has been done; the last word of the command line.
pub(crate) const ARGUMENT: &str = "--sealed";

/// Starts this program again with the same words. Comes back only to say why it could not.
pub(crate) fn seal(
    words: impl Iterator<Item = impl AsRef<OsStr>>,
    keep: Option<&OwnedFd>,
) -> Result<Infallible, Error> {
    let program = read_only_program().named("sealing", "/proc/self/exe")?;
    if let Some(fd) = keep {
        kernel::dup_onto(fd.as_fd(), fd.as_raw_fd()).named("keeping", "the daemon's socket")?;
    }
    let error = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("berth-conmon")
        .args(words)
        .arg(ARGUMENT)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env(HEAP_VARIABLE.0, HEAP_VARIABLE.1)
        .exec();
    Err(error).named("executing", "/proc/self/exe")
}

fn read_only_program() -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let program = open_tree(CWD, "/proc/self/exe", flags)?;
    let attributes = MountAttr { set: mount_attr::RDONLY | mount_attr::NOSUID, ..MountAttr::default() };
    kernel::mount_setattr(program.as_fd(), Depth::One, &attributes)?;
    Ok(program)
}
