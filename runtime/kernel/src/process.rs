//! What a process sets for itself before it becomes another program.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Result;

use crate::call::answer;

/// close_range(2) with CLOSE_RANGE_CLOEXEC: everything from `first` on closes at exec. Nothing is closed now, so
/// that every descriptor keeps its owner.
///
/// # Errors
/// EINVAL from a kernel older than 5.11.
pub fn close_range_cloexec(first: u32) -> Result<()> {
    let flag = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: only flags of descriptors change.
    answer(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flag) }).map(drop)
}

/// dup3(2) onto a number below 3, or one that the caller knows to be nobody's.
///
/// # Errors
/// Whatever dup3(2) says.
pub fn dup_onto(fd: BorrowedFd<'_>, number: i32) -> Result<()> {
    if fd.as_raw_fd() == number {
        // dup3 refuses this; what is wanted is that it stays open at exec.
        // SAFETY: F_SETFD takes a number.
        return answer(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }.into()).map(drop);
    }
    // SAFETY: wrong only if `number` had an owner who would be surprised; 0, 1 and 2 have none.
    answer(unsafe { libc::dup3(fd.as_raw_fd(), number, 0) }.into()).map(drop)
}

/// No signal blocked, and those at their defaults that are said to be ignored, bit 0 for signal 1: ignoring survives
/// exec, while handlers end with it.
pub fn reset_signals(ignored: u64) {
    for signal in (1..=64).filter(|signal| ignored & 1 << (signal - 1) != 0) {
        // SAFETY: SIG_DFL is no handler of ours that could run.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let none: u64 = 0;
    // SAFETY: the kernel reads the 8 bytes that the last argument says, and `none` has 8.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<u64>(),
            8_usize,
        )
    };
}

/// prctl(PR_SET_DUMPABLE, 0): no ptrace, no /proc/PID/fd for those who are not root outside.
///
/// # Errors
/// Whatever prctl(2) says.
pub fn set_undumpable() -> Result<()> {
    // SAFETY: takes numbers only.
    answer(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 0_u64, 0_u64, 0_u64, 0_u64) })
        .map(drop)
}

/// prctl(PR_SET_KEEPCAPS): permitted capabilities survive the change to a user other than 0.
///
/// # Errors
/// Whatever prctl(2) says.
pub fn set_keep_caps(keep: bool) -> Result<()> {
    // SAFETY: takes numbers only.
    answer(unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_KEEPCAPS, u64::from(keep), 0_u64, 0_u64, 0_u64)
    })
    .map(drop)
}

/// prctl(PR_SET_NO_NEW_PRIVS).
///
/// # Errors
/// Whatever prctl(2) says.
pub fn set_no_new_privs() -> Result<()> {
    // SAFETY: takes numbers only.
    answer(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1_u64, 0_u64, 0_u64, 0_u64) })
        .map(drop)
}

/// personality(2).
///
/// # Errors
/// Whatever personality(2) says.
pub fn personality(persona: u32) -> Result<()> {
    // SAFETY: takes a number.
    answer(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(persona)) }).map(drop)
}
