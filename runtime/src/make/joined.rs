//! Namespaces that are joined by path: which one an interface goes to, and those that are the host's after all.

use std::os::fd::OwnedFd;

use kernel::{Child, clone_flags as flag};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::open::Opened;
use crate::Error;
use crate::plan::Plan;

/// The joined one, or that which the init was born into.
pub(super) fn network_of(opened: &Opened, init: &Child) -> Result<OwnedFd, Error> {
    let path = format!("/proc/{}/ns/net", init.pid);
    match opened.joined.iter().find(|(kind, _)| *kind == flag::NEWNET) {
        Some((_, fd)) => fd.try_clone().map_err(|e| Error::step("opening", "the network namespace", e)),
        None => open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::step("opening", path, e)),
    }
}

/// A path may lead to the host's own namespace, and what is for the container would change the host
/// (CVE-2022-0532). Looked at only when something would be changed.
pub(super) fn refuse_the_hosts(plan: &Plan, joined: &[(u64, OwnedFd)]) -> Result<(), Error> {
    for (kind, field) in plan.changed_namespaces() {
        let Some((_, fd)) = joined.iter().find(|(joined, _)| *joined == kind) else { continue };
        let name = match kind {
            flag::NEWUTS => "uts",
            flag::NEWIPC => "ipc",
            _ => "net",
        };
        let at = |e: Errno| Error::step("looking at", format!("/proc/self/ns/{name}"), e);
        let (ours, theirs) = (
            rustix::fs::stat(format!("/proc/self/ns/{name}")).map_err(at)?,
            rustix::fs::fstat(fd).map_err(at)?,
        );
        if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino) {
            return Err(Error::invalid(
                field,
                format!("would change the host: the {name} namespace is its own"),
            ));
        }
    }
    Ok(())
}
