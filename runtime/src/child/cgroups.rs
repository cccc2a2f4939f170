//! A `cgroup` mount: the container's own cgroups, at the place where a program looks for them.
//!
//! On cgroup2 it is a cgroup2 mount, which the cgroup namespace roots at the container's own. On v1 it is a
//! tmpfs with a directory for every hierarchy, on which the container's own directory of it is bound.

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};

use kernel::{Depth, MountAttr, mount_attr, mount_setattr};
use rustix::fs::{Mode, mkdirat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use super::Kit;
use super::at_once;
use super::mounts::{attach, finish, make_fs, target};
use super::place::{Kind, Links, find};
use crate::plan::Mount;
use crate::report::{At as _, Failure, Step};

pub(super) fn mount(kit: &Kit<'_>, i: usize, mount: &Mount) -> Result<(), Failure> {
    if let Some(host) = &kit.trees[i] {
        // The container has none of its own: its maker may make none, nor mount what only a cgroup's owner may.
        let place = target(kit, i, mount, || Ok(Kind::Dir))?;
        return attach(host.as_fd(), place.as_fd()).at(Step::MountCgroup, i);
    }
    if kit.hierarchies.is_empty() { unified(kit, i, mount) } else { hybrid(kit, i, mount) }
}

fn unified(kit: &Kit<'_>, i: usize, mount: &Mount) -> Result<(), Failure> {
    let source = (c"source".to_owned(), Some(c"cgroup".to_owned()));
    let made = make_fs(c"cgroup2", &[source], &mount.attr, |fd| kit.let_go(fd)).at(Step::MountCgroup, i)?;
    let place = target(kit, i, mount, || Ok(Kind::Dir))?;
    attach(made.as_fd(), place.as_fd()).at(Step::MountCgroup, i)?;
    finish(made.as_fd(), mount).at(Step::MountCgroup, i)
}

fn hybrid(kit: &Kit<'_>, i: usize, mount: &Mount) -> Result<(), Failure> {
    let writable = MountAttr { set: mount.attr.set & !mount_attr::RDONLY, ..mount.attr };
    let options =
        [(c"source".to_owned(), Some(c"tmpfs".to_owned())), (c"mode".to_owned(), Some(c"755".to_owned()))];
    let tmpfs = match on_sysfs(kit, mount, &options, &writable).at(Step::MountCgroup, i)? {
        Some(tmpfs) => tmpfs,
        None => {
            let place = target(kit, i, mount, || Ok(Kind::Dir))?;
            let let_go = |fd| kit.let_go(fd);
            let tmpfs = make_fs(c"tmpfs", &options, &writable, let_go).at(Step::MountCgroup, i)?;
            attach(tmpfs.as_fd(), place.as_fd()).at(Step::MountCgroup, i)?;
            kit.let_go(place);
            tmpfs
        }
    };
    for hierarchy in kit.hierarchies {
        mkdirat(&tmpfs, &hierarchy.name, Mode::from_raw_mode(0o755)).at(Step::MountCgroup, i)?;
        for alias in &hierarchy.aliases {
            symlinkat(&hierarchy.name, &tmpfs, alias).at(Step::MountCgroup, i)?;
        }
    }
    for hierarchy in kit.hierarchies {
        // By name: nobody else has reached this tmpfs yet, so the directory is the one that we made.
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&hierarchy.tree, c"", &tmpfs, &hierarchy.name, flags).at(Step::MountCgroup, i)?;
    }
    // The hierarchies as well: whoever can write there can leave the container's limits (CVE-2023-25809).
    mount_setattr(tmpfs.as_fd(), Depth::Recursive, &mount.attr).at(Step::MountCgroup, i)?;
    finish(tmpfs.as_fd(), mount).at(Step::MountCgroup, i)?;
    kit.let_go(tmpfs);
    Ok(())
}

/// At its usual place in a sysfs of our own, where it takes the fewest calls.
fn on_sysfs(
    kit: &Kit<'_>,
    mount: &Mount,
    options: &[(CString, Option<CString>)],
    attr: &MountAttr,
) -> rustix::io::Result<Option<OwnedFd>> {
    if mount.destination.as_c_str() != c"sys/fs/cgroup" {
        return Ok(None);
    }
    match at_once::cover_kernels(kit, &mount.destination, options, attr) {
        Ok(true) => find(kit.root, &mount.destination, Links::Refuse).map(Some),
        // A sysfs without cgroups: the longer way says so.
        Ok(false) | Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
