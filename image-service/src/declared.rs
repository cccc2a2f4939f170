//! The volumes that an image declares (`Volumes` of its configuration): made in a container's writable layer, or copied
//! beside it.
//!
//! All of it is done in the layers themselves, of which nothing is mounted yet: ways are followed inside of them alone.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, Stat, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::images::{Images, RootfsPlan};
use crate::layered::{Found, Layered, Merged, Unreadable, look};
use crate::pull::blocking;
use crate::unpack::tree::{is_whiteout, open_child, open_root};

/// Each level keeps some descriptors; nobody's data is deeper.
const MAX_DEPTH: usize = 128;
/// limits.h. Without it a few bytes of an image would be a million directories, one in the other.
const PATH_MAX: usize = 4096;
/// What volumes are made with that the image has nothing of.
const MODE: u32 = 0o755;
/// More than any attribute's name or value (xattr(7)).
const XATTR_MAX: usize = 64 << 10;
/// Marks that mean something where they are only.
const OWN_MARKS: [&[u8]; 2] = [b"trusted.overlay.", b"security.selinux"];

/// Ids of the image, and those that the disk is to have for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    pub image: u32,
    pub disk: u32,
    pub length: u32,
}

/// Who what is made belongs to, as the disk has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// Of what the image has nothing of.
    pub uid: u32,
    pub gid: u32,
    /// Of what it has. Empty: the same.
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

impl Owners {
    fn of(&self, stat: &Stat) -> (u32, u32) {
        (shifted(stat.st_uid, &self.uids), shifted(stat.st_gid, &self.gids))
    }
}

/// An id that no range has is nobody's inside, whatever it is on the disk.
fn shifted(id: u32, ranges: &[IdRange]) -> u32 {
    let inside = |range: &IdRange| id.checked_sub(range.image).filter(|offset| *offset < range.length);
    let found = ranges.iter().find_map(|range| Some(range.disk.wrapping_add(inside(range)?)));
    found.unwrap_or(id)
}

impl Images {
    /// Makes directories in a container's writable layer, which exists, where its image has none: paths from the
    /// container's root. What is there stays as it is.
    ///
    /// # Errors
    /// When something on the way is no directory.
    pub async fn make_volumes(
        &self,
        container_id: &str,
        wanted: Vec<String>,
        owners: Owners,
    ) -> Result<(), Error> {
        let plan = self.writable_of(container_id)?;
        blocking(move || each(&plan, &wanted, |layers, path, _| make(layers, &plan, path, &owners))).await
    }

    /// Copies directories of a container's image into `volumes_dir`, each under its place in the list.
    ///
    /// # Errors
    /// When one is no directory, or can't be copied.
    pub async fn copy_volumes(
        &self,
        container_id: &str,
        wanted: Vec<String>,
        owners: Owners,
    ) -> Result<(), Error> {
        let (plan, dir) = (self.writable_of(container_id)?, self.volumes_dir(container_id));
        blocking(move || {
            std::fs::create_dir_all(&dir).map_err(|error| Error::io("making", &dir, error))?;
            each(&plan, &wanted, |layers, path, at| copy(layers, path, &dir.join(at.to_string()), &owners))
        })
        .await
    }

    /// Where a container's copies are: beside its writable layer, and taken away with it.
    pub fn volumes_dir(&self, container_id: &str) -> PathBuf {
        self.inner.settings.containers_dir.join(container_id).join("volumes")
    }

    fn writable_of(&self, container_id: &str) -> Result<RootfsPlan, Error> {
        let plan = self.writable(container_id);
        plan.ok_or_else(|| Error::NotFound { name: container_id.to_owned(), source: None })
    }
}

fn each(
    plan: &RootfsPlan,
    wanted: &[String],
    act: impl Fn(&Layered, &str, usize) -> Result<(), Unreadable>,
) -> Result<(), Error> {
    let roots: Vec<PathBuf> = std::iter::once(&plan.upper).chain(&plan.lower).cloned().collect();
    let layers = Layered::open(&roots)
        .map_err(|errno| Error::io("opening the layers of", &plan.upper, errno.into()))?;
    wanted.iter().enumerate().try_for_each(|(at, path)| {
        if path.len() >= PATH_MAX {
            let why = format!("its path has {} bytes, and the kernel takes {}", path.len(), PATH_MAX - 1);
            return Err(Error::invalid("a volume of the image", why));
        }
        act(&layers, path, at).map_err(|why| match why {
            Unreadable::Io(error) => {
                Error::io(format!("making the image's volume {path:?} in"), &plan.upper, error)
            }
            why => Error::invalid(format!("the image's volume {path:?}"), why.to_string()),
        })
    })
}

fn make(layers: &Layered, plan: &RootfsPlan, path: &str, owners: &Owners) -> Result<(), Unreadable> {
    let way = layers.way(path)?;
    if way.missing.is_empty() {
        return Ok(());
    }
    let mut here = open_root(&plan.upper)?;
    for (name, merged) in &way.there {
        here = match open_child(&here, name) {
            Err(Errno::NOENT) => {
                let next = make_dir(&here, name)?;
                attributes(&merged[0].directory, &next, owners)?;
                next
            }
            opened => opened?,
        };
    }
    for name in &way.missing {
        here = match make_dir(&here, name) {
            // Only a mark that hides what is below: the container that this one is restored from took it away.
            Err(Errno::EXIST) => return Ok(()),
            made => made?,
        };
        fresh(&here, owners)?;
    }
    Ok(())
}

fn make_dir(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    open_child(parent, name)
}

fn fresh(directory: &OwnedFd, owners: &Owners) -> rustix::io::Result<()> {
    rustix::fs::fchown(directory, Some(Uid::from_raw(owners.uid)), Some(Gid::from_raw(owners.gid)))?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode(MODE))
}

fn copy(layers: &Layered, path: &str, target: &Path, owners: &Owners) -> Result<(), Unreadable> {
    let way = layers.way(path)?;
    std::fs::create_dir(target)?;
    let into = open_root(target)?;
    match way.there.last() {
        Some((_, merged)) if way.missing.is_empty() => copy_tree(merged, &into, owners, MAX_DEPTH),
        Some(_) | None => Ok(fresh(&into, owners)?),
    }
}

/// Directories, files and links; a file with two names becomes two files, and what is special is nobody's data.
fn copy_tree(from: &Merged, into: &OwnedFd, owners: &Owners, depth: usize) -> Result<(), Unreadable> {
    if depth == 0 {
        return Err(Unreadable::Loop);
    }
    for name in names(from)? {
        match look(from, &name) {
            Ok(Found::Nothing) | Err(Unreadable::NotRegular) => {}
            Ok(Found::Directory(merged)) => {
                copy_tree(&merged, &make_dir(into, &name)?, owners, depth - 1)?;
            }
            Ok(Found::File(file)) => copy_file(file, into, &name, owners)?,
            Ok(Found::Link(target)) => copy_link(from, into, &name, &target, owners)?,
            Err(error) => return Err(error),
        }
    }
    // Last, since what is made in a directory changes its times.
    attributes(&from[0].directory, into, owners)
}

fn names(directory: &Merged) -> rustix::io::Result<BTreeSet<Vec<u8>>> {
    let mut names = BTreeSet::new();
    for part in directory {
        for entry in Dir::read_from(&part.directory)? {
            names.insert(entry?.file_name().to_bytes().to_vec());
        }
    }
    names.retain(|name| !matches!(name.as_slice(), b"." | b".."));
    Ok(names)
}

fn copy_file(from: OwnedFd, into: &OwnedFd, name: &[u8], owners: &Owners) -> Result<(), Unreadable> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(into, name, flags, Mode::RUSR | Mode::WUSR)?;
    let (mut from, mut made) = (File::from(from), File::from(made));
    std::io::copy(&mut from, &mut made)?;
    attributes(&from.into(), &made.into(), owners)
}

fn copy_link(
    from: &Merged,
    into: &OwnedFd,
    name: &[u8],
    target: &[u8],
    owners: &Owners,
) -> Result<(), Unreadable> {
    rustix::fs::symlinkat(target, into, name)?;
    let seen = from
        .iter()
        .find_map(|part| rustix::fs::statat(&part.directory, name, AtFlags::SYMLINK_NOFOLLOW).ok());
    let Some(stat) = seen.filter(|stat| !is_whiteout(stat)) else { return Ok(()) };
    let (uid, gid) = owners.of(&stat);
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    Ok(rustix::fs::chownat(into, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Owner, attributes, mode and times of one for the other. In this order: a new owner takes the set-user-ID bit and
/// capabilities away.
fn attributes(from: &OwnedFd, to: &OwnedFd, owners: &Owners) -> Result<(), Unreadable> {
    let stat = rustix::fs::fstat(from)?;
    let (uid, gid) = owners.of(&stat);
    rustix::fs::fchown(to, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    let mut names = vec![0; XATTR_MAX];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        length => length?,
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if !OWN_MARKS.iter().any(|mark| name.starts_with(mark)) {
            let mut value = vec![0; XATTR_MAX];
            let length = rustix::fs::fgetxattr(from, name, &mut value[..])?;
            rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
        }
    }
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let times = |seconds, nanoseconds: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    let last_access = times(stat.st_atime, stat.st_atime_nsec);
    let last_modification = times(stat.st_mtime, stat.st_mtime_nsec);
    Ok(rustix::fs::futimens(to.as_fd(), &Timestamps { last_access, last_modification })?)
}

#[cfg(test)]
mod tests;
