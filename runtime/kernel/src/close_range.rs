//! close_range(2), for those who own nothing of what it closes.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Result;

use crate::call::answer;

/// Closes everything from `first` on, except one. Only for a program that has just begun and opened nothing yet, and for
/// a child of [`crate::clone3`] that has nothing left to do but wait on that one and exec: the owners of the others are
/// in memory that it shares with nobody and never returns to.
///
/// # Errors
/// Whatever close_range(2) says.
pub fn close_all_but(first: u32, keep: BorrowedFd<'_>) -> Result<()> {
    let keep = keep.as_raw_fd().unsigned_abs();
    if keep > first {
        close(first, keep - 1)?;
    }
    close(first.max(keep + 1), u32::MAX)
}

fn close(first: u32, last: u32) -> Result<()> {
    // SAFETY: wrong only if an owner of one of these lived on, which the caller rules out.
    answer(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) }).map(drop)
}
