//! Masked and read-only paths.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use kernel::{Depth, MountAttr, mount_attr, open_tree_attr};
use rustix::io::{Errno, Result};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::Kit;
use super::at_once;
use super::devices::open_null;
use super::mounts::{attach, is_kernels, make_fs, set};
use super::place::{Kind, Links, find, kind_of};
use crate::report::{At as _, Failure, Step};

/// Directories are covered by clones of one empty tmpfs, files by the null device. Many tmpfs would contend for
/// one lock of the kernel's (runc #5275).
pub(super) fn mask_all(kit: &Kit<'_>) -> std::result::Result<(), Failure> {
    let mut covers = Covers::default();
    for (i, path) in kit.plan.masked.iter().enumerate() {
        let known = known_kind(path.to_bytes()).filter(|_| is_kernels(kit, path));
        if covers.cover_by_name(kit, path, known).at(Step::Mask, i)? == Done::No {
            covers.cover(kit, path).at(Step::Mask, i)?;
        }
    }
    covers.let_go(kit);
    Ok(())
}

pub(super) fn make_readonly(kit: &Kit<'_>) -> std::result::Result<(), Failure> {
    for (i, path) in kit.plan.readonly.iter().enumerate() {
        if READONLY.contains(&path.to_bytes()) && is_kernels(kit, path) {
            readonly_by_name(kit, path).at(Step::Readonly, i)?;
            continue;
        }
        let Some(place) = missing_is_none(find(kit.root, path, Links::Follow)).at(Step::Readonly, i)? else {
            continue;
        };
        kit.let_go(readonly(place.as_fd()).at(Step::Readonly, i)?);
        kit.let_go(place);
    }
    Ok(())
}

// What the kernel has by these names in every version, and never as a link. In a procfs or sysfs of our own that saves
// a search and a question for each.
const DIRS: &[&[u8]] =
    &[b"proc/acpi", b"proc/asound", b"proc/scsi", b"sys/firmware", b"sys/devices/virtual/powercap"];
const FILES: &[&[u8]] = &[
    b"proc/interrupts",
    b"proc/kcore",
    b"proc/keys",
    b"proc/latency_stats",
    b"proc/sched_debug",
    b"proc/timer_list",
    b"proc/timer_stats",
];
/// And what is usually read-only, of either kind.
const READONLY: &[&[u8]] = &[b"proc/bus", b"proc/fs", b"proc/irq", b"proc/sys", b"proc/sysrq-trigger"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Yes,
    /// By this name nothing can be said.
    No,
}

#[derive(Default)]
struct Covers<'a> {
    dirs: Cover<'a>,
    files: Cover<'a>,
}

/// What places of one kind are covered with.
#[derive(Default)]
struct Cover<'a> {
    model: Option<Model<'a>>,
    /// A clone for which there was no place.
    spare: Option<OwnedFd>,
}

enum Model<'a> {
    Open(OwnedFd),
    /// On a directory of the kernel's, where nobody can exchange it.
    At(&'a CStr),
}

impl Cover<'_> {
    fn next(&mut self, kit: &Kit<'_>) -> Result<Option<OwnedFd>> {
        match (self.spare.take(), &self.model) {
            (Some(spare), _) => Ok(Some(spare)),
            (None, Some(Model::Open(model))) => clone(model.as_fd(), c"").map(Some),
            (None, Some(Model::At(path))) => clone(kit.root, path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl<'a> Covers<'a> {
    /// Without a look first: what is not there says so.
    fn cover_by_name(&mut self, kit: &Kit<'_>, path: &'a CStr, known: Option<Kind>) -> Result<Done> {
        let Some(kind) = known else { return Ok(Done::No) };
        let Some(clone) = self.clone_for(kit, kind)? else { return self.first_by_name(kit, path) };
        let attached = move_mount(&clone, c"", kit.root, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
        if attached.is_ok() {
            kit.let_go(clone);
            return Ok(Done::Yes);
        }
        self.of(kind).spare = Some(clone);
        // Anything else is looked at the longer way, the wrong kind as well.
        Ok(if attached == Err(Errno::NOENT) { Done::Yes } else { Done::No })
    }

    /// The first directory of all, on which the tmpfs is mounted that covers the others as well.
    fn first_by_name(&mut self, kit: &Kit<'_>, path: &'a CStr) -> Result<Done> {
        let (options, attr) = empty_dir();
        match at_once::cover_kernels(kit, path, &options, &attr) {
            Ok(true) => self.dirs.model = Some(Model::At(path)),
            Err(Errno::NOENT) => {}
            Ok(false) | Err(_) => return Ok(Done::No),
        }
        Ok(Done::Yes)
    }

    fn cover(&mut self, kit: &Kit<'_>, path: &CStr) -> Result<()> {
        let Some(place) = missing_is_none(find(kit.root, path, Links::Follow))? else { return Ok(()) };
        match self.clone_for(kit, kind_of(place.as_fd())?)? {
            Some(clone) => {
                attach(clone.as_fd(), place.as_fd())?;
                kit.let_go(clone);
            }
            None => self.dirs.model = Some(Model::Open(first_dir(kit, place.as_fd())?)),
        }
        kit.let_go(place);
        Ok(())
    }

    /// None for the first directory: kernels before 6.15 clone only what is attached.
    fn clone_for(&mut self, kit: &Kit<'_>, kind: Kind) -> Result<Option<OwnedFd>> {
        let cover = self.of(kind);
        if kind == Kind::File && cover.model.is_none() {
            cover.model = Some(Model::Open(open_null(kit.root)?));
        }
        cover.next(kit)
    }

    fn of(&mut self, kind: Kind) -> &mut Cover<'a> {
        match kind {
            Kind::Dir => &mut self.dirs,
            Kind::File => &mut self.files,
        }
    }

    fn let_go(self, kit: &Kit<'_>) {
        for cover in [self.dirs, self.files] {
            if let Some(Model::Open(fd)) = cover.model {
                kit.let_go(fd);
            }
            cover.spare.into_iter().for_each(|fd| kit.let_go(fd));
        }
    }
}

fn known_kind(path: &[u8]) -> Option<Kind> {
    let (dir, file) = (DIRS.contains(&path), FILES.contains(&path));
    dir.then_some(Kind::Dir).or(file.then_some(Kind::File))
}

/// The tmpfs of which the others are clones, on the first place.
fn first_dir(kit: &Kit<'_>, place: BorrowedFd<'_>) -> Result<OwnedFd> {
    let (options, attr) = empty_dir();
    let tmpfs = make_fs(c"tmpfs", &options, &attr, |fd| kit.let_go(fd))?;
    attach(tmpfs.as_fd(), place)?;
    Ok(tmpfs)
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

fn readonly_by_name(kit: &Kit<'_>, path: &CStr) -> Result<()> {
    let tree = open_tree_attr(kit.root, path, Depth::Recursive, &set(mount_attr::RDONLY));
    let Some(tree) = missing_is_none(tree)? else { return Ok(()) };
    move_mount(&tree, c"", kit.root, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    kit.let_go(tree);
    Ok(())
}

/// Of a place's own mount; without a path that is the descriptor's.
fn clone(of: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(of, path, flags)
}

/// What is not there needs no mask.
fn missing_is_none(found: Result<OwnedFd>) -> Result<Option<OwnedFd>> {
    match found {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}
