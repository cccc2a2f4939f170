//! Places in the container's root: found by openat2 under the root's descriptor, and made there when missing.
//!
//! A path can never lead out of the root, nor through a magic link of /proc; a symbolic link of the image means
//! what it would mean inside.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat};
use rustix::io::{Errno, Result};

/// What a missing place becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dir,
    File,
}

/// May the last and other parts be symbolic links?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    Follow,
    Refuse,
}

/// Links in a row before we call it a loop, as the kernel does.
const MAX_LINKS: usize = 40;
const FOUND: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

pub(super) fn find(root: BorrowedFd<'_>, path: &CStr, links: Links) -> Result<OwnedFd> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let path = if path.is_empty() { c"." } else { path };
    loop {
        match openat2(root, path, FOUND, Mode::empty(), resolve) {
            // A rename somewhere on the machine made the kernel unsure of "..": it asks to be asked again.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Finds what is on the root's own file system, beyond no mount; EXDEV otherwise.
pub(super) fn find_on_root(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    openat2(root, path, FOUND, Mode::empty(), resolve)
}

/// Finds it, or makes it and the directories above it.
pub(super) fn find_or_make(root: BorrowedFd<'_>, path: &CStr, kind: Kind, links: Links) -> Result<OwnedFd> {
    find_or_make_as(root, path, || Ok(kind), links)
}

/// The same; what kind it is to be is asked only when it is missing.
pub(super) fn find_or_make_as(
    root: BorrowedFd<'_>,
    path: &CStr,
    kind: impl Fn() -> Result<Kind>,
    links: Links,
) -> Result<OwnedFd> {
    match find(root, path, links) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let kind = kind()?;
    match make_last(root, path, kind, links) {
        Err(Errno::NOENT | Errno::EXIST) => make(root, path, kind, links),
        other => other,
    }
}

/// The usual case: only the last part is missing. EEXIST: a dangling link has its name.
fn make_last(root: BorrowedFd<'_>, path: &CStr, kind: Kind, links: Links) -> Result<OwnedFd> {
    let bytes = path.to_bytes();
    let at = bytes.iter().rposition(|&byte| byte == b'/');
    let (dir, name) = at.map_or((&b""[..], bytes), |at| (&bytes[..at], &bytes[at + 1..]));
    let dir = find(root, &CString::new(dir).map_err(|_| Errno::INVAL)?, links)?;
    let name = OsStr::from_bytes(name);
    make_part(&dir, name, kind)?;
    openat(&dir, name, FOUND | OFlags::NOFOLLOW, Mode::empty())
}

/// The rare case: walks part by part, following links by hand, since the kernel cannot make what is missing
/// behind a dangling one. `done` never holds a link, so its `..` are what they look like.
fn make(root: BorrowedFd<'_>, path: &CStr, kind: Kind, links: Links) -> Result<OwnedFd> {
    let mut done = PathBuf::new();
    let mut todo = parts(Path::new(OsStr::from_bytes(path.to_bytes())));
    let mut at = find(root, c".", Links::Refuse)?;
    let mut followed = 0;
    while let Some(part) = todo.pop() {
        if part == ".." {
            done.pop();
            at = reopen(root, &done)?;
            continue;
        }
        match readlinkat(&at, part.as_os_str(), Vec::new()) {
            Ok(target) => {
                followed += 1;
                if links == Links::Refuse || followed > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    done = PathBuf::new();
                    at = find(root, c".", Links::Refuse)?;
                }
                todo.extend(parts(&target));
            }
            // EINVAL: it is there and no link. ENOENT: it is not there.
            Err(Errno::INVAL | Errno::NOENT) => {
                at = enter(&at, &part, if todo.is_empty() { kind } else { Kind::Dir })?;
                done.push(part);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(at)
}

/// In reverse, to be popped.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

fn reopen(root: BorrowedFd<'_>, done: &Path) -> Result<OwnedFd> {
    let path = CString::new(done.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    find(root, &path, Links::Refuse)
}

/// Opens a part that is no link, making it first when it is missing.
fn enter(at: &OwnedFd, part: &OsStr, kind: Kind) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = if kind == Kind::Dir { OFlags::DIRECTORY } else { OFlags::empty() };
    match openat(at, part, flags | dir, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    match make_part(at, part, kind) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    openat(at, part, flags | dir, Mode::empty())
}

fn make_part(at: &OwnedFd, part: &OsStr, kind: Kind) -> Result<()> {
    match kind {
        Kind::Dir => mkdirat(at, part, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
            openat(at, part, new, Mode::from_raw_mode(0o644)).map(drop)
        }
    }
}

/// The kind that a mount's source wants its mount point to be.
pub(super) fn kind_of(source: BorrowedFd<'_>) -> Result<Kind> {
    let stat = fstat(source)?;
    let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
    Ok(if is_dir { Kind::Dir } else { Kind::File })
}

/// Is it inside a procfs?
pub(crate) fn is_on_proc(place: impl AsFd) -> Result<bool> {
    rustix::fs::fstatfs(place).map(|fs| fs.f_type == rustix::fs::PROC_SUPER_MAGIC)
}
