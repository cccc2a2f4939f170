//! What the parent opens on the host for the child: the root file system and the sources of bind mounts, as
//! mounts that are attached nowhere.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use kernel::{Depth, MountAttr, mount_attr, mount_setattr, propagation};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, chown, fstat, openat, stat, statfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};

use crate::child::Hierarchy;
use crate::plan::{Device, Mount, Plan, Source};
use crate::{Error, Rootfs};

/// The root file system. `userns`: layers belong to the host's ids, and are shown to the container with its own.
pub(crate) fn root(plan: &Plan, rootfs: &Rootfs, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Error> {
    match (rootfs, &plan.root.path) {
        (Rootfs::Overlay { lower, upper, work }, _) => overlay(&Layers { lower, upper, work, userns }),
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

/// The directories of an overlay, topmost first.
struct Layers<'a> {
    lower: &'a [PathBuf],
    upper: &'a Path,
    work: &'a Path,
    userns: Option<BorrowedFd<'a>>,
}

/// `volatile`: unmounting syncs nothing, and a layer that a crash of the machine left is thrown away anyhow.
fn overlay(layers: &Layers<'_>) -> Result<OwnedFd, Error> {
    let at =
        |errno: Errno| Error::step("mounting the layers under", layers.upper.display().to_string(), errno);
    match try_overlay(layers) {
        // What a `volatile` mount leaves behind, so that nobody trusts its layer after a crash of the machine. It
        // survives every unmount, and a create that is tried again finds it.
        Err(Errno::INVAL) => {
            fs::remove_dir_all(layers.work.join("work/incompat")).map_err(|_| at(Errno::INVAL))?;
            try_overlay(layers).map_err(at)
        }
        other => other.map_err(at),
    }
}

fn try_overlay(layers: &Layers<'_>) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    fsconfig_set_string(context, c"source", c"overlay")?;
    let shifted = layers.userns.map(|userns| add_shifted_layers(context, layers, userns)).transpose()?;
    if shifted.is_none() {
        add_layers(context, layers)?;
    }
    fsconfig_set_flag(context, c"volatile")?;
    fsconfig_create(context)?;
    // Only now does the overlay have mounts of its own; until here it knew but ours.
    drop(shifted);
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn add_layers(context: BorrowedFd<'_>, layers: &Layers<'_>) -> rustix::io::Result<()> {
    for layer in layers.lower {
        // One at a time: no limit on how many there are, and no character that would need an escape.
        fsconfig_set_string(context, c"lowerdir+", layer)?;
    }
    fsconfig_set_string(context, c"upperdir", layers.upper)?;
    fsconfig_set_string(context, c"workdir", layers.work)
}

/// One idmapped mount for all lower layers, whatever their number: many would queue for the one lock of the kernel's
/// mount table. Directories as descriptors need Linux 6.13. The upper is not shifted, since the overlay itself works
/// there as the host's root: what the container writes has its ids on disk.
fn add_shifted_layers(
    context: BorrowedFd<'_>,
    layers: &Layers<'_>,
    userns: BorrowedFd<'_>,
) -> rustix::io::Result<Shifted> {
    let lower = Shifted::of(common_parent(layers.lower.iter().map(PathBuf::as_path)), userns)?;
    for layer in layers.lower {
        fsconfig_set_fd(context, c"lowerdir+", lower.open(layer)?)?;
    }
    give_to_root_of(layers.upper, userns)?;
    fsconfig_set_string(context, c"upperdir", layers.upper)?;
    fsconfig_set_string(context, c"workdir", layers.work)?;
    Ok(lower)
}

/// The container's root directory belongs to its root: whoever that is, the kernel tells of a shifted clone.
fn give_to_root_of(upper: &Path, userns: BorrowedFd<'_>) -> rustix::io::Result<()> {
    if stat(upper)?.st_uid != 0 {
        return Ok(());
    }
    let shifted = fstat(&Shifted::of(upper.to_owned(), userns)?.tree)?;
    chown(upper, Some(Uid::from_raw(shifted.st_uid)), Some(Gid::from_raw(shifted.st_gid)))
}

/// A directory, cloned and idmapped.
struct Shifted {
    tree: OwnedFd,
    path: PathBuf,
}

impl Shifted {
    fn of(path: PathBuf, userns: BorrowedFd<'_>) -> rustix::io::Result<Shifted> {
        let tree = clone_tree(&path, Depth::One)?;
        idmap(tree.as_fd(), Depth::One, userns)?;
        Ok(Shifted { tree, path })
    }

    fn open(&self, dir: &Path) -> rustix::io::Result<OwnedFd> {
        let inside = dir.strip_prefix(&self.path).map_err(|_| Errno::INVAL)?;
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        openat(&self.tree, inside, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }
}

/// The deepest directory that all of them are in; of one alone, itself.
fn common_parent<'a>(mut paths: impl Iterator<Item = &'a Path>) -> PathBuf {
    let first = paths.next().unwrap_or(Path::new("/"));
    paths.fold(first.to_owned(), |common, path| {
        common.components().zip(path.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
    })
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

/// The host's nodes, for containers in a user namespace, where nobody may make any.
pub(crate) fn nodes(devices: &[Device]) -> Result<Vec<OwnedFd>, Error> {
    devices.iter().map(node).collect()
}

fn node(device: &Device) -> Result<OwnedFd, Error> {
    let name = || device.host.to_string_lossy().into_owned();
    let at = |errno: Errno| Error::step("opening the device", name(), errno);
    let path = Path::new(std::ffi::OsStr::from_bytes(device.host.as_bytes()));
    let tree = clone_tree(path, Depth::One).map_err(at)?;
    let stat = rustix::fs::fstat(&tree).map_err(at)?;
    if FileType::from_raw_mode(stat.st_mode) != device.kind || stat.st_rdev != device.number {
        return Err(at(Errno::NODEV));
    }
    Ok(tree)
}

/// linux/magic.h.
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// Where the node's cgroup hierarchies are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The container's own directory in every v1 hierarchy; empty on a node with cgroup2 alone.
pub(crate) fn hierarchies(cgroup_path: &str) -> Result<Vec<Hierarchy>, Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_one_common_parent() {
        let common = |paths: &[&str]| common_parent(paths.iter().map(Path::new));
        assert_eq!(common(&["/a/b/1", "/a/b/2", "/a/b/3/x"]), Path::new("/a/b"));
        assert_eq!(common(&["/a/b/1"]), Path::new("/a/b/1"));
        assert_eq!(common(&["/a", "/b"]), Path::new("/"));
    }
}
