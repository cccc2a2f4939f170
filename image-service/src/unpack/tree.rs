//! The directory a layer grows in. Every path is opened relative to it, by the kernel, confined to it.
//!
//! Only this thread writes here, and the names it hands to `*at` calls are single components that are
//! never followed, so what was checked stays true.

use std::collections::BTreeSet;
use std::rc::Rc;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use super::entry::split;
use super::error::{Error, Refusal, XATTR};
use super::remove;
use super::replaced::Replaced;

/// Overlay's marks; the kernel's Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
/// Directories kept open: archives go through a tree depth first, so few are enough.
const CACHED: usize = 16;
/// Directories that an archive leaves undescribed and that are remembered; honest archives have few.
const MAX_UNDESCRIBED: usize = 4096;
/// As many as the kernel follows in one path.
const MAX_LINKS: usize = 40;

const INSIDE: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

pub(crate) struct Tree {
    root: Rc<OwnedFd>,
    /// The newest last.
    cache: Vec<(Vec<u8>, Rc<OwnedFd>)>,
    /// How many directories were made only because something lay in them.
    pub(crate) implied: u64,
    max_implied: u64,
    /// Those of them that no entry has described since.
    pub(crate) undescribed: BTreeSet<Vec<u8>>,
    /// What made way for later entries.
    pub(super) replaced: Replaced,
}

impl Tree {
    pub(crate) fn new(root: OwnedFd, max_implied: u64) -> Tree {
        let (undescribed, replaced) = (BTreeSet::new(), Replaced::default());
        Tree { root: Rc::new(root), cache: Vec::new(), implied: 0, max_implied, undescribed, replaced }
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the directory that `path` lies in, made where it is missing.
    pub(crate) fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Error> {
        let (parent, _) = split(path);
        self.directory(parent, path)
    }

    /// Opens a directory, made where it is missing. `entry` is for the error.
    fn directory(&mut self, path: &[u8], entry: &[u8]) -> Result<Rc<OwnedFd>, Error> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some(at) = self.cache.iter().rposition(|(known, _)| known == path) {
            let hit = self.cache.remove(at);
            self.cache.push(hit);
        } else {
            let opened = self.open_or_make(path, entry)?;
            self.remember(path, opened);
        }
        Ok(self.cache[self.cache.len() - 1].1.clone())
    }

    fn open_or_make(&mut self, path: &[u8], entry: &[u8]) -> Result<OwnedFd, Error> {
        match self.open_directory(path, OFlags::empty()) {
            Ok(opened) => Ok(opened),
            Err(Errno::NOENT | Errno::NOTDIR) => self.walk(path, entry),
            Err(Errno::LOOP) => Err(Error::refused(entry, Refusal::Loop)),
            Err(errno) => Err(Error::step(entry, "openat2")(errno)),
        }
    }

    /// Keeps a directory that was just opened or made.
    pub(crate) fn remember(&mut self, path: &[u8], opened: OwnedFd) {
        if self.cache.len() == CACHED {
            self.cache.remove(0);
        }
        self.cache.push((path.to_vec(), Rc::new(opened)));
    }

    /// Something on a way may have become something else.
    fn forget(&mut self) {
        self.cache.clear();
    }

    pub(crate) fn open_directory(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat2(&self.root, path, DIRECTORY | flags, Mode::empty(), INSIDE)
    }

    /// The slow way to a directory, part by part: makes what is missing, and follows symbolic links whose
    /// target is missing as a container would, from the root of the layer.
    fn walk(&mut self, path: &[u8], entry: &[u8]) -> Result<OwnedFd, Error> {
        let mut todo: Vec<Vec<u8>> = path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect();
        // The way done, by real names: opening it again costs less than a descriptor for each part.
        let mut done: Vec<u8> = Vec::new();
        let mut here = self.root.clone();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    done.truncate(split(&done).0.len());
                    here = self.reopen(&done, entry)?;
                    continue;
                }
                _ => {}
            }
            match self.step(&here, &part, entry)? {
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::refused(entry, Refusal::Loop));
                    }
                    if target.starts_with(b"/") {
                        done.clear();
                        here = self.root.clone();
                    }
                    todo.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
                }
                Step::Directory(next) => {
                    extend(&mut done, &part);
                    here = Rc::new(next);
                }
                Step::Made(next) => {
                    extend(&mut done, &part);
                    here = Rc::new(next);
                    self.made(&done)?;
                }
            }
        }
        rustix::io::fcntl_dupfd_cloexec(&here, 0).map_err(Error::step(entry, "dup"))
    }

    fn reopen(&self, path: &[u8], entry: &[u8]) -> Result<Rc<OwnedFd>, Error> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        self.open_directory(path, OFlags::empty()).map(Rc::new).map_err(Error::step(entry, "openat2"))
    }

    /// Counts a directory that no entry asked for: they cost as much as those that were asked for.
    fn made(&mut self, path: &[u8]) -> Result<(), Error> {
        self.implied += 1;
        if self.implied > self.max_implied {
            return Err(Error::TooMany(self.max_implied));
        }
        if self.undescribed.len() < MAX_UNDESCRIBED {
            self.undescribed.insert(path.to_vec());
        }
        Ok(())
    }

    /// One part of the slow way, from an open directory to the next.
    fn step(&mut self, here: &OwnedFd, part: &[u8], entry: &[u8]) -> Result<Step, Error> {
        let file_type = match rustix::fs::statat(here, part, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_whiteout(&stat) => {
                // Below lies something that is hidden; what is made above it must not show it again.
                rustix::fs::unlinkat(here, part, AtFlags::empty()).map_err(Error::step(entry, "unlinkat"))?;
                let made = self.imply(here, part, entry)?;
                set_opaque(made.as_fd(), entry)?;
                return Ok(Step::Made(made));
            }
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(Errno::NOENT) => return self.imply(here, part, entry).map(Step::Made),
            Err(errno) => return Err(Error::step(entry, "fstatat")(errno)),
        };
        match file_type {
            FileType::Directory => {
                open_child(here, part).map(Step::Directory).map_err(Error::step(entry, "openat"))
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(here, part, Vec::new())
                    .map_err(Error::step(entry, "readlinkat"))?;
                Ok(Step::Link(target.into_bytes()))
            }
            _ => Err(Error::refused(entry, Refusal::NotDirectory)),
        }
    }

    fn imply(&mut self, here: &OwnedFd, part: &[u8], entry: &[u8]) -> Result<OwnedFd, Error> {
        rustix::fs::mkdirat(here, part, Mode::from_raw_mode(0o755)).map_err(Error::step(entry, "mkdirat"))?;
        let made = open_child(here, part).map_err(Error::step(entry, "openat"))?;
        // The umask of the daemon is not the image's.
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(Error::step(entry, "fchmod"))?;
        Ok(made)
    }

    /// Takes away whatever has this name, so that a later entry can have it. What was it?
    pub(crate) fn clear(&mut self, parent: &OwnedFd, name: &[u8], entry: &[u8]) -> Result<Cleared, Error> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Cleared::Nothing),
            Err(errno) => return Err(Error::step(entry, "fstatat")(errno)),
        };
        self.replaced.keep(parent, name, entry, &stat);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.forget();
                remove::tree_at(parent.as_fd(), name).map_err(Error::step(entry, "removing the old"))?;
                Ok(Cleared::Other)
            }
            FileType::Symlink => {
                self.forget();
                unlink(parent, name, entry).map(|()| Cleared::Other)
            }
            _ if is_whiteout(&stat) => unlink(parent, name, entry).map(|()| Cleared::Whiteout),
            _ => unlink(parent, name, entry).map(|()| Cleared::Other),
        }
    }
}

/// What [`Tree::clear`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cleared {
    Nothing,
    Whiteout,
    Other,
}

enum Step {
    Directory(OwnedFd),
    Made(OwnedFd),
    Link(Vec<u8>),
}

fn extend(path: &mut Vec<u8>, part: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(part);
}

/// Overlay's whiteout: a character device 0:0.
pub(crate) fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Opens a directory by its own name, never through a link.
pub(crate) fn open_child(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

pub(crate) fn set_opaque(directory: BorrowedFd<'_>, entry: &[u8]) -> Result<(), Error> {
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty()).map_err(Error::step(entry, XATTR))
}

fn unlink(parent: &OwnedFd, name: &[u8], entry: &[u8]) -> Result<(), Error> {
    rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(Error::step(entry, "unlinkat"))
}

/// Opens a directory of the daemon's own by its path, to be the root of a tree.
pub(crate) fn open_root(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}
