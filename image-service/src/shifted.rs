//! Layers whose files belong to others than the disk says: ID-mapped mounts (mount_setattr(2), Linux 5.12; below an
//! overlay 5.19).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use kernel::{Depth, MountAttr, mount_attr, mount_setattr};
use rustix::fs::{CWD, Gid, Uid, chown, fstat, stat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::images::RootfsPlan;

/// Mounts the directory that all layers below a writable one are in at `place`, shifted as the user namespace at `userns`
/// has it, and gives the plan with the layers as they are seen there. The writable one's root, which the disk has as the
/// image's, gets its owner: overlay works there with the host's ids.
///
/// The caller unmounts `place`, also after an error.
///
/// # Errors
/// What the kernel says; a file system that can't be shifted answers EINVAL.
pub fn shift(plan: &RootfsPlan, userns: &Path, place: &Path) -> io::Result<RootfsPlan> {
    let userns = File::open(userns)?;
    let all = plan.lower.first().and_then(|layer| layer.parent()).unwrap_or(Path::new("/"));
    let tree = shifted(all, &userns)?;
    move_mount(&tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let below = |layer: &std::path::PathBuf| {
        let inside = layer.strip_prefix(all).map_err(io::Error::other)?;
        Ok::<_, io::Error>(place.join(inside))
    };
    let lower = plan.lower.iter().map(below).collect::<io::Result<_>>()?;
    give_to_root_of(&plan.upper, &userns)?;
    Ok(RootfsPlan { lower, ..plan.clone() })
}

/// Whoever is root there, the kernel tells of a shifted clone.
fn give_to_root_of(upper: &Path, userns: &File) -> io::Result<()> {
    if stat(upper)?.st_uid != 0 {
        return Ok(());
    }
    let owner = fstat(shifted(upper, userns)?)?;
    Ok(chown(upper, Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid)))?)
}

fn shifted(path: &Path, userns: &File) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags)?;
    let userns_fd = u64::try_from(userns.as_raw_fd()).map_err(io::Error::other)?;
    let attr = MountAttr { set: mount_attr::IDMAP, userns_fd, ..MountAttr::default() };
    mount_setattr(tree.as_fd(), Depth::One, &attr)?;
    Ok(tree)
}
