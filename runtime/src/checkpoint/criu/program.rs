//! How a child of ours becomes criu.

use std::ffi::CString;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use kernel::CStringArray;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};

use crate::Error;

/// In the child: nothing of ours but the socket, and signals as they are by default.
pub(super) fn become_criu(
    socket: &OwnedFd,
    ignored: u64,
    prepare: impl FnOnce() -> rustix::io::Result<()>,
    (candidates, args, env): (&[CString], &CStringArray, &CStringArray),
) {
    kernel::reset_signals(ignored);
    if let Err(errno) = prepare().and_then(|()| own_socket(socket)) {
        complain(&format!("preparing for criu: {errno}"));
        return;
    }
    for candidate in candidates {
        let _ = kernel::execve(candidate, args, env);
    }
}

/// criu opens the folders by the number that they have in whoever made the socket pair: to see those of its own mount
/// namespace it must be itself. The other end goes to the parent, and this one takes the number that criu is told.
fn own_socket(line: &OwnedFd) -> rustix::io::Result<()> {
    let (theirs, own) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let fds = [theirs.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(line, &[IoSlice::new(b"0")], &mut control, SendFlags::NOSIGNAL)?;
    kernel::dup_onto(own.as_fd(), line.as_raw_fd())
}

fn complain(text: &str) {
    let line = format!("berth-runtime: {text}\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}

/// Where it may be; that it is nowhere is said before anything is done.
pub(super) fn candidates(program: &Path) -> Result<Vec<CString>, Error> {
    let missing = |reason: &str| Error::Criu { program: program.to_owned(), reason: reason.to_owned() };
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let places: Vec<PathBuf> = if program.components().count() > 1 {
        vec![program.to_owned()]
    } else {
        std::env::split_paths(&path).map(|dir| dir.join(program)).collect()
    };
    let there: Vec<CString> = places
        .into_iter()
        .filter(|place| place.is_file())
        .filter_map(|place| CString::new(place.into_os_string().into_vec()).ok())
        .collect();
    if there.is_empty() {
        return Err(missing("it is not installed (Debian's package criu), or --criu names another place"));
    }
    Ok(there)
}

pub(super) fn environment() -> Vec<CString> {
    let variable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let mut variable = name.into_vec();
        variable.push(b'=');
        variable.extend(value.into_vec());
        CString::new(variable).ok()
    };
    std::env::vars_os().filter_map(variable).collect()
}
