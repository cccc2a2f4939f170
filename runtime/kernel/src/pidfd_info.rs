//! How a process ended, asked of its pidfd: ioctl PIDFD_GET_INFO with PIDFD_INFO_EXIT (Linux 6.15).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `struct pidfd_info` of linux/pidfd.h, first version, 64 bytes; the kernel takes its size from the request.
#[repr(C)]
#[derive(Debug, Default)]
struct Info {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)` for that size.
const PIDFD_GET_INFO: libc::c_ulong = 3 << 30 | 64 << 16 | 0xff << 8 | 11;

/// The wait status of a process that has been reaped, by whomever; `None` while it has not.
///
/// # Errors
/// ENOTTY or EINVAL from a kernel that is too old, ESRCH when the pidfd was opened too late.
pub fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut info = Info { mask: PIDFD_INFO_EXIT, ..Info::default() };
    // SAFETY: the request number says 64 bytes, and `Info` is 64 bytes of plain numbers that we own.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}

const _: () = assert!(size_of::<Info>() == 64);
