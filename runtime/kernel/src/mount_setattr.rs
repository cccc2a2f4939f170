//! mount_setattr(2), which rustix does not have yet.

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Result;

use crate::call::answer;

/// `struct mount_attr` of linux/mount.h, first version (Linux 5.12).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    pub set: u64,
    pub clear: u64,
    /// One of `propagation`, or 0 to leave it.
    pub propagation: u64,
    /// With `MOUNT_ATTR_IDMAP`: a user namespace.
    pub userns_fd: u64,
}

/// Bits of `MountAttr::set` and `clear`.
pub mod mount_attr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    pub const ATIME: u64 = 0x70;
    pub const RELATIME: u64 = 0x0;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const IDMAP: u64 = 0x10_0000;
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Values of `MountAttr::propagation`.
pub mod propagation {
    pub const UNBINDABLE: u64 = 1 << 17;
    pub const PRIVATE: u64 = 1 << 18;
    pub const SLAVE: u64 = 1 << 19;
    pub const SHARED: u64 = 1 << 20;
}

/// Which mounts a change reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    One,
    Recursive,
}

/// Changes the mount that `fd` is.
///
/// # Errors
/// Whatever mount_setattr(2) says.
pub fn mount_setattr(fd: BorrowedFd<'_>, depth: Depth, attr: &MountAttr) -> Result<()> {
    call(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH, depth, attr)
}

/// Changes the mount at a path of ours.
///
/// # Errors
/// Whatever mount_setattr(2) says.
pub fn mount_setattr_at(path: &CStr, depth: Depth, attr: &MountAttr) -> Result<()> {
    call(libc::AT_FDCWD, path, 0, depth, attr)
}

fn call(dir: i32, path: &CStr, flags: i32, depth: Depth, attr: &MountAttr) -> Result<()> {
    let flags = if depth == Depth::Recursive { flags | libc::AT_RECURSIVE } else { flags };
    // SAFETY: wrong only if the size were larger than what `attr` points to.
    let value = unsafe {
        libc::syscall(libc::SYS_mount_setattr, dir, path.as_ptr(), flags, attr, size_of::<MountAttr>())
    };
    answer(value).map(drop)
}
