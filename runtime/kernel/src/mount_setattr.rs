//! mount_setattr(2) and open_tree_attr(2), which rustix does not have yet.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, Result};
use rustix::mount::{OpenTreeFlags, open_tree};

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

/// open_tree_attr(2), the same number on every architecture.
pub(crate) const SYS_OPEN_TREE_ATTR: libc::c_long = 467;

/// Clones the mount at a path as a detached one and changes the clone: one call since Linux 6.15, two before.
///
/// # Errors
/// Whatever open_tree(2) or mount_setattr(2) says.
pub fn open_tree_attr(dir: impl AsFd, path: &CStr, depth: Depth, attr: &MountAttr) -> Result<OwnedFd> {
    static IS_MISSING: AtomicBool = AtomicBool::new(false);
    let empty = if path.is_empty() { OpenTreeFlags::AT_EMPTY_PATH } else { OpenTreeFlags::empty() };
    let deep = if depth == Depth::Recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | empty | deep;
    let dir = dir.as_fd();
    if !IS_MISSING.load(Ordering::Relaxed) {
        match call_open_tree_attr(dir, path, flags, attr) {
            // A sandbox around us that does not know the call may say the second.
            Err(Errno::NOSYS | Errno::PERM) => IS_MISSING.store(true, Ordering::Relaxed),
            other => return other,
        }
    }
    let tree = open_tree(dir, path, flags)?;
    mount_setattr(tree.as_fd(), depth, attr)?;
    Ok(tree)
}

fn call_open_tree_attr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: OpenTreeFlags,
    attr: &MountAttr,
) -> Result<OwnedFd> {
    let (dir, flags, size) = (dir.as_raw_fd(), flags.bits(), size_of::<MountAttr>());
    // SAFETY: wrong only if the size were larger than what `attr` points to; the path is a C string.
    let value = unsafe { libc::syscall(SYS_OPEN_TREE_ATTR, dir, path.as_ptr(), flags, attr, size) };
    let fd = answer(value)? as i32;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
