//! A pod's network namespace, as far as this crate enters it: to connect, and to see whether it is there.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// `f_type` of a pinned namespace, from the kernel's `magic.h`.
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// A connection inside a pod is made at once, refused at once, or goes nowhere.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to `address` as a process of the namespace would. Blocks; the work is done in a thread of
/// its own, because a thread that has joined another namespace must never serve anybody else.
///
/// # Errors
/// When the namespace cannot be joined or nobody answers at the address.
pub fn connect(netns: &Path, address: SocketAddr) -> io::Result<TcpStream> {
    let namespace = std::fs::File::open(netns)?;
    let join_and_connect = move || {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
    };
    let thread = std::thread::Builder::new().name("netns-connect".into()).spawn(join_and_connect)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the connecting thread panicked")))
}

/// Whether a namespace is pinned at this path. After a reboot or a lost mount there is none, or a plain file.
pub(crate) fn is_pinned(netns: &Path) -> bool {
    rustix::fs::statfs(netns).is_ok_and(|fs| fs.f_type == NSFS_MAGIC)
}
