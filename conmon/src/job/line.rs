//! How a child of the monitor talks with it: a word a packet.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use conmon_protocol::{Refusal, Seen};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Named as _};
use crate::handler::{Entered, Made};

/// No word is longer: what is seen at a hundred paths, each as long as may be, is a third of it.
const MAX_WORD: usize = 1 << 20;

/// What a child says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// Next it asks for this path; after the last comes the making.
    At(usize),
    Seen(Vec<Seen>),
    /// The pidfd rides with it, and the terminal's master if there is one.
    Made {
        pid: i32,
        cgroup: Option<String>,
        owns_pid_namespace: bool,
        warnings: Vec<String>,
    },
    Done,
    Failed(Refusal),
}

/// The child has ended, or talks nonsense.
#[derive(Debug)]
pub(crate) struct Silent;

impl Word {
    pub(crate) fn of(made: &Made) -> Word {
        Word::Made {
            pid: made.process.pid,
            cgroup: made.cgroup.clone(),
            owns_pid_namespace: made.owns_pid_namespace,
            warnings: made.process.warnings.clone(),
        }
    }

    /// Of a process in a container that is there.
    pub(crate) fn entered(process: &Entered) -> Word {
        let warnings = process.warnings.clone();
        Word::Made { pid: process.pid, cgroup: None, owns_pid_namespace: false, warnings }
    }

    /// What was made, with the descriptors that rode with the word.
    pub(crate) fn made(self, fds: Vec<OwnedFd>) -> Option<Made> {
        let Word::Made { pid, cgroup, owns_pid_namespace, warnings } = self else { return None };
        let mut fds = fds.into_iter();
        let process = Entered { pid, pidfd: fds.next()?, console: fds.next(), warnings };
        Some(Made { process, cgroup, owns_pid_namespace })
    }
}

pub(super) fn lines() -> Result<(OwnedFd, OwnedFd), Error> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    pair.named("making a socket pair for", "a child")
}

pub(super) fn say(line: &OwnedFd, word: &Word, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(word).map_err(|_| Errno::INVAL)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(line, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

pub(super) fn receive(line: &OwnedFd) -> Result<Option<(Word, Vec<OwnedFd>)>, Silent> {
    let mut bytes = vec![0; MAX_WORD];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = match recvmsg(line, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(received) if received.bytes > 0 => received.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Ok(_) | Err(_) => return Err(Silent),
    };
    let fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    let fds = fds.collect();
    let word = serde_json::from_slice(&bytes[..received]).map_err(|_| Silent)?;
    Ok(Some((word, fds)))
}
