//! Masked and read-only paths.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use kernel::{Depth, MountAttr, mount_attr, open_tree_attr};
use rustix::io::{Errno, Result};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::Kit;
use super::at_once;
use super::devices::open_null;
use super::mounts::{attach, make_fs, set};
use super::place::{Kind, Links, find, kind_of};
use crate::report::{At as _, Failure, Step};

/// Directories are covered by clones of one empty tmpfs, files by the null device. Many tmpfs would contend for
/// one lock of the kernel's (runc #5275).
pub(super) fn mask_all(kit: &Kit<'_>) -> std::result::Result<(), Failure> {
    let mut covers = Covers::default();
    for (i, path) in kit.plan.masked.iter().enumerate() {
        let Some(place) = missing_is_none(find(kit.root, path, Links::Follow)).at(Step::Mask, i)? else {
            continue;
        };
        covers.cover(kit, path, place.as_fd()).at(Step::Mask, i)?;
        kit.let_go(place);
    }
    [covers.dir, covers.file].into_iter().flatten().for_each(|cover| kit.let_go(cover));
    Ok(())
}

pub(super) fn make_readonly(kit: &Kit<'_>) -> std::result::Result<(), Failure> {
    for (i, path) in kit.plan.readonly.iter().enumerate() {
        let Some(place) = missing_is_none(find(kit.root, path, Links::Follow)).at(Step::Readonly, i)? else {
            continue;
        };
        kit.let_go(readonly(place.as_fd()).at(Step::Readonly, i)?);
        kit.let_go(place);
    }
    Ok(())
}

#[derive(Default)]
struct Covers {
    dir: Option<OwnedFd>,
    file: Option<OwnedFd>,
}

/// What the kernel has as directories in every version; it saves asking. Were one a file, the kernel would refuse to
/// put a directory on it.
const DIRS: &[&[u8]] =
    &[b"proc/acpi", b"proc/asound", b"proc/scsi", b"sys/firmware", b"sys/devices/virtual/powercap"];
/// And as files.
const FILES: &[&[u8]] = &[
    b"proc/interrupts",
    b"proc/kcore",
    b"proc/keys",
    b"proc/latency_stats",
    b"proc/sched_debug",
    b"proc/timer_list",
    b"proc/timer_stats",
];

impl Covers {
    fn cover(&mut self, kit: &Kit<'_>, path: &CStr, place: BorrowedFd<'_>) -> Result<()> {
        let kind = match path.to_bytes() {
            path if DIRS.contains(&path) => Kind::Dir,
            path if FILES.contains(&path) => Kind::File,
            _ => kind_of(place)?,
        };
        let cover = match kind {
            Kind::Dir => self.dir_cover(kit, path, place)?,
            Kind::File => Some(clone(self.null(kit.root)?.as_fd())?),
        };
        if let Some(cover) = cover {
            attach(cover.as_fd(), place)?;
            kit.let_go(cover);
        }
        Ok(())
    }

    /// The first is the tmpfs itself, attached here: kernels before 6.15 clone only what is attached.
    fn dir_cover(&mut self, kit: &Kit<'_>, path: &CStr, place: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
        if let Some(tmpfs) = &self.dir {
            return clone(tmpfs.as_fd()).map(Some);
        }
        let (options, attr) = empty_dir();
        let tmpfs = match at_once::cover(kit, path, place, c"tmpfs", &options, &attr)? {
            Some(tmpfs) => tmpfs,
            None => {
                let tmpfs = make_fs(c"tmpfs", &options, &attr, |fd| kit.let_go(fd))?;
                attach(tmpfs.as_fd(), place)?;
                tmpfs
            }
        };
        self.dir = Some(tmpfs);
        Ok(None)
    }

    fn null(&mut self, root: BorrowedFd<'_>) -> Result<&OwnedFd> {
        match &mut self.file {
            Some(null) => Ok(null),
            none => Ok(none.insert(open_null(root)?)),
        }
    }
}

/// What an empty directory is made of.
fn empty_dir() -> ([(CString, Option<CString>); 2], MountAttr) {
    let options =
        [(c"mode".to_owned(), Some(c"755".to_owned())), (c"nr_inodes".to_owned(), Some(c"1".to_owned()))];
    (options, set(mount_attr::RDONLY | mount_attr::NOSUID | mount_attr::NODEV | mount_attr::NOEXEC))
}

fn readonly(place: BorrowedFd<'_>) -> Result<OwnedFd> {
    let tree = open_tree_attr(place, c"", Depth::Recursive, &set(mount_attr::RDONLY))?;
    attach(tree.as_fd(), place)?;
    Ok(tree)
}

fn clone(of: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
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
