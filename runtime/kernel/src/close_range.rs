//! close_range(2), for those who own nothing of what it closes, or all of it.

use std::os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _, OwnedFd};

use rustix::io::Result;

use crate::call::answer;

/// Closes everything from `first` on, except these. Only for a program that has just begun and opened nothing yet, and
/// for a child of [`crate::clone3`] that has nothing left to do but wait on them and exec: the owners of the others are
/// in memory that it shares with nobody and never returns to.
///
/// # Errors
/// Whatever close_range(2) says.
pub fn close_all_but<const N: usize>(first: u32, keep: [BorrowedFd<'_>; N]) -> Result<()> {
    close_around(first, &mut keep.map(|fd| fd.as_raw_fd().unsigned_abs()))
}

/// The same, except several.
///
/// # Errors
/// Whatever close_range(2) says.
pub fn close_all_but_these(first: u32, keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    close_around(first, &mut keep)
}

/// In place: a child that has just been cloned makes no new memory.
fn close_around(first: u32, keep: &mut [u32]) -> Result<()> {
    keep.sort_unstable();
    let mut next = first;
    for &mut number in keep {
        if number > next {
            close(next, number - 1)?;
        }
        next = next.max(number + 1);
    }
    close(next, u32::MAX)
}

/// Closes what the caller owns, neighbours in one call: who opened many at a time has them side by side.
pub fn close_together(fds: impl IntoIterator<Item = OwnedFd>) {
    let mut numbers: Vec<u32> = fds.into_iter().map(|fd| fd.into_raw_fd().unsigned_abs()).collect();
    numbers.sort_unstable();
    for run in numbers.chunk_by(|one, next| one + 1 == *next) {
        // It fails only where there is no such call, on Linux before 5.9, which nothing here runs on.
        let _ = close(run[0], run[run.len() - 1]);
    }
}

fn close(first: u32, last: u32) -> Result<()> {
    // SAFETY: wrong only if an owner of one of these lived on, which the callers rule out.
    answer(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) }).map(drop)
}
