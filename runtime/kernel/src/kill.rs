//! kill(2) for any signal: the safe crates know no real-time ones, with which systemd is stopped.

use rustix::io::{Errno, Result};

use crate::call::answer;

/// Signals one process.
///
/// # Errors
/// Whatever kill(2) says; EINVAL for the numbers that mean many processes.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    if pid <= 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: two numbers go in; the call touches no memory of ours.
    answer(libc::c_long::from(unsafe { libc::kill(pid, signal) })).map(drop)
}
