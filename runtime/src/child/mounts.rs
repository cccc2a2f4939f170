//! The container's mounts, made and attached inside its own mount namespace.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use kernel::{Depth, MountAttr, mount_attr, mount_setattr};
use rustix::fs::{Mode, OFlags, XattrFlags, fsetxattr, openat};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, move_mount,
};

use super::fresh::Fresh;
use super::place::{Kind, Links, find, find_on_root, find_or_make_as, is_on_proc, kind_of};
use super::{Kit, copyup};
use crate::plan::{Content, Mount, Pivot, Source, may_cover_proc};
use crate::report::{At as _, Failure, Step};
use crate::sources::idmap;

/// All of `mounts`, in their order: later ones may lie on earlier ones. Answers the file systems that are still as empty
/// as we made them.
pub(super) fn mount_all(kit: &Kit<'_>) -> std::result::Result<Fresh, Failure> {
    let mut fresh = Fresh::default();
    for (i, mount) in kit.plan.mounts.iter().enumerate() {
        match &mount.source {
            Source::Bind { .. } => bind(kit, i, mount, &fresh)?,
            Source::Fs { kind, options, content: Content::Own, .. } => {
                if Fresh::wants(kit, mount) {
                    let made = detached(kit, i, mount, kind, options)?;
                    fresh.covered_by(&mount.destination);
                    fresh.add(&mount.destination, made);
                    continue;
                }
                let by_steps = mount.root_label.is_some() || kit.trees[i].is_some();
                if by_steps || !super::at_once::mount(kit, i, mount, &fresh)? {
                    kit.let_go(detached(kit, i, mount, kind, options)?);
                }
            }
            Source::Fs { kind, options, content: Content::Copied, .. } => {
                let writable = MountAttr { set: mount.attr.set & !mount_attr::RDONLY, ..mount.attr };
                let made = make_fs(kind, options, &writable, |fd| kit.let_go(fd)).at(Step::MountFs, i)?;
                map_ids(kit, i, made.as_fd())?;
                let place = target(kit, i, mount, || Ok(Kind::Dir))?;
                copyup::copy(place.as_fd(), made.as_fd()).at(Step::CopyUp, i)?;
                attach(made.as_fd(), place.as_fd()).at(Step::MountFs, i)?;
                mount_setattr(made.as_fd(), Depth::One, &mount.attr).at(Step::MountFs, i)?;
                finish(made.as_fd(), mount).at(Step::MountFs, i)?;
            }
            Source::Remount { options } => remount(kit, mount, options.as_deref()).at(Step::Remount, i)?,
            Source::Cgroup => super::cgroups::mount(kit, i, mount)?,
        }
        fresh.covered_by(&mount.destination);
    }
    Ok(fresh)
}

/// A file system made first and attached then.
fn detached(
    kit: &Kit<'_>,
    i: usize,
    mount: &Mount,
    kind: &CStr,
    options: &[(CString, Option<CString>)],
) -> std::result::Result<OwnedFd, Failure> {
    let made = make_fs(kind, options, &mount.attr, |fd| kit.let_go(fd)).at(Step::MountFs, i)?;
    map_ids(kit, i, made.as_fd())?;
    label_root(made.as_fd(), mount).at(Step::MountFs, i)?;
    let place = target(kit, i, mount, || Ok(Kind::Dir))?;
    attach(made.as_fd(), place.as_fd()).at(Step::MountFs, i)?;
    finish(made.as_fd(), mount).at(Step::MountFs, i)?;
    kit.let_go(place);
    Ok(made)
}

/// What had to stay writable while it was filled.
pub(super) fn seal(kit: &Kit<'_>) -> std::result::Result<(), Failure> {
    for (i, mount) in kit.plan.mounts.iter().enumerate().filter(|(_, mount)| mount.readonly_at_end) {
        let place = target(kit, i, mount, || Ok(Kind::Dir))?;
        mount_setattr(place.as_fd(), Depth::One, &set(mount_attr::RDONLY)).at(Step::MountFs, i)?;
    }
    Ok(())
}

/// The parent has cloned the source and given it its attributes; here it only finds its place.
fn bind(kit: &Kit<'_>, i: usize, mount: &Mount, fresh: &Fresh) -> std::result::Result<(), Failure> {
    let Some(tree) = &kit.trees[i] else { return Ok(()) };
    if let Some((dir, name)) = fresh.place_of(&mount.destination) {
        let kind = kind_of(tree.as_fd()).at(Step::MountFs, i)?;
        if fresh.make(dir, name, kind).at(Step::MountTarget, i)? {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            return move_mount(tree, c"", dir, name, flags).at(Step::MountFs, i);
        }
    }
    let place = target(kit, i, mount, || kind_of(tree.as_fd()))?;
    attach(tree.as_fd(), place.as_fd()).at(Step::MountFs, i)?;
    kit.let_go(place);
    Ok(())
}

/// The root of a mount, and nothing else, can be remounted: the kernel says EINVAL for other places.
fn remount(kit: &Kit<'_>, mount: &Mount, options: Option<&[(CString, Option<CString>)]>) -> Result<()> {
    let place = find(kit.root, &mount.destination, Links::Follow)?;
    mount_setattr(place.as_fd(), Depth::One, &mount.attr)?;
    if let Some(options) = options.filter(|options| !options.is_empty()) {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let context = fspick(&place, c"", flags)?;
        configure(&context, options)?;
        fsconfig_reconfigure(context.as_fd())?;
    }
    finish(place.as_fd(), mount)
}

/// The mount point, made where it is missing, and never inside a procfs that is not ours to cover.
pub(super) fn target(
    kit: &Kit<'_>,
    i: usize,
    mount: &Mount,
    kind: impl Fn() -> Result<Kind>,
) -> std::result::Result<OwnedFd, Failure> {
    let links = if mount.strict { Links::Refuse } else { Links::Follow };
    let may_be_on_proc = !mount.strict && !may_cover_proc(mount.destination.as_bytes());
    if may_be_on_proc && !lies_on_earlier(kit, i, mount) {
        match find_on_root(kit.root, &mount.destination) {
            // On the root file system itself, which is no procfs.
            Ok(place) if !kit.root_is_proc => return Ok(place),
            Ok(_) | Err(_) => {}
        }
    }
    let place = find_or_make_as(kit.root, &mount.destination, kind, links).at(Step::MountTarget, i)?;
    if may_be_on_proc && is_on_proc(&place).at(Step::MountTarget, i)? {
        return Err(Failure { step: Step::MountOnProc, errno: Errno::PERM, index: i as u32 });
    }
    Ok(place)
}

/// By its name: it is not worth the asking whether its place is on the root file system.
fn lies_on_earlier(kit: &Kit<'_>, i: usize, mount: &Mount) -> bool {
    kit.plan.mounts[..i].iter().any(|earlier| is_below(&mount.destination, &earlier.destination))
}

/// Whether it is inside a procfs or sysfs of our own, whose directories nobody can exchange, and every way leads only
/// through the container's root.
pub(super) fn is_kernels(kit: &Kit<'_>, path: &CStr) -> bool {
    let holds = |mount: &Mount| mount.strict && is_below(path, &mount.destination);
    kit.plan.root.pivot == Pivot::First && kit.plan.mounts.iter().any(holds)
}

/// Is it inside that directory, by their names?
pub(super) fn is_below(path: &CStr, dir: &CStr) -> bool {
    path.to_bytes().strip_prefix(dir.to_bytes()).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// A new file system, not attached anywhere yet.
pub(super) fn make_fs(
    kind: &CStr,
    options: &[(CString, Option<CString>)],
    attr: &MountAttr,
    let_go: impl FnOnce(OwnedFd),
) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure(&context, options)?;
    fsconfig_create(context.as_fd())?;
    let attr = MountAttrFlags::from_bits_retain(attr.set as u32);
    let made = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attr)?;
    let_go(context);
    Ok(made)
}

/// Before it is attached, which is the last moment the kernel allows it.
fn map_ids(kit: &Kit<'_>, i: usize, made: BorrowedFd<'_>) -> std::result::Result<(), Failure> {
    let Some(userns) = &kit.trees[i] else { return Ok(()) };
    idmap(made, Depth::One, userns.as_fd()).at(Step::MapIds, i)
}

/// A user namespace's file system may have its label from the policy alone, and says so.
fn label_root(made: BorrowedFd<'_>, mount: &Mount) -> Result<()> {
    let Some(label) = &mount.root_label else { return Ok(()) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(made, c".", flags, Mode::empty())?;
    match fsetxattr(&root, c"security.selinux", label.as_bytes(), XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        other => other,
    }
}

fn configure(context: &OwnedFd, options: &[(CString, Option<CString>)]) -> Result<()> {
    options.iter().try_for_each(|(key, value)| match value {
        Some(value) => fsconfig_set_string(context.as_fd(), key.as_c_str(), value.as_c_str()),
        None => fsconfig_set_flag(context.as_fd(), key.as_c_str()),
    })
}

/// What fsmount could not be told at once.
pub(super) fn finish(made: BorrowedFd<'_>, mount: &Mount) -> Result<()> {
    if mount.recursive_attr != MountAttr::default() {
        mount_setattr(made, Depth::Recursive, &mount.recursive_attr)?;
    }
    if let Some((propagation, depth)) = mount.propagation {
        mount_setattr(made, depth, &MountAttr { propagation, ..MountAttr::default() })?;
    }
    Ok(())
}

pub(super) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
    let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", by_descriptor)
}

pub(super) fn set(bits: u64) -> MountAttr {
    MountAttr { set: bits, ..MountAttr::default() }
}
