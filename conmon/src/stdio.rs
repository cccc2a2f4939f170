//! A container's standard streams: FIFOs in its directory, or a terminal.
//!
//! The container's side holds stdout and stderr open for reading and writing. So it never gets SIGPIPE and
//! loses no byte while no monitor lives; a new monitor opens the FIFOs by path and reads on. They belong to
//! the container's user, so that an unprivileged process may open /dev/stdout again (proc(5), `/proc/self/fd`).
//!
//! The daemon holds the monitor's side as well ([`crate::keep`]), so that what a container wrote last, which ended while no
//! monitor lived, is still there.
//!
//! An open stdin is held the same way, and never ends. A stdin that ends (`Once`) can only be held open by
//! the monitor, so there a monitor's death is the end of stdin.

use std::os::fd::OwnedFd;
use std::path::Path;

use conmon_protocol::{ContainerPlan, Stdin};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{Error, Leftovers, Named as _};
use crate::keep::Returned;
use crate::relabel;

const STDIN: &str = "stdin";
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";

/// What the container gets as 0, 1 and 2.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What the monitor holds.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    /// A terminal is all three.
    pub(crate) console: Option<OwnedFd>,
}

/// Makes the FIFOs and opens both sides. The monitor's reader comes first: a writer alone would wait for it.
pub(crate) fn make(plan: &ContainerPlan) -> Result<(Streams, Ends), Error> {
    let dir = &plan.container_dir;
    let mut streams = Streams {
        stdout: Some(make_output(plan, STDOUT)?),
        stderr: Some(make_output(plan, STDERR)?),
        ..Streams::default()
    };
    let ends = Ends {
        stdin: make_stdin(plan, &mut streams)?,
        stdout: open(&dir.join(STDOUT), OFlags::RDWR)?,
        stderr: open(&dir.join(STDERR), OFlags::RDWR)?,
    };
    Ok((streams, ends))
}

/// The monitor's side, after another monitor made it, and the process beside it: what was kept, and where nobody kept it
/// what can be opened again. A terminal can't.
pub(crate) fn take_up(plan: &ContainerPlan, returned: Returned) -> (Option<OwnedFd>, Streams) {
    let opened = if plan.terminal { Streams::default() } else { reopen(plan) };
    let streams = Streams {
        stdin: returned.stdin.or(opened.stdin),
        stdout: returned.stdout.or(opened.stdout),
        stderr: returned.stderr.or(opened.stderr),
        console: returned.console,
    };
    (returned.process, streams)
}

/// Opens the monitor's side again. A FIFO that is gone is left out.
fn reopen(plan: &ContainerPlan) -> Streams {
    let dir = &plan.container_dir;
    let writer = OFlags::WRONLY | OFlags::NONBLOCK;
    let reader = OFlags::RDONLY | OFlags::NONBLOCK;
    Streams {
        stdin: match plan.stdin {
            Stdin::Closed => None,
            Stdin::Open | Stdin::Once => open(&dir.join(STDIN), writer).ok(),
        },
        stdout: open(&dir.join(STDOUT), reader).ok(),
        stderr: open(&dir.join(STDERR), reader).ok(),
        console: None,
    }
}

/// Takes the FIFOs away; gone already is fine.
pub(crate) fn unmake(container_dir: &Path) -> Result<(), Error> {
    let mut left = Leftovers::default();
    for name in [STDIN, STDOUT, STDERR] {
        left.note(remove(&container_dir.join(name)));
    }
    left.result()
}

/// Removes a file; gone already is fine.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(errno).named("removing", path),
    }
}

pub(crate) fn null() -> Result<OwnedFd, Error> {
    open(Path::new("/dev/null"), OFlags::RDWR)
}

fn make_output(plan: &ContainerPlan, name: &str) -> Result<OwnedFd, Error> {
    let path = plan.container_dir.join(name);
    make_fifo(&path, plan)?;
    open(&path, OFlags::RDONLY | OFlags::NONBLOCK)
}

fn make_stdin(plan: &ContainerPlan, streams: &mut Streams) -> Result<OwnedFd, Error> {
    let path = plan.container_dir.join(STDIN);
    let end = match plan.stdin {
        Stdin::Closed => return open(Path::new("/dev/null"), OFlags::RDONLY),
        Stdin::Open => {
            make_fifo(&path, plan)?;
            open(&path, OFlags::RDWR)?
        }
        Stdin::Once => {
            make_fifo(&path, plan)?;
            open_reader_without_waiting(&path)?
        }
    };
    streams.stdin = Some(open(&path, OFlags::WRONLY | OFlags::NONBLOCK)?);
    Ok(end)
}

/// A blocking reader of a FIFO that has no writer yet.
fn open_reader_without_waiting(path: &Path) -> Result<OwnedFd, Error> {
    let end = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    rustix::fs::fcntl_setfl(&end, OFlags::empty()).named("opening", path)?;
    Ok(end)
}

fn make_fifo(path: &Path, plan: &ContainerPlan) -> Result<(), Error> {
    remove(path)?;
    rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(0o600)).named("making the FIFO", path)?;
    if let Some(label) = &plan.file_label {
        relabel::set(path, label).named("labelling", path)?;
    }
    let (uid, gid) = (Uid::from_raw(plan.stdio_owner.uid), Gid::from_raw(plan.stdio_owner.gid));
    rustix::fs::chown(path, Some(uid), Some(gid)).named("giving to the container's user", path)
}

/// Nobody else writes in the container's directory, so there is no link not to be followed. A flag that says so would
/// stay with the description for ever, and criu opens an end that it was given again by a link in /proc.
fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::empty()).named("opening", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use conmon_protocol::{Handler, Owner, Rootfs};

    fn plan(dir: &Path, stdin: Stdin) -> ContainerPlan {
        ContainerPlan {
            container_id: "c".into(),
            container_dir: dir.into(),
            bundle_dir: dir.join("bundle"),
            rootfs: Rootfs::Dir(dir.join("rootfs")),
            log_path: None,
            terminal: false,
            stdin,
            stdio_owner: Owner {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
            },
            file_label: None,
            handler: Handler::InTree {
                root: dir.join("runtime"),
                seccomp_cache: None,
                cgroup_driver: conmon_protocol::CgroupDriver::Cgroupfs,
            },
            volumes: vec![],
            patience_ms: 0,
        }
    }

    fn read(fd: &OwnedFd) -> Result<Vec<u8>, Errno> {
        let mut buffer = [0; 64];
        rustix::io::read(fd, &mut buffer).map(|count| buffer[..count].to_vec())
    }

    #[test]
    fn what_is_written_while_no_monitor_lives_is_read_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path(), Stdin::Closed);
        let (streams, ends) = make(&plan).unwrap();
        drop(streams);
        rustix::io::write(&ends.stdout, b"nobody reads").unwrap();
        let streams = reopen(&plan);
        assert_eq!(read(streams.stdout.as_ref().unwrap()).unwrap(), b"nobody reads");
        assert_eq!(read(streams.stderr.as_ref().unwrap()), Err(Errno::AGAIN));
        drop(ends);
        assert_eq!(read(streams.stdout.as_ref().unwrap()).unwrap(), b"", "no writer is left");
    }

    #[test]
    fn an_open_stdin_outlives_the_monitor_and_one_for_once_ends() {
        let dir = tempfile::tempdir().unwrap();
        let open = plan(dir.path(), Stdin::Open);
        let (streams, ends) = make(&open).unwrap();
        drop(streams);
        rustix::io::write(reopen(&open).stdin.as_ref().unwrap(), b"in").unwrap();
        assert_eq!(read(&ends.stdin).unwrap(), b"in");
        rustix::fs::fcntl_setfl(&ends.stdin, OFlags::NONBLOCK).unwrap();
        assert_eq!(read(&ends.stdin), Err(Errno::AGAIN), "it has not ended");

        let (streams, ends) = make(&plan(dir.path(), Stdin::Once)).unwrap();
        rustix::io::write(streams.stdin.as_ref().unwrap(), b"in").unwrap();
        drop(streams);
        assert_eq!(read(&ends.stdin).unwrap(), b"in");
        assert_eq!(read(&ends.stdin).unwrap(), b"");
    }

    #[test]
    fn taking_away_is_safe_twice_and_making_is_too() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path(), Stdin::Open);
        make(&plan).unwrap();
        make(&plan).unwrap();
        unmake(dir.path()).unwrap();
        unmake(dir.path()).unwrap();
        unmake(Path::new("/nowhere")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
