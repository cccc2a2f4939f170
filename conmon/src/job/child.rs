//! What a child of the monitor does: it asks volumes, and has a runtime do what may take long.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use conmon_protocol::{ContainerPlan, Images, Seen, Volume};
use rustix::io::Errno;
use rustix::process::{getpid, set_child_subreaper};

use super::line::{Word, say};
use crate::error::{Error, Named as _};
use crate::handler::{self, Entered};
use crate::relabel;
use crate::stdio::Ends;

/// The daemon's sockets and the pod's streams must end with the monitor, not with a child that the kernel holds.
fn keep_only(line: &OwnedFd, ends: Option<&Ends>) -> Result<(), Errno> {
    let mut keep = vec![line.as_fd()];
    keep.extend(
        ends.into_iter().flat_map(|ends| [ends.stdin.as_fd(), ends.stdout.as_fd(), ends.stderr.as_fd()]),
    );
    kernel::close_all_but_these(3, &keep)
}

pub(super) fn look(line: &OwnedFd, paths: &[PathBuf]) -> Result<(), Errno> {
    keep_only(line, None)?;
    let mut seen = Vec::with_capacity(paths.len());
    for (at, path) in paths.iter().enumerate() {
        say(line, &Word::At(at), &[])?;
        seen.push(see(path));
    }
    say(line, &Word::Seen(seen), &[])
}

fn see(path: &Path) -> Seen {
    let found = std::fs::canonicalize(path).and_then(|path| Ok((std::fs::metadata(&path)?.is_dir(), path)));
    match found {
        Ok((true, path)) => Seen::Directory(path),
        Ok((false, path)) => Seen::Other(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Seen::Missing,
        Err(error) => Seen::Failed(error.raw_os_error().unwrap_or_default()),
    }
}

pub(super) fn make(
    line: &OwnedFd,
    plan: &ContainerPlan,
    ends: Option<Ends>,
    from: Option<&Images>,
) -> Result<(), Errno> {
    keep_only(line, ends.as_ref())?;
    for (at, volume) in plan.volumes.iter().enumerate() {
        say(line, &Word::At(at), &[])?;
        if let Err(error) = prepare(volume) {
            return say(line, &Word::Failed(error.refusal()), &[]);
        }
    }
    say(line, &Word::At(plan.volumes.len()), &[])?;
    let made = match from {
        None => handler::create(plan, ends),
        Some(from) => handler::restore(plan, ends, from),
    };
    match made {
        Ok(made) => say(line, &Word::of(&made), &descriptors(&made.process)),
        Err(error) => say(line, &Word::Failed(error.refusal()), &[]),
    }
}

pub(super) fn exec(
    line: &OwnedFd,
    plan: &ContainerPlan,
    process: serde_json::Value,
    ends: Option<Ends>,
) -> Result<(), Errno> {
    keep_only(line, ends.as_ref())?;
    // The process that another runtime's command leaves behind is ours until we end, and the monitor's then: it would
    // reap one that ends soon before we have a descriptor of it.
    set_child_subreaper(Some(getpid()))?;
    match handler::exec(plan, process, ends) {
        Ok(entered) => say(line, &Word::entered(&entered), &descriptors(&entered)),
        Err(error) => say(line, &Word::Failed(error.refusal()), &[]),
    }
}

pub(super) fn order(line: &OwnedFd, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Errno> {
    keep_only(line, None)?;
    match work() {
        Ok(()) => say(line, &Word::Done, &[]),
        Err(error) => say(line, &Word::Failed(error.refusal()), &[]),
    }
}

fn descriptors(process: &Entered) -> Vec<BorrowedFd<'_>> {
    let console = process.console.as_ref().map(|fd| fd.as_fd());
    std::iter::once(process.pidfd.as_fd()).chain(console).collect()
}

/// Asks the volume something, so that it is known which one does not answer. What is wrong with it otherwise is for
/// whoever mounts it to say.
fn prepare(volume: &Volume) -> Result<(), Error> {
    match std::fs::metadata(&volume.path) {
        Err(error) if volume.make && error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(&volume.path).named("making", &volume.path)?;
        }
        Ok(_) | Err(_) => {}
    }
    volume.label.as_ref().map_or(Ok(()), |label| relabel::all(&volume.path, label))
}
