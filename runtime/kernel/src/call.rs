//! How a raw system call's answer is read.

use rustix::io::{Errno, Result};

/// -1 means errno; anything else is the answer.
pub(crate) fn answer(value: libc::c_long) -> Result<libc::c_long> {
    if value >= 0 { Ok(value) } else { Err(last()) }
}

/// The calling thread's errno.
pub(crate) fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
