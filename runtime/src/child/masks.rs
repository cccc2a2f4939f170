//! Masked and read-only paths.

use std::cell::OnceCell;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use kernel::{Depth, mount_attr, mount_setattr};
use rustix::io::{Errno, Result};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::Kit;
use super::devices::open_null;
use super::mounts::{attach, make_fs, set};
use super::place::{Kind, Links, find, kind_of};
use crate::report::{At as _, Failure, Step};

/// Directories are covered by clones of one empty tmpfs, files by the null device. Many tmpfs would contend for
/// one lock of the kernel's (runc #5275).
pub(super) fn mask_all(kit: &Kit<'_>) -> std::result::Result<(), Failure> {
    let covers = Covers::default();
    for (i, path) in kit.plan.masked.iter().enumerate() {
        let Some(place) = missing_is_none(find(kit.root, path, Links::Follow)).at(Step::Mask, i)? else {
            continue;
        };
        covers.cover(kit.root, place.as_fd()).at(Step::Mask, i)?;
    }
    Ok(())
}

pub(super) fn make_readonly(kit: &Kit<'_>) -> std::result::Result<(), Failure> {
    for (i, path) in kit.plan.readonly.iter().enumerate() {
        let Some(place) = missing_is_none(find(kit.root, path, Links::Follow)).at(Step::Readonly, i)? else {
            continue;
        };
        readonly(place.as_fd()).at(Step::Readonly, i)?;
    }
    Ok(())
}

#[derive(Default)]
struct Covers {
    dir: OnceCell<OwnedFd>,
    file: OnceCell<OwnedFd>,
}

impl Covers {
    fn cover(&self, root: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
        match kind_of(place)? {
            Kind::Dir => self.cover_dir(place),
            Kind::File => {
                let null = get(&self.file, || open_null(root))?;
                attach(clone(null.as_fd(), OpenTreeFlags::empty())?.as_fd(), place)
            }
        }
    }

    /// The first is the tmpfs itself: kernels before 6.15 clone only what is attached.
    fn cover_dir(&self, place: BorrowedFd<'_>) -> Result<()> {
        if let Some(tmpfs) = self.dir.get() {
            return attach(clone(tmpfs.as_fd(), OpenTreeFlags::empty())?.as_fd(), place);
        }
        attach(get(&self.dir, empty_dir)?.as_fd(), place)
    }
}

fn get(cell: &OnceCell<OwnedFd>, make: impl FnOnce() -> Result<OwnedFd>) -> Result<&OwnedFd> {
    if cell.get().is_none() {
        // The cell was seen empty and nobody else can reach it.
        let _ = cell.set(make()?);
    }
    cell.get().ok_or(Errno::INVAL)
}

fn empty_dir() -> Result<OwnedFd> {
    let options = [
        (c"source".to_owned(), Some(c"tmpfs".to_owned())),
        (c"mode".to_owned(), Some(c"755".to_owned())),
        (c"size".to_owned(), Some(c"0".to_owned())),
        (c"nr_inodes".to_owned(), Some(c"1".to_owned())),
    ];
    make_fs(
        c"tmpfs",
        &options,
        &set(mount_attr::RDONLY | mount_attr::NOSUID | mount_attr::NODEV | mount_attr::NOEXEC),
    )
}

fn readonly(place: BorrowedFd<'_>) -> Result<()> {
    let recursive = OpenTreeFlags::AT_RECURSIVE;
    let tree = clone(place, recursive)?;
    mount_setattr(tree.as_fd(), Depth::Recursive, &set(mount_attr::RDONLY))?;
    attach(tree.as_fd(), place)
}

fn clone(of: BorrowedFd<'_>, flags: OpenTreeFlags) -> Result<OwnedFd> {
    let flags = flags
        | OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(of, c"", flags)
}

/// What is not there needs no mask.
fn missing_is_none(found: Result<OwnedFd>) -> Result<Option<OwnedFd>> {
    match found {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}
