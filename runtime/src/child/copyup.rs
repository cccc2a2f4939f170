//! `tmpcopyup`: a tmpfs that begins with what is in the directory it covers.
//!
//! By descriptor and without following links, so that nothing outside the directory is read. Owners, modes,
//! times and extended attributes come along; two names of one file become two files.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, mkdirat, mknodat, openat, readlinkat, statat,
    symlinkat, utimensat,
};
use rustix::io::{Errno, Result};

/// Directories below directories; a descriptor is held for each.
const MAX_DEPTH: u32 = 200;
const CHUNK: usize = 64 << 10;
/// XATTR_LIST_MAX and XATTR_SIZE_MAX.
const MAX_XATTR: usize = 64 << 10;

/// The contents of `from`, and what it is itself, into the root of the new file system `to`.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let (from, to) = (open_dir(from, c".")?, open_dir(to, c".")?);
    directory(&from, &to, MAX_DEPTH)
}

fn open_dir(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

fn directory(from: &OwnedFd, to: &OwnedFd, depth: u32) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or(Errno::LOOP)?;
    let stat = fstat(from)?;
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from, to, name, depth)?;
        }
    }
    // Last, since filling it has changed its times, and its mode may forbid to.
    attributes(from, to)?;
    own(to, &stat)
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: u32) -> Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            directory(&open_dir(from.as_fd(), name)?, &open_dir(to.as_fd(), name)?, depth)
        }
        FileType::RegularFile => file(from, to, name),
        FileType::Symlink => {
            symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
            own_name(to, name, &stat)
        }
        kind => {
            mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode & 0o7777), stat.st_rdev)?;
            own_name(to, name, &stat)
        }
    }
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<()> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = openat(from, name, read, Mode::empty())?;
    let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(to, name, new, Mode::from_raw_mode(0o600))?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = rustix::io::read(&source, &mut chunk)?;
        if length == 0 {
            break;
        }
        let mut rest = &chunk[..length];
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&target, rest)?..];
        }
    }
    attributes(&source, &target)?;
    own(&target, &fstat(&source)?)
}

/// The owner first: a change of it takes set-user-ID away.
fn own(file: &OwnedFd, stat: &Stat) -> Result<()> {
    fchown(file, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(file, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    futimens(file, &times(stat))
}

fn own_name(dir: &OwnedFd, name: &CStr, stat: &Stat) -> Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    utimensat(dir, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec: i64, nanoseconds: u64| Timespec { tv_sec, tv_nsec: nanoseconds as _ };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Those that the tmpfs of this kernel takes (`user.` since Linux 6.6).
fn attributes(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let mut names = vec![0_u8; MAX_XATTR];
    let length = match flistxattr(from, &mut names[..]) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
        other => other?,
    };
    let mut value = vec![0_u8; MAX_XATTR];
    for name in names[..length].split_inclusive(|&byte| byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::INVAL)?;
        let length = fgetxattr(from, name, &mut value[..])?;
        match fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
