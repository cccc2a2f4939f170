//! Namespaces kept alive by a bind mount each, so that a pod needs no process.

use std::path::Path;

use nix::sched::CloneFlags;
use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::mount::mount_bind;

use crate::error::{Error, Named as _};
use crate::stdio;

/// The kernel's names, which are the files' names too.
pub(super) const NAMES: [&str; 5] = ["net", "ipc", "uts", "user", "pid"];

/// Pins the namespaces of a process, given its `ns` directory.
pub(super) fn pin_all(process_ns: &Path, pins: &Path, which: CloneFlags) -> Result<(), Error> {
    let flags = [
        CloneFlags::CLONE_NEWNET,
        CloneFlags::CLONE_NEWIPC,
        CloneFlags::CLONE_NEWUTS,
        CloneFlags::CLONE_NEWUSER,
        CloneFlags::CLONE_NEWPID,
    ];
    for (name, flag) in NAMES.iter().zip(flags) {
        if which.contains(flag) {
            pin(&process_ns.join(name), &pins.join(name))?;
        }
    }
    Ok(())
}

pub(super) fn pin(namespace: &Path, target: &Path) -> Result<(), Error> {
    match rustix::fs::mknodat(CWD, target, FileType::RegularFile, Mode::from_raw_mode(0o600), 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).named("making", target),
    }
    mount_bind(namespace, target).named("pinning", target)
}

pub(super) fn unpin(target: &Path) -> Result<(), Error> {
    super::unmount_all(target)?;
    stdio::remove(target)
}
