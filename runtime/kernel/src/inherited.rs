//! Descriptors that a process was born with, known by number from its command line.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// Takes over an inherited descriptor, once, and closes it on exec. 0, 1 and 2 belong to the standard library.
///
/// # Errors
/// EBADF when nothing is open there, and for 0, 1 and 2.
pub fn take_inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_SETFD takes a number and touches no memory of ours.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, as fcntl just said, and was opened by our parent; wrong only if called twice.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
