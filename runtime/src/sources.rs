//! What the parent opens on the host for the child: the root file system and the sources of bind mounts, as
//! mounts that are attached nowhere.

mod overlay;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use kernel::{Depth, MountAttr, mount_attr, mount_setattr, propagation};
use rustix::fs::{CWD, FileType, major, minor, statfs};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::child::Hierarchy;
use crate::plan::{Device, Mount, Plan, Source};
use crate::{Error, Rootfs};

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

/// A clone, cut off from the host's so that nothing mounted here shows there; the other way only for a slave.
fn directory(path: &Path, wanted: u64) -> Result<OwnedFd, Error> {
    let at = |errno: Errno| Error::step("opening the root file system", path.display().to_string(), errno);
    let tree = clone_tree(path, Depth::Recursive).map_err(at)?;
    let propagation = if wanted == propagation::SLAVE { propagation::SLAVE } else { propagation::PRIVATE };
    let attr = MountAttr { propagation, ..MountAttr::default() };
    mount_setattr(tree.as_fd(), Depth::Recursive, &attr).map_err(at)?;
    Ok(tree)
}

/// By mount: the source of a bind mount, with its attributes and propagation.
pub(crate) fn trees(plan: &Plan) -> Result<Vec<Option<OwnedFd>>, Error> {
    plan.mounts.iter().map(tree).collect()
}

fn tree(mount: &Mount) -> Result<Option<OwnedFd>, Error> {
    let Source::Bind { path, depth, .. } = &mount.source else { return Ok(None) };
    let at = |errno: Errno| Error::step("opening the mount source", path.display().to_string(), errno);
    let tree = clone_tree(path, *depth).map_err(at)?;
    change(tree.as_fd(), mount).map_err(at)?;
    Ok(Some(tree))
}

fn change(tree: BorrowedFd<'_>, mount: &Mount) -> rustix::io::Result<()> {
    if mount.recursive_attr != MountAttr::default() {
        mount_setattr(tree, Depth::Recursive, &mount.recursive_attr)?;
    }
    if let Some((propagation, depth)) = mount.propagation {
        mount_setattr(tree, depth, &MountAttr { propagation, ..MountAttr::default() })?;
    }
    if mount.attr != MountAttr::default() {
        mount_setattr(tree, Depth::One, &mount.attr)?;
    }
    Ok(())
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

/// linux/magic.h.
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// Where the node's cgroup hierarchies are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The container's own directory in every v1 hierarchy; empty on a node with cgroup2 alone.
pub(crate) fn hierarchies(cgroup_path: &str) -> Result<Vec<Hierarchy>, Error> {
    if cgroup_path.is_empty() {
        return Ok(Vec::new());
    }
    let at = |errno: Errno| Error::step("looking at the hierarchies of", CGROUPS, errno);
    if statfs(CGROUPS).map_err(at)?.f_type == CGROUP2_SUPER_MAGIC {
        return Ok(Vec::new());
    }
    let (names, mut aliases) = hierarchy_names().map_err(|e| Error::step("listing", CGROUPS, e))?;
    let mut hierarchies = Vec::with_capacity(names.len());
    for name in names {
        let path = Path::new(CGROUPS).join(&name).join(cgroup_path.trim_start_matches('/'));
        let tree = match clone_tree(&path, Depth::One) {
            Err(Errno::NOENT) => continue,
            other => {
                other.map_err(|errno| Error::step("opening the cgroup", path.display().to_string(), errno))?
            }
        };
        let aliases = aliases.remove(name.as_path()).unwrap_or_default();
        hierarchies.push(Hierarchy { name: c_string(name)?, aliases, tree });
    }
    Ok(hierarchies)
}

/// In place of cgroups of the container's own: the node's, to be looked at only, as runc does for ordinary users.
pub(crate) fn host_cgroups(plan: &Plan, trees: &mut [Option<OwnedFd>]) -> Result<(), Error> {
    let at = |errno: Errno| Error::step("opening the mount source", CGROUPS, errno);
    for (mount, tree) in plan.mounts.iter().zip(trees) {
        if matches!(mount.source, Source::Cgroup) {
            let host = clone_tree(Path::new(CGROUPS), Depth::Recursive).map_err(at)?;
            let attr = MountAttr { set: mount.attr.set | mount_attr::RDONLY, ..mount.attr };
            mount_setattr(host.as_fd(), Depth::Recursive, &attr).map_err(at)?;
            *tree = Some(host);
        }
    }
    Ok(())
}

type Aliases = BTreeMap<PathBuf, Vec<CString>>;

/// Directories, and the links to them: `cpu -> cpu,cpuacct`.
fn hierarchy_names() -> std::io::Result<(Vec<PathBuf>, Aliases)> {
    let (mut names, mut aliases) = (Vec::new(), Aliases::new());
    for entry in fs::read_dir(CGROUPS)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            names.push(entry.file_name().into());
        } else if kind.is_symlink() {
            let alias = CString::new(entry.file_name().into_vec())?;
            aliases.entry(fs::read_link(entry.path())?).or_default().push(alias);
        }
    }
    Ok((names, aliases))
}

fn c_string(path: PathBuf) -> Result<CString, Error> {
    CString::new(path.into_os_string().into_vec())
        .map_err(|e| Error::step("listing", CGROUPS, std::io::Error::from(e)))
}

/// Shifts ownership of a cloned tree as `userns` maps it.
pub(crate) fn idmap(tree: BorrowedFd<'_>, depth: Depth, userns: BorrowedFd<'_>) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let attr =
        MountAttr { set: mount_attr::IDMAP, userns_fd: userns.as_raw_fd() as u64, ..MountAttr::default() };
    mount_setattr(tree, depth, &attr)
}
