//! A pod's network namespace, as far as this crate enters it: to make sockets that others connect, and to see whether it is there.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// `f_type` of a pinned namespace, from the kernel's `magic.h`.
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// A TCP socket that connects to `address` as one of a process of the namespace would, and does not block. It is made in a
/// thread of its own, because a thread that has joined another namespace must never serve anybody else.
///
/// # Errors
/// When the namespace cannot be joined, or has no such sockets.
pub fn socket(netns: &Path, address: SocketAddr) -> io::Result<OwnedFd> {
    let namespace = std::fs::File::open(netns)?;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let join_and_make = move || {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(socket_with(family, SocketType::STREAM, flags, None)?)
    };
    let thread = std::thread::Builder::new().name("netns-socket".into()).spawn(join_and_make)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes a socket panicked")))
}

/// Whether a namespace is pinned at this path. After a reboot or a lost mount there is none, or a plain file.
pub(crate) fn is_pinned(netns: &Path) -> bool {
    rustix::fs::statfs(netns).is_ok_and(|fs| fs.f_type == NSFS_MAGIC)
}
