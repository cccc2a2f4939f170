//! pidfd_send_signal(2) with any number: rustix knows signals by name, and real-time ones have none.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Result;

use crate::call::answer;

/// 0 only asks whether one could.
///
/// # Errors
/// ESRCH when it has ended and been reaped, EINVAL for a number that is no signal.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo makes the kernel write its own; nothing else is a pointer.
    answer(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0_u32) })
        .map(drop)
}
