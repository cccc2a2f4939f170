//! Mends what unpacking layers apart from each other would break.
//!
//! An archive may put `tmp/x` into its layer and say nothing of `tmp`. Unpacked alone, `tmp` has to be
//! made with some owner and mode, and in the overlay those would hide what a layer below says of it: a
//! `/tmp` that was 1777 would be 755. So such an image gets one more layer on top, with nothing but the
//! directories that came out wrong, made right: overlay takes a directory's attributes from the topmost
//! layer that has it. Images built by docker need none.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Gid, Mode, Uid, XattrFlags};

use crate::digest::{Algorithm, Hasher};
use crate::image::Layer;
use crate::layered::{Layered, Merged, Unreadable};
use crate::unpack::tree::{open_child, open_root};

/// Directories that need mending, parents before what lies in them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mending(BTreeMap<String, Attributes>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    acls: Vec<(&'static str, Vec<u8>)>,
}

/// What a directory keeps in attributes and overlay shows of the topmost layer's only.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
/// The kernel's limit of an attribute's value.
const MAX_ACL: usize = 64 << 10;

/// What has to be mended in the image of these layers; None when nothing has. `path` says where one lies.
pub(crate) fn needed(
    layers: &[Layer],
    path: impl Fn(&Layer) -> PathBuf,
) -> Result<Option<Mending>, io::Error> {
    if layers.iter().all(|layer| layer.undescribed.is_empty()) {
        return Ok(None);
    }
    let topmost_first: Vec<&Layer> = layers.iter().rev().collect();
    let paths: Vec<PathBuf> = topmost_first.iter().map(|layer| path(layer)).collect();
    let layered = Layered::open(&paths)?;
    let mut mending = BTreeMap::new();
    for name in layers.iter().flat_map(|layer| &layer.undescribed) {
        let Some(merged) = directory(&layered, name)? else { continue };
        let right = attributes(&merged, effective(&merged, name, &topmost_first))?;
        if right != attributes(&merged, 0)? {
            mending.insert(name.clone(), right);
        }
    }
    // The way to a mended directory is in the new layer, too, and must not become wrong there.
    for name in mending.keys().cloned().collect::<Vec<_>>() {
        for (slash, _) in name.match_indices('/') {
            let way = &name[..slash];
            if !mending.contains_key(way)
                && let Some(merged) = directory(&layered, way)?
            {
                let right = attributes(&merged, effective(&merged, way, &topmost_first))?;
                mending.insert(way.to_owned(), right);
            }
        }
    }
    Ok((!mending.is_empty()).then_some(Mending(mending)))
}

fn directory(layered: &Layered, name: &str) -> io::Result<Option<Merged>> {
    match layered.directory(name) {
        Ok(merged) => Ok(merged),
        Err(Unreadable::Io(error)) => Err(error),
        Err(
            Unreadable::NotRegular | Unreadable::TooLarge(_) | Unreadable::Loop | Unreadable::NoDirectory,
        ) => Ok(None),
    }
}

/// The part that describes the directory: the topmost whose layer has an entry for it.
fn effective(merged: &Merged, name: &str, topmost_first: &[&Layer]) -> usize {
    let describes = |layer: usize| {
        topmost_first[layer].undescribed.binary_search_by(|other| other.as_str().cmp(name)).is_err()
    };
    merged.iter().position(|part| describes(part.layer)).unwrap_or(0)
}

fn attributes(merged: &Merged, part: usize) -> io::Result<Attributes> {
    let directory = &merged[part].directory;
    let stat = rustix::fs::fstat(directory)?;
    let acl = |name: &&'static str| {
        let mut value = vec![0; MAX_ACL];
        let length = rustix::fs::fgetxattr(directory, *name, &mut value[..]).ok()?;
        value.truncate(length);
        Some((*name, value))
    };
    Ok(Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        acls: ACLS.iter().filter_map(acl).collect(),
    })
}

impl Mending {
    /// The layer this makes. It is named by what is in it, like any other, so images share it.
    pub(crate) fn layer(&self) -> Layer {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        // Begins unlike any tar, so that no archive has this digest.
        hasher.update(b"\0berth mending\0");
        hasher.update(format!("{:?}", self.0).as_bytes());
        let inodes = self.0.len() as u64;
        Layer {
            diff_id: hasher.finish(),
            bytes: inodes * 4096,
            inodes,
            has_root: false,
            opaque_root: false,
            undescribed: Vec::new(),
        }
    }

    /// Makes the directories in an empty one.
    pub(crate) fn make(&self, root: &Path) -> io::Result<()> {
        let root = open_root(root)?;
        for (name, attributes) in &self.0 {
            let mut here: Option<OwnedFd> = None;
            for part in name.split('/') {
                let parent = here.as_ref().unwrap_or(&root);
                match rustix::fs::mkdirat(parent, part, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                here = Some(open_child(parent, part.as_bytes())?);
            }
            attributes.set(here.as_ref().unwrap_or(&root))?;
        }
        Ok(())
    }
}

impl Attributes {
    fn set(&self, directory: &OwnedFd) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::fs::fchown(directory, Some(uid), Some(gid))?;
        for (name, value) in &self.acls {
            rustix::fs::fsetxattr(directory.as_fd(), *name, value, XattrFlags::empty())?;
        }
        Ok(rustix::fs::fchmod(directory, Mode::from_raw_mode(self.mode))?)
    }
}
