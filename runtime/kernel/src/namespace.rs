//! setns(2) and unshare(2). The flags are those of `clone_flags`.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Result;

use crate::call::answer;

/// Joins the namespace that `fd` is, or those of the process whose pidfd it is.
///
/// # Errors
/// Whatever setns(2) says.
pub fn setns(fd: BorrowedFd<'_>, flags: u64) -> Result<()> {
    // SAFETY: a number and a descriptor go in; the call touches no memory of ours.
    answer(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), flags as libc::c_int) }).map(drop)
}

/// New namespaces for the calling thread. Only CLONE_NEW* bits reach the kernel: unsharing the descriptor table
/// would take descriptors from under their owners.
///
/// # Errors
/// Whatever unshare(2) says.
pub fn unshare(flags: u64) -> Result<()> {
    use crate::clone::clone_flags as flag;
    let namespaces = flag::NEWTIME
        | flag::NEWNS
        | flag::NEWCGROUP
        | flag::NEWUTS
        | flag::NEWIPC
        | flag::NEWUSER
        | flag::NEWPID
        | flag::NEWNET;
    // SAFETY: namespaces own no memory of ours.
    answer(unsafe { libc::syscall(libc::SYS_unshare, (flags & namespaces) as libc::c_int) }).map(drop)
}
