//! The layers of a container as one file system, mounted nowhere.

mod older_kernels;

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kernel::Depth;
use rustix::fs::{Gid, Mode, OFlags, Uid, chown, fstat, openat, stat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::{clone_tree, idmap};
use crate::Error;

/// The directories of an overlay, topmost first.
pub(super) struct Layers<'a> {
    pub(super) lower: &'a [PathBuf],
    pub(super) upper: &'a Path,
    pub(super) work: &'a Path,
    pub(super) userns: Option<BorrowedFd<'a>>,
    /// The SELinux label that all files show.
    pub(super) label: Option<&'a CStr>,
}

/// `volatile`: unmounting syncs nothing, and a layer that a crash of the machine left is thrown away anyhow.
pub(super) fn mount(layers: &Layers<'_>) -> Result<OwnedFd, Error> {
    let made = match mount_detached(layers) {
        Err(Errno::INVAL) => try_otherwise(layers),
        other => other,
    };
    made.map_err(|errno| Error::step("mounting the layers under", layers.upper.display().to_string(), errno))
}

/// The kernel has one word for two things: what a `volatile` mount leaves behind, so that nobody trusts its layer
/// after a crash of the machine (it survives every unmount, and a create that is tried again finds it), and a kernel
/// that is too old to be told of layers one by one.
fn try_otherwise(layers: &Layers<'_>) -> rustix::io::Result<OwnedFd> {
    if fs::remove_dir_all(layers.work.join("work/incompat")).is_ok()
        && let Ok(mount) = mount_detached(layers)
    {
        return Ok(mount);
    }
    older_kernels::mount(layers)
}

fn mount_detached(layers: &Layers<'_>) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    fsconfig_set_string(context, c"source", c"overlay")?;
    let shifted = layers.userns.map(|userns| add_shifted_layers(context, layers, userns)).transpose()?;
    if shifted.is_none() {
        add_layers(context, layers)?;
    }
    fsconfig_set_flag(context, c"volatile")?;
    if let Some(label) = layers.label {
        fsconfig_set_string(context, c"context", label)?;
    }
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
