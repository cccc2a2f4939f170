//! Terminals on the command line: handed to whoever listens at `--console-socket`, or joined to our own.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::Error;

/// A terminal needs somebody to hold its master, and a socket without a terminal would wait for ever.
pub(crate) fn check(terminal: bool, detached: bool, socket: Option<&Path>) -> Result<(), Error> {
    match (terminal, socket) {
        (false, Some(_)) => Err(Error::Usage("--console-socket is for a process with a terminal".into())),
        (true, Some(_)) if !detached => Err(Error::Usage(
            "--console-socket is for a detached process: in the foreground its terminal is joined to ours"
                .into(),
        )),
        (true, None) if detached => {
            Err(Error::Usage("a detached process with a terminal needs --console-socket".into()))
        }
        _ => Ok(()),
    }
}

/// As runc does: the master by SCM_RIGHTS, and its name as the data.
pub(crate) fn send(socket: &Path, master: &OwnedFd) -> Result<(), Error> {
    send_as("sending the terminal to", socket, master, b"/dev/ptmx")
}

/// One descriptor, and a name for it.
pub(crate) fn send_as(doing: &'static str, socket: &Path, fd: &OwnedFd, name: &[u8]) -> Result<(), Error> {
    let at = |e| Error::io(doing, socket.display().to_string(), e);
    let stream = UnixStream::connect(socket).map_err(at)?;
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(&stream, &[IoSlice::new(name)], &mut control, SendFlags::NOSIGNAL).map_err(|e| at(e.into()))?;
    Ok(())
}

/// Our own terminal in raw mode; as it was when dropped.
pub(crate) struct Raw(Option<Termios>);

impl Raw {
    pub(crate) fn enter() -> Raw {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return Raw(None);
        }
        let Ok(before) = tcgetattr(stdin) else { return Raw(None) };
        let mut raw = before.clone();
        raw.make_raw();
        // What cannot be made raw stays cooked, and is usable.
        let _ = tcsetattr(stdin, OptionalActions::Now, &raw);
        Raw(Some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Our terminal's size becomes the container's.
pub(crate) fn copy_size(master: &OwnedFd) {
    if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
        let _ = tcsetwinsize(master, size);
    }
}
