//! How a monitor is found: monitor.sock to talk to it, and monitor.lock so that there is one.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use conmon_protocol::RefusalKind;
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen as listen_on, socket_with,
};

use crate::error::{Error, Named as _};
use crate::journal::Journal;
use crate::stage::Stage;
use crate::stdio;

const BACKLOG: i32 = 16;

/// Held for life. A second monitor of the same pod would steal its streams. A lock of the process, not of the open file
/// (flock(2)), which a child cloned in the moment of our death would hold on.
pub(crate) fn lock(pod_dir: &Path) -> Result<OwnedFd, Error> {
    let path = pod_dir.join("monitor.lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).named("opening", &path)?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::AGAIN | Errno::ACCESS) => {
            let message = format!("another monitor holds {}", path.display());
            Err(Error::refused(RefusalKind::Exists, message))
        }
        Err(errno) => Err(errno).named("locking", &path),
    }
}

/// Listens at a temporary name and renames it, so that a daemon never finds a socket nobody listens at. The file is
/// 0600 from the beginning: a socket's mode is what the umask leaves at bind. It is bound through the directory's
/// descriptor, since a pod's path may be longer than the 107 bytes of unix(7).
pub(crate) fn listen(pod_dir: &Path) -> Result<OwnedFd, Error> {
    let (path, new) = (pod_dir.join("monitor.sock"), pod_dir.join("monitor.sock.new"));
    stdio::remove(&new)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).named("making", &path)?;
    let dir_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(pod_dir, dir_flags, Mode::empty()).named("opening", pod_dir)?;
    let short = format!("/proc/self/fd/{}/monitor.sock.new", dir.as_raw_fd());
    let address = SocketAddrUnix::new(short).named("binding", &path)?;
    let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = bind(&socket, &address);
    rustix::process::umask(umask);
    bound.named("binding", &path)?;
    listen_on(&socket, BACKLOG).named("listening at", &path)?;
    rustix::fs::rename(&new, &path).named("naming", &path)?;
    Ok(socket)
}

/// The last of a monitor's own files.
pub(crate) fn unmake(pod_dir: &Path, lock: OwnedFd) -> Result<(), Error> {
    stdio::remove(&Stage::path(pod_dir))?;
    stdio::remove(&pod_dir.join("monitor.sock"))?;
    stdio::remove(&pod_dir.join("monitor.lock"))?;
    drop(lock);
    Journal::open(pod_dir).remove();
    Ok(())
}
