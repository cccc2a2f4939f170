//! File systems that we have just made and that nobody else has reached: what is made in them is where we say.
//!
//! A /dev of the container's own is one. Its mount points need no search that minds links and other people's renames:
//! there are no links and no other people.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::FileType;
use rustix::fs::{Mode, mkdirat, mknodat};
use rustix::io::{Errno, Result};

use super::Kit;
use super::mounts::is_below;
use super::place::Kind;
use crate::plan::{Mount, Source};

/// The new ones, by the place where they are mounted.
#[derive(Debug, Default)]
pub(super) struct Fresh(Vec<(CString, OwnedFd)>);

impl Fresh {
    /// A tmpfs that something of the plan goes to: worth being made by descriptor, since by its path somebody else's
    /// directory might be found.
    pub(super) fn wants(kit: &Kit<'_>, mount: &Mount) -> bool {
        let Source::Fs { kind, .. } = &mount.source else { return false };
        let is_used = |other: &Mount| is_below(&other.destination, &mount.destination);
        kind.as_bytes() == b"tmpfs"
            && (mount.destination.as_bytes() == b"dev" || kit.plan.mounts.iter().any(is_used))
    }

    pub(super) fn add(&mut self, destination: &CStr, root: OwnedFd) {
        self.0.push((destination.to_owned(), root));
    }

    /// Forgets what a mount there hides.
    pub(super) fn covered_by(&mut self, destination: &CStr) {
        self.0.retain(|(place, _)| place.as_c_str() != destination && !is_below(place, destination));
    }

    pub(super) fn get(&self, place: &CStr) -> Option<BorrowedFd<'_>> {
        self.0.iter().find(|(known, _)| known.as_c_str() == place).map(|(_, root)| root.as_fd())
    }

    /// The file system and the name in it of a place that is right below its root.
    pub(super) fn place_of<'a>(&self, destination: &'a CStr) -> Option<(BorrowedFd<'_>, &'a CStr)> {
        self.0.iter().find_map(|(place, root)| {
            let length = place.as_bytes().len() + 1;
            let name =
                destination.to_bytes_with_nul().get(length..).filter(|_| is_below(destination, place))?;
            let name = CStr::from_bytes_with_nul(name).ok()?;
            let is_plain = !name.is_empty() && !name.to_bytes().contains(&b'/');
            is_plain.then_some((root.as_fd(), name))
        })
    }

    /// Makes a mount point; false when the name is taken, which is for the longer way to look at.
    #[allow(clippy::unused_self, reason = "only what is fresh may be asked")]
    pub(super) fn make(&self, dir: BorrowedFd<'_>, name: &CStr, kind: Kind) -> Result<bool> {
        let made = match kind {
            Kind::Dir => mkdirat(dir, name, Mode::from_raw_mode(0o755)),
            Kind::File => mknodat(dir, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0),
        };
        match made {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}
