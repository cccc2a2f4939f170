//! /dev: the nodes, and the links that every program expects.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, mknodat, openat, readlinkat, statat, symlinkat,
};
use rustix::io::{Errno, Result};

use super::Kit;
use super::fresh::Fresh;
use super::mounts::attach;
use super::place::{Kind, Links, find_or_make};
use crate::plan::Device;
use crate::report::{At as _, Failure, Step};

/// config-linux.md, "Default Devices" and runtime-linux.md, "Dev symbolic links".
pub(crate) const LINKS: &[(&CStr, &CStr)] = &[
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

pub(super) fn fill(kit: &Kit<'_>, fresh: &Fresh) -> std::result::Result<(), Failure> {
    let found;
    let dev = match (kit.plan.own_dev, fresh.get(c"dev")) {
        (false, _) => None,
        (true, Some(dev)) => Some(dev),
        (true, None) => {
            found = find_or_make(kit.root, c"dev", Kind::Dir, Links::Follow).at(Step::DeviceLink, 0)?;
            Some(found.as_fd())
        }
    };
    for (i, device) in kit.plan.devices.iter().enumerate() {
        match dev {
            Some(dev) if device.dir.as_bytes() == b"dev" => {
                make(kit, i, device, dev).at(Step::Device, i)?;
            }
            _ => {
                let dir =
                    find_or_make(kit.root, &device.dir, Kind::Dir, Links::Follow).at(Step::Device, i)?;
                make(kit, i, device, dir.as_fd()).at(Step::Device, i)?;
            }
        }
    }
    let Some(dev) = dev else { return Ok(()) };
    for (i, (name, target)) in LINKS.iter().enumerate() {
        link(dev, name, target).at(Step::DeviceLink, i)?;
    }
    Ok(())
}

fn make(kit: &Kit<'_>, i: usize, device: &Device, dir: BorrowedFd<'_>) -> Result<()> {
    if let Some(Some(node)) = kit.nodes.get(i) {
        return bind(device, dir, node);
    }
    match mknodat(dir, &device.name, device.kind, Mode::from_raw_mode(device.mode), device.number) {
        Ok(()) => {}
        Err(Errno::EXIST) => return verify(device, dir),
        Err(errno) => return Err(errno),
    }
    if device.uid != 0 || device.gid != 0 {
        let (uid, gid) = (Some(Uid::from_raw(device.uid)), Some(Gid::from_raw(device.gid)));
        chownat(dir, &device.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// An image or a mount may bring nodes of its own; only the very same device will do.
fn verify(device: &Device, dir: BorrowedFd<'_>) -> Result<()> {
    let stat = statat(dir, &device.name, AtFlags::SYMLINK_NOFOLLOW)?;
    let same = FileType::from_raw_mode(stat.st_mode) == device.kind && stat.st_rdev == device.number;
    if same { Ok(()) } else { Err(Errno::EXIST) }
}

/// In a user namespace nobody may make nodes, so the host's is bound.
fn bind(device: &Device, dir: BorrowedFd<'_>, node: &OwnedFd) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY | OFlags::NONBLOCK;
    let place = openat(dir, &device.name, flags, Mode::from_raw_mode(0o644))?;
    attach(node.as_fd(), place.as_fd())
}

fn link(dev: BorrowedFd<'_>, name: &CStr, target: &CStr) -> Result<()> {
    match symlinkat(target, dev, name) {
        Err(Errno::EXIST) if name == c"ptmx" => replace_ptmx(dev),
        // A mount on /dev may bring the link, or something else of that name which its owner wants there.
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// A ptmx that is no link to pts/ptmx would open terminals of another devpts.
fn replace_ptmx(dev: BorrowedFd<'_>) -> Result<()> {
    if readlinkat(dev, c"ptmx", Vec::new()).is_ok_and(|target| target.as_c_str() == c"pts/ptmx") {
        return Ok(());
    }
    rustix::fs::unlinkat(dev, c"ptmx", AtFlags::empty())?;
    symlinkat(c"pts/ptmx", dev, c"ptmx")
}

/// The container's /dev/null, proven to be the null device: masks are made of it (CVE-2025-31133).
pub(super) fn open_null(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let null = super::place::find(root, c"dev/null", Links::Refuse)?;
    let stat = fstat(&null)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null { Ok(null) } else { Err(Errno::NODEV) }
}
