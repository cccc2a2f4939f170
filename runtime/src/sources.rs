//! What the parent opens on the host for the child: the root file system and the sources of bind mounts, as
//! mounts that are attached nowhere.

mod overlay;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use kernel::{Depth, MountAttr, mount_attr, mount_setattr, open_tree_attr, propagation};
use rustix::fs::{CWD, FileType, major, minor};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::cgroup::{Cgroup, Place};
use crate::child::Hierarchy;
use crate::plan::{Device, Mount, Plan, Source};
use crate::{Error, Rootfs, userns};

use overlay::Layers;

/// The root file system. `userns`: layers belong to the host's ids, and are shown to the container with its own.
pub(crate) fn root(plan: &Plan, rootfs: &Rootfs, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Error> {
    match (rootfs, &plan.root.path) {
        (Rootfs::Overlay { lower, upper, work }, _) => {
            overlay::mount(&Layers { lower, upper, work, userns, label: plan.mount_label.as_deref() })
        }
        (Rootfs::Bundle, Some(path)) => directory(path, plan.root.propagation),
        (Rootfs::Bundle, None) => Err(Error::invalid("root.path", "is missing")),
    }
}

/// The layers of a container (`lower`: topmost first) as one file system, mounted nowhere: what an engine prepares for a
/// runtime that takes a root directory only. `userns`: layers belong to the host's ids, and are shown with those of that
/// user namespace. `label`: the SELinux label that all files show.
///
/// # Errors
/// When the kernel does not mount them.
pub fn layers(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    userns: Option<BorrowedFd<'_>>,
    label: Option<&CStr>,
) -> Result<OwnedFd, Error> {
    overlay::mount(&Layers { lower, upper, work, userns, label })
}

/// A clone, cut off from the host's so that nothing mounted here shows there; the other way only for a slave.
fn directory(path: &Path, wanted: u64) -> Result<OwnedFd, Error> {
    let object = || format!("{} (root.path)", path.display());
    let at = |errno: Errno| Error::step("opening the root file system", object(), errno);
    let propagation = if wanted == propagation::SLAVE { propagation::SLAVE } else { propagation::PRIVATE };
    let attr = MountAttr { propagation, ..MountAttr::default() };
    clone_changed(path, Depth::Recursive, &attr).map_err(at)
}

/// By mount: the source of a bind mount, with its attributes and propagation; of a new file system that shows other ids
/// than it has, a user namespace with these.
pub(crate) fn trees(plan: &Plan) -> Result<Vec<Option<OwnedFd>>, Error> {
    plan.mounts.iter().enumerate().map(|(i, mount)| tree(i, mount)).collect()
}

fn tree(i: usize, mount: &Mount) -> Result<Option<OwnedFd>, Error> {
    let (path, depth) = match &mount.source {
        Source::Bind { path, depth, .. } => (path, depth),
        Source::Fs { idmap: Some(maps), .. } => return userns::of_maps(maps).map(Some),
        Source::Fs { .. } | Source::Remount { .. } | Source::Cgroup => return Ok(None),
    };
    let object = || format!("{} (mounts[{i}].source)", path.display());
    let at = |errno: Errno| Error::step("opening the mount source", object(), errno);
    let tree = clone_with(path, *depth, &changes(mount, *depth)).map_err(at)?;
    Ok(Some(tree))
}

/// Which mounts of a clone change how, in their order: what reaches as far as the clone itself does can be told
/// with the cloning.
fn changes(mount: &Mount, cloned: Depth) -> Vec<(Depth, MountAttr)> {
    let mut changes = Vec::with_capacity(3);
    if mount.recursive_attr != MountAttr::default() {
        changes.push((Depth::Recursive, mount.recursive_attr));
    }
    if let Some((propagation, depth)) = mount.propagation {
        changes.push((depth, MountAttr { propagation, ..MountAttr::default() }));
    }
    if mount.attr != MountAttr::default() {
        changes.push((Depth::One, mount.attr));
    }
    if cloned == Depth::One {
        // There is but one mount, and both depths mean it.
        changes.iter_mut().for_each(|(depth, _)| *depth = Depth::One);
    }
    changes
}

fn clone_with(path: &Path, depth: Depth, changes: &[(Depth, MountAttr)]) -> rustix::io::Result<OwnedFd> {
    let (tree, rest) = match changes.split_first() {
        Some(((reach, attr), rest)) if *reach == depth => (clone_changed(path, depth, attr)?, rest),
        _ => (clone_tree(path, depth)?, changes),
    };
    rest.iter().try_for_each(|(depth, attr)| mount_setattr(tree.as_fd(), *depth, attr))?;
    Ok(tree)
}

fn clone_changed(path: &Path, depth: Depth, attr: &MountAttr) -> rustix::io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    open_tree_attr(CWD, &path, depth, attr)
}

fn clone_tree(path: &Path, depth: Depth) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let deep = match depth {
        Depth::One => OpenTreeFlags::empty(),
        Depth::Recursive => OpenTreeFlags::AT_RECURSIVE,
    };
    open_tree(CWD, path, flags | deep)
}

/// The host's nodes, for containers in a user namespace, where nobody may make any but FIFOs.
pub(crate) fn nodes(devices: &[Device]) -> Result<Vec<Option<OwnedFd>>, Error> {
    let one = |device: &Device| (device.kind != FileType::Fifo).then(|| node(device)).transpose();
    devices.iter().map(one).collect()
}

/// Of the same name, or by its numbers: the container's name for it may be another.
fn node(device: &Device) -> Result<OwnedFd, Error> {
    let named = Path::new(std::ffi::OsStr::from_bytes(device.host.as_bytes()));
    let kind = if device.kind == FileType::BlockDevice { "block" } else { "char" };
    let (major, minor) = (major(device.number), minor(device.number));
    let numbered = PathBuf::from(format!("/dev/{kind}/{major}:{minor}"));
    same_node(device, named).or_else(|_| same_node(device, &numbered)).map_err(|errno| {
        let name = format!("{} ({kind} {major}:{minor}, linux.devices)", device.host.to_string_lossy());
        Error::step("opening the device", name, errno)
    })
}

fn same_node(device: &Device, path: &Path) -> rustix::io::Result<OwnedFd> {
    let tree = clone_tree(path, Depth::One)?;
    let stat = rustix::fs::fstat(&tree)?;
    let same = FileType::from_raw_mode(stat.st_mode) == device.kind && stat.st_rdev == device.number;
    if same { Ok(tree) } else { Err(Errno::NODEV) }
}

/// Where the node's cgroup hierarchies are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The container's own directory in every v1 hierarchy; empty on a node with cgroup2 alone.
pub(crate) fn hierarchies(cgroup: &Cgroup) -> Result<Vec<Hierarchy>, Error> {
    let places = cgroup.places();
    if cgroup.is_none() || places.iter().all(|place| place.unified) {
        return Ok(Vec::new());
    }
    places.iter().map(hierarchy).collect()
}

/// In place of cgroups of the container's own: the node's, to be looked at only, as runc does for ordinary users.
pub(crate) fn host_cgroups(plan: &Plan, trees: &mut [Option<OwnedFd>]) -> Result<(), Error> {
    let at = |errno: Errno| Error::step("opening the mount source", CGROUPS, errno);
    for (mount, tree) in plan.mounts.iter().zip(trees) {
        if matches!(mount.source, Source::Cgroup) {
            let attr = MountAttr { set: mount.attr.set | mount_attr::RDONLY, ..mount.attr };
            *tree = Some(clone_changed(Path::new(CGROUPS), Depth::Recursive, &attr).map_err(at)?);
        }
    }
    Ok(())
}

fn hierarchy(place: &Place) -> Result<Hierarchy, Error> {
    let at = |errno| Error::step("opening the cgroup", place.dir.display().to_string(), errno);
    let tree = clone_tree(&place.dir, Depth::One).map_err(at)?;
    let name = place.root.file_name().unwrap_or_default().as_bytes();
    let name = CString::new(name).map_err(|_| at(Errno::INVAL))?;
    Ok(Hierarchy { aliases: aliases(&name), name, tree })
}

/// systemd's and everybody's: `cpu -> cpu,cpuacct`, for each controller of a hierarchy that has several.
fn aliases(name: &CString) -> Vec<CString> {
    let parts: Vec<&[u8]> = name.as_bytes().split(|&byte| byte == b',').collect();
    if parts.len() < 2 {
        return Vec::new();
    }
    parts.into_iter().filter_map(|part| CString::new(part).ok()).collect()
}

/// Shifts ownership of a mount that is attached nowhere as `userns` maps it.
pub(crate) fn idmap(tree: BorrowedFd<'_>, depth: Depth, userns: BorrowedFd<'_>) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let attr =
        MountAttr { set: mount_attr::IDMAP, userns_fd: userns.as_raw_fd() as u64, ..MountAttr::default() };
    mount_setattr(tree, depth, &attr)
}
