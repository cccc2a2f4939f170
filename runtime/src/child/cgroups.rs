//! A `cgroup` mount: the container's own cgroups, at the place where a program looks for them.
//!
//! On cgroup2 it is a cgroup2 mount, which the cgroup namespace roots at the container's own. On v1 it is a
//! tmpfs with a directory for every hierarchy, on which the container's own directory of it is bound.

use std::os::fd::AsFd as _;

use kernel::{Depth, mount_attr, mount_setattr};
use rustix::fs::{Mode, OFlags, mkdirat, openat, symlinkat};

use super::Kit;
use super::mounts::{attach, finish, make_fs, target};
use super::place::Kind;
use crate::plan::Mount;
use crate::report::{At as _, Failure, Step};

pub(super) fn mount(kit: &Kit<'_>, i: usize, mount: &Mount) -> Result<(), Failure> {
    if let Some(host) = &kit.trees[i] {
        // The container has none of its own: its maker may make none, nor mount what only a cgroup's owner may.
        let place = target(kit, i, mount, Kind::Dir)?;
        return attach(host.as_fd(), place.as_fd()).at(Step::MountCgroup, i);
    }
    if kit.hierarchies.is_empty() { unified(kit, i, mount) } else { hybrid(kit, i, mount) }
}

fn unified(kit: &Kit<'_>, i: usize, mount: &Mount) -> Result<(), Failure> {
    let source = (c"source".to_owned(), Some(c"cgroup".to_owned()));
    let made = make_fs(c"cgroup2", &[source], &mount.attr).at(Step::MountCgroup, i)?;
    let place = target(kit, i, mount, Kind::Dir)?;
    attach(made.as_fd(), place.as_fd()).at(Step::MountCgroup, i)?;
    finish(made.as_fd(), mount).at(Step::MountCgroup, i)
}

fn hybrid(kit: &Kit<'_>, i: usize, mount: &Mount) -> Result<(), Failure> {
    let writable = kernel::MountAttr { set: mount.attr.set & !mount_attr::RDONLY, ..mount.attr };
    let options =
        [(c"source".to_owned(), Some(c"tmpfs".to_owned())), (c"mode".to_owned(), Some(c"755".to_owned()))];
    let tmpfs = make_fs(c"tmpfs", &options, &writable).at(Step::MountCgroup, i)?;
    for hierarchy in kit.hierarchies {
        mkdirat(&tmpfs, &hierarchy.name, Mode::from_raw_mode(0o755)).at(Step::MountCgroup, i)?;
        for alias in &hierarchy.aliases {
            symlinkat(&hierarchy.name, &tmpfs, alias).at(Step::MountCgroup, i)?;
        }
    }
    let place = target(kit, i, mount, Kind::Dir)?;
    attach(tmpfs.as_fd(), place.as_fd()).at(Step::MountCgroup, i)?;
    for hierarchy in kit.hierarchies {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(&tmpfs, &hierarchy.name, flags, Mode::empty()).at(Step::MountCgroup, i)?;
        attach(hierarchy.tree.as_fd(), dir.as_fd()).at(Step::MountCgroup, i)?;
    }
    // The hierarchies as well: whoever can write there can leave the container's limits (CVE-2023-25809).
    mount_setattr(tmpfs.as_fd(), Depth::Recursive, &mount.attr).at(Step::MountCgroup, i)?;
    finish(tmpfs.as_fd(), mount).at(Step::MountCgroup, i)
}
