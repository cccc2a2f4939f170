//! NOTIFY_SOCKET, as runc has it: who started us wants to hear by sd_notify(3) when the container is ready. The container
//! gets a socket of its own, and what it says there of its readiness is passed on, with the number of the process that
//! stands for it: ours while we wait for its end, else its init's.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use runtime::Notify;
use runtime::spec::{Mount, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, bind, connect, recv, send, sendmsg, socket_with,
};

use super::{Error, Global};

/// runc's names for both, which images may know.
const PLACE: &str = "/run/notify";
const SOCKET: &str = "notify.sock";
/// A state is a line or two.
const MAX_MESSAGE: usize = 4096;
/// How long systemd may take to read what we have sent, before we end (sd_notify_barrier(3)).
const BARRIER_S: i64 = 30;

/// For a container that is about to be made: room for its socket in its configuration, where somebody wants to hear.
pub(crate) fn announce(global: &Global, id: &str, spec: &mut Spec) -> Result<Notify, Error> {
    if Host::of_environment().is_none() {
        return Ok(Notify::No);
    }
    let dir = global.runtime.notify_dir(id)?;
    let source = std::path::absolute(&dir).map_err(|e| Error::io("finding", dir.display().to_string(), e))?;
    spec.mounts.push(Mount {
        destination: PLACE.into(),
        source: Some(source),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec(),
        ..Mount::default()
    });
    if let Some(process) = &mut spec.process {
        process.env.push(format!("NOTIFY_SOCKET={PLACE}/{SOCKET}"));
    }
    Ok(Notify::Yes)
}

/// For one that is about to be started. Nobody to tell is worth a warning, and no reason not to start it.
pub(crate) fn listen(global: &Global, id: &str) -> Option<Proxy> {
    let host = Host::of_environment()?;
    let dir = global.runtime.notify_dir(id).ok()?;
    host.listen(&dir).unwrap_or_else(|error| {
        global.log.warn(&error.to_string());
        None
    })
}

/// For one that was started and that nobody waits for: until it says that it is ready, or ends.
pub(crate) fn wait(global: &Global, proxy: Option<&Proxy>, init: BorrowedFd<'_>, pid: i32) {
    if let Some(Err(error)) = proxy.map(|proxy| proxy.wait(init, pid)) {
        global.log.warn(&format!("telling NOTIFY_SOCKET: {error}"));
    }
}

/// Who wants to hear of it.
struct Host(OsString);

impl Host {
    fn of_environment() -> Option<Host> {
        std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()).map(Host)
    }

    /// Listens for the container, which has not been started yet. None: it was made without a place for the socket.
    fn listen(&self, dir: &Path) -> Result<Option<Proxy>, Error> {
        let Ok(dir_fd) = File::open(dir) else { return Ok(None) };
        let at = |e: Errno| Error::io("listening at", dir.join(SOCKET).display().to_string(), e);
        // By descriptor: an address holds 107 bytes, and an id alone may have 255.
        let place = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir_fd.as_raw_fd()));
        // What a start left that failed.
        let _ = fs::remove_file(&place);
        let heard = datagrams().map_err(at)?;
        SocketAddrUnix::new(&place).and_then(|address| bind(&heard, &address)).map_err(at)?;
        // Whoever the program runs as.
        fs::set_permissions(&place, fs::Permissions::from_mode(0o777))
            .map_err(|e| Error::io("opening to all", dir.join(SOCKET).display().to_string(), e))?;
        let told = self.connect().map_err(|e| {
            Error::io("connecting to", format!("{} (NOTIFY_SOCKET)", self.0.to_string_lossy()), e)
        })?;
        Ok(Some(Proxy { heard, told }))
    }

    fn connect(&self) -> rustix::io::Result<OwnedFd> {
        let socket = datagrams()?;
        connect(&socket, &address(&self.0)?)?;
        Ok(socket)
    }
}

fn datagrams() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

/// A path, or an abstract name behind an `@`.
fn address(name: &OsStr) -> rustix::io::Result<SocketAddrUnix> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name),
        None => SocketAddrUnix::new(name),
    }
}

/// Between a container and who started us.
pub(crate) struct Proxy {
    heard: OwnedFd,
    told: OwnedFd,
}

impl Proxy {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }

    /// Passes on what is there if it says that the container is ready, and answers whether it did.
    pub(crate) fn pass_on(&self, main_pid: i32) -> rustix::io::Result<bool> {
        let mut message = [0; MAX_MESSAGE];
        let (length, _) = recv(&self.heard, &mut message[..], RecvFlags::DONTWAIT)?;
        let Some(ready) = readiness(&message[..length]) else { return Ok(false) };
        self.tell(&[ready, b"\n"].concat())?;
        self.tell(format!("MAINPID={main_pid}\n").as_bytes())?;
        Ok(true)
    }

    /// Until the container is ready, or has ended; then until systemd knows: it asks who has sent a message, and cannot
    /// of one that has ended.
    fn wait(&self, init: BorrowedFd<'_>, pid: i32) -> rustix::io::Result<()> {
        loop {
            let mut fds =
                [PollFd::new(&self.heard, PollFlags::IN), PollFd::from_borrowed_fd(init, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                other => other.map(drop)?,
            }
            let (said, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if said && self.pass_on(pid)? {
                return self.barrier();
            }
            if ended && !said {
                return Ok(());
            }
        }
    }

    fn tell(&self, text: &[u8]) -> rustix::io::Result<()> {
        send(&self.told, text, SendFlags::NOSIGNAL).map(drop)
    }

    fn barrier(&self) -> rustix::io::Result<()> {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let fds = [theirs.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.told, &[IoSlice::new(b"BARRIER=1")], &mut control, SendFlags::NOSIGNAL)?;
        drop(theirs);
        let time = Timespec { tv_sec: BARRIER_S, tv_nsec: 0 };
        // Who does not know of barriers keeps the descriptor; nothing is lost but the time.
        poll(&mut [PollFd::new(&ours, PollFlags::IN)], Some(&time)).map(drop)
    }
}

/// The line that says so.
fn readiness(message: &[u8]) -> Option<&[u8]> {
    message.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY="))
}

#[cfg(test)]
mod tests {
    use super::readiness;

    #[test]
    fn only_readiness_is_passed_on() {
        assert_eq!(readiness(b"STATUS=almost\nREADY=1\nMAINPID=7"), Some(&b"READY=1"[..]));
        assert_eq!(readiness(b"STATUS=READY=1"), None);
        assert_eq!(readiness(b""), None);
    }
}
