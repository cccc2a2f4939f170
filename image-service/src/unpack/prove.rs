//! Holds a layer's directory against its diff ID, by writing its archive again from its recipe and hashing that.

use std::fs::File;
use std::io::BufReader;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};

use super::Limits;
use super::archive::Archive;
use super::decrypt::Packed;
use super::entry::{Entry, Kind, split};
use super::recipe::Rebuilt;
use super::stream::{Diff, Inflater, Source};
use crate::digest::{Algorithm, Digest};
use crate::error::chain;

const READ_BYTES: usize = 256 << 10;

/// Reads the archive that the layer is said to be, compares each entry with what lies there, and the whole with
/// the diff ID.
pub(crate) fn prove(recipe: File, root: OwnedFd, diff_id: &Digest) -> Result<(), String> {
    let told = |error: std::io::Error| super::stream::error(error).to_string();
    let own = root.try_clone().map_err(|error| error.to_string())?;
    let rebuilt = Rebuilt::open(recipe, own).map_err(told)?;
    let mut replaced = rebuilt.replaced();
    let source = Source::new(BufReader::with_capacity(READ_BYTES, rebuilt), Algorithm::Sha256);
    let inflater = Inflater::new(Packed::new(source, None)).map_err(told)?;
    let diff = Diff::new(inflater, diff_id.algorithm(), Limits::new(u64::MAX));
    let mut archive = Archive::new(diff, u64::MAX);
    while let Some(entry) = archive.next_entry().map_err(|error| chain(&error))? {
        // Something else has its name since; what it held is in the archive's digest all the same.
        match replaced.get_mut(&entry.path).filter(|times| **times > 0) {
            Some(times) => *times -= 1,
            None => compare(&root, &entry)?,
        }
    }
    let mut diff = archive.into_inner();
    diff.drain().map_err(told)?;
    let (found, _) = diff.finish().map_err(told)?;
    if found == *diff_id {
        Ok(())
    } else {
        Err(format!("a file's content has changed: its digest is {found}"))
    }
}

/// Of a directory only that it is one: an archive may say it twice, and the last word counts. Whiteouts are
/// overlay's marks by now, and a hard link has its target's owner.
fn compare(root: &OwnedFd, entry: &Entry) -> Result<(), String> {
    let (_, name) = split(&entry.path);
    if entry.path.is_empty() || name.starts_with(b".wh.") {
        return Ok(());
    }
    let shown = String::from_utf8_lossy(&entry.path);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let opened = rustix::fs::openat2(root.as_fd(), entry.path.as_slice(), flags, Mode::empty(), inside);
    let opened = opened.map_err(|errno| format!("{shown} can't be found: {errno}"))?;
    let stat = rustix::fs::fstat(&opened).map_err(|errno| format!("{shown}: {errno}"))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let (same_kind, has_owner) = match &entry.kind {
        Kind::File { .. } => (kind == FileType::RegularFile, true),
        Kind::HardLink { .. } => (kind != FileType::Directory, false),
        Kind::Directory => (kind == FileType::Directory, false),
        Kind::Symlink { target } => {
            let found = rustix::fs::readlinkat(&opened, "", Vec::new());
            if kind == FileType::Symlink && found.is_ok_and(|found| found.as_bytes() != target.as_slice()) {
                return Err(format!("{shown} leads elsewhere"));
            }
            (kind == FileType::Symlink, true)
        }
        Kind::Device { character: true, .. } => (kind == FileType::CharacterDevice, true),
        Kind::Device { character: false, .. } => (kind == FileType::BlockDevice, true),
        Kind::Fifo => (kind == FileType::Fifo, true),
    };
    match () {
        () if !same_kind => Err(format!("{shown} is something else")),
        () if has_owner && (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid) => {
            Err(format!("{shown} has another owner"))
        }
        () if has_owner && kind != FileType::Symlink && mode(&stat) != entry.mode => {
            Err(format!("{shown} has another mode"))
        }
        () => Ok(()),
    }
}

fn mode(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}
