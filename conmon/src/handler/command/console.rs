//! How a runtime hands a terminal's master over: it connects to a socket and sends the descriptor
//! (runc's docs/terminals.md, "detached new terminal").

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept_with, bind, listen, recvmsg, socket_with,
};

use crate::error::{Error, Named as _};
use crate::stdio;

const NAME: &str = "runtime.console";
/// The runtime has ended by then, so it has connected or never will.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

#[derive(Debug)]
pub(super) struct Console {
    dir: OwnedFd,
    path: PathBuf,
    listener: OwnedFd,
}

impl Console {
    pub(super) fn listen(container_dir: &Path) -> Result<Console, Error> {
        let path = container_dir.join(NAME);
        stdio::remove(&path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(container_dir, flags, Mode::empty()).named("opening", container_dir)?;
        let listener = listen_in(&dir).named("listening at", &path)?;
        Ok(Console { dir, path, listener })
    }

    /// For the runtime. By our descriptor, since a socket's path may have 107 bytes only (unix(7)).
    pub(super) fn path(&self) -> PathBuf {
        let pid = rustix::process::getpid();
        format!("/proc/{pid}/fd/{}/{NAME}", self.dir.as_raw_fd()).into()
    }

    pub(super) fn receive(self) -> Result<OwnedFd, Error> {
        let master = receive(&self.listener).named("receiving the terminal at", &self.path);
        stdio::remove(&self.path)?;
        master
    }
}

fn listen_in(dir: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&listener, &SocketAddrUnix::new(format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()))?)?;
    listen(&listener, 1)?;
    Ok(listener)
}

fn receive(listener: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    await_input(listener)?;
    let socket = accept_with(listener, SocketFlags::CLOEXEC)?;
    await_input(&socket)?;
    let mut name = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&socket, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    fds.next().ok_or(Errno::BADMSG)
}

fn await_input(socket: &OwnedFd) -> rustix::io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)], Some(&PATIENCE))? {
        0 => Err(Errno::TIMEDOUT),
        _ => Ok(()),
    }
}
