//! seccomp(2) with SECCOMP_SET_MODE_FILTER, and the instruction that its programs are made of.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// One instruction of classic BPF, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SockFilter {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// SECCOMP_FILTER_FLAG_NEW_LISTENER.
const NEW_LISTENER: u32 = 1 << 3;

/// seccomp(2): the calling thread obeys `program` from now on. The descriptor is the listener's, there only
/// when `flags` hold SECCOMP_FILTER_FLAG_NEW_LISTENER.
pub fn seccomp_set_mode_filter(program: &[SockFilter], flags: u32) -> io::Result<Option<OwnedFd>> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let prog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: wrong only if `prog` named more instructions than `program` has, if `SockFilter` differed from
    // the kernel's `sock_filter` (it is repr(C) of the same fields), or if the kernel wrote through `filter`
    // (it copies from it and keeps no pointer).
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            &raw const prog,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = RawFd::try_from(answer).map_err(io::Error::other)?;
    // SAFETY: wrong only if `fd` were not a descriptor just born: with NEW_LISTENER the call answers exactly
    // that, and nobody else has seen it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether seccomp(2) knows all of these flags: without a program it complains of that (EFAULT) only after it has
/// looked at them (seccomp(2), NOTES).
#[must_use]
pub fn seccomp_knows_flags(flags: u32) -> bool {
    let none = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: the null pointer is what the call is to refuse, so nothing is read and no filter is loaded.
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, libc::c_ulong::from(flags), none)
    };
    answer < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
