//! What of a container would be lost with its monitor, and is kept by the daemon meanwhile: the kernel forgets the bytes
//! in a FIFO that nobody has open, how a process ended that nobody holds a pidfd of, and hangs up a terminal without
//! a master. So the daemon holds copies, and gives them to the next monitor.
//!
//! Not a stdin that ends with its client ([`Stdin::Once`]): its end must not wait for the daemon to let go.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};

use conmon_protocol::{Kept, KeptExec, Message, Stdin};

use crate::container::Container;
use crate::exec::Exec;
use crate::reap::Birth;

/// What came back of one container.
#[derive(Debug, Default)]
pub(crate) struct Returned {
    pub(crate) process: Option<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) console: Option<OwnedFd>,
}

/// All that came back.
#[derive(Debug, Default)]
pub(crate) struct AllReturned {
    pub(crate) containers: HashMap<String, Returned>,
    pub(crate) execs: Vec<(KeptExec, OwnedFd)>,
}

impl Returned {
    pub(crate) fn of(kept: Vec<Kept>, fds: Vec<OwnedFd>) -> Returned {
        let mut returned = Returned::default();
        for (kept, fd) in kept.into_iter().zip(fds) {
            let place = match kept {
                Kept::Process => &mut returned.process,
                Kept::Stdin => &mut returned.stdin,
                Kept::Stdout => &mut returned.stdout,
                Kept::Stderr => &mut returned.stderr,
                Kept::Console => &mut returned.console,
            };
            *place = Some(fd);
        }
        returned
    }
}

/// What is to be kept of an exec, if its pidfd can be copied.
pub(crate) fn exec_message(exec: &Exec) -> Option<(Message, Vec<OwnedFd>)> {
    let pidfd = exec.pidfd.as_fd().try_clone_to_owned().ok()?;
    let kept = KeptExec {
        exec_id: exec.id.clone(),
        container_id: exec.container_id.clone(),
        pid: exec.pid,
        deadline_ns: exec.deadline_ns,
    };
    Some((Message::KeepExec(kept), vec![pidfd]))
}

/// What is to be kept of a container that lives, with copies of its descriptors. One that can't be copied is left out.
pub(crate) fn message(container: &Container) -> (Message, Vec<OwnedFd>) {
    let streams = &container.streams;
    let stdin = streams.stdin.as_ref().filter(|_| container.record.plan.stdin != Stdin::Once);
    let copy = |fd: &OwnedFd| fd.as_fd().try_clone_to_owned().ok();
    let process = match &container.inherited {
        Some(pidfd) => copy(pidfd),
        None => container.record.process.and_then(Birth::open),
    };
    let all = [
        (Kept::Process, process),
        (Kept::Stdin, stdin.and_then(copy)),
        (Kept::Stdout, streams.stdout.as_ref().and_then(copy)),
        (Kept::Stderr, streams.stderr.as_ref().and_then(copy)),
        (Kept::Console, streams.console.as_ref().and_then(copy)),
    ];
    let (kept, fds) = all.into_iter().filter_map(|(kept, fd)| Some((kept, fd?))).unzip();
    (Message::Keep { container_id: container.id().to_owned(), kept }, fds)
}
