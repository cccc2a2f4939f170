//! The listener of a seccomp filter: taken from the process that has loaded it, and sent to the agent at
//! `listenerPath`.
//!
//! The process says the descriptor's number and we fetch it: by then its own calls may already wait for the
//! agent, and of all calls only `write` is promised to be nobody's to judge.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use kernel::Child;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::spec::{OCI_VERSION, Seccomp};
use crate::state::State;

/// An agent that takes nothing for so long is none.
const LONGEST: Duration = Duration::from_secs(10);

/// Where the listener goes, and what the agent is told beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listener {
    path: PathBuf,
    metadata: Option<String>,
}

/// config-linux.md, "The Container Process State".
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'static str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: &'a State,
}

impl Listener {
    /// The profile's; whether it has a rule that needs one was seen when it was compiled.
    pub(crate) fn of(profile: &Seccomp) -> Option<Listener> {
        let path = profile.listener_path.as_ref().filter(|path| !path.is_empty())?;
        Some(Listener { path: path.into(), metadata: profile.listener_metadata.clone() })
    }

    /// Takes descriptor `number` of the process and sends it off, on a connection of its own.
    pub(crate) fn hand_over(&self, process: &Child, number: i32, state: &State) -> Result<(), Error> {
        let at = |e: Errno| {
            let agent = format!("{} (linux.seccomp.listenerPath)", self.path.display());
            Error::step("sending the seccomp listener to", agent, e)
        };
        let listener = pidfd_getfd(&process.pidfd, number, PidfdGetfdFlags::empty()).map_err(at)?;
        let metadata = self.metadata.as_deref().filter(|data| !data.is_empty());
        let told =
            ProcessState { oci_version: OCI_VERSION, fds: ["seccompFd"], pid: process.pid, metadata, state };
        let text = serde_json::to_vec(&told).map_err(|_| at(Errno::INVAL))?;
        self.connect().and_then(|agent| send(&agent, &text, listener.as_fd())).map_err(at)
    }

    fn connect(&self) -> rustix::io::Result<OwnedFd> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(LONGEST))?;
        connect(&socket, &SocketAddrUnix::new(&self.path)?)?;
        Ok(socket)
    }
}

/// The descriptor goes with the first piece.
fn send(agent: &OwnedFd, text: &[u8], listener: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let fds = [listener];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let mut sent = sendmsg(agent, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL)?;
    while sent < text.len() {
        sent += rustix::net::send(agent, &text[sent..], SendFlags::NOSIGNAL)?;
    }
    Ok(())
}
