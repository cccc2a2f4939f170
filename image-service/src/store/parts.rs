//! What has come of large blobs that are not whole yet: kept over a broken pull and over a crash, so that
//! the next pull asks only for what is not there: the rest, and what came before it was worth keeping.
//!
//! ```text
//! ROOT/parts/<hex of the blob's digest>/<offset>   bytes of the blob from there on
//! ```
//! A file's length says how much of it has come; nothing else is written down. Nothing here is believed:
//! whoever reads a blob hashes all of it, and a part that makes a wrong blob is removed. After a power cut a
//! file may hold anything, which is the same case.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::digest::Digest;
use crate::gc::Trash;

/// What is kept of all blobs that no pull has in hand.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// What nobody came back for is given up after this long.
    age: Duration,
    /// The oldest go first.
    blobs: usize,
    bytes: u64,
}

/// Two layers of the largest models; a disk on which that is much is full soon, and then all is cleared.
const BOUNDS: Bounds = Bounds { age: Duration::from_secs(24 * 3600), blobs: 32, bytes: 20 << 30 };
/// Files of one blob: no pull leaves more, whatever was split.
const MAX_FILES: usize = 256;

#[derive(Debug)]
pub(crate) struct Parts {
    dir: PathBuf,
    trash: Arc<Trash>,
    bounds: Bounds,
    /// Those that a pull has in its hands, and what is to become of them after.
    open: Mutex<BTreeMap<PathBuf, Then>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Keep,
    Remove,
}

/// One blob's parts, in the hands of one pull.
#[derive(Debug)]
pub(crate) struct Part {
    of: Arc<Parts>,
    path: PathBuf,
}

/// A run of bytes that came together: from `start` on, `filled` of them.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) start: u64,
    pub(crate) filled: u64,
    pub(crate) file: Arc<File>,
}

impl Parts {
    /// Opens the directory and removes what is too old or too much.
    pub(crate) fn new(dir: PathBuf, trash: Arc<Trash>) -> io::Result<Arc<Parts>> {
        Parts::bounded(dir, trash, BOUNDS)
    }

    fn bounded(dir: PathBuf, trash: Arc<Trash>, bounds: Bounds) -> io::Result<Arc<Parts>> {
        let parts = Arc::new(Parts { dir, trash, bounds, open: Mutex::default() });
        parts.trim(&parts.open())?;
        Ok(parts)
    }

    /// (bytes, inodes) of all parts, of those in hand, too. Walks them.
    pub(crate) fn usage(&self) -> io::Result<(u64, u64)> {
        let mut all = (0, 0);
        for entry in std::fs::read_dir(&self.dir)? {
            let size = Size::of(&entry?.path());
            all = (all.0 + size.bytes, all.1 + size.inodes);
        }
        Ok(all)
    }

    /// Removes what is too old or too much of what no pull has in hand.
    fn trim(&self, open: &BTreeMap<PathBuf, Then>) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if !open.contains_key(&path) {
                found.push((Size::of(&path), path));
            }
        }
        // The newest are kept.
        found.sort_by_key(|(size, _)| std::cmp::Reverse(size.modified));
        let (mut blobs, mut bytes) = (0, 0);
        for (size, path) in found {
            (blobs, bytes) = (blobs + 1, bytes + size.bytes);
            let old = size.modified.elapsed().is_ok_and(|age| age > self.bounds.age);
            // The newest may be as large as it is: else no blob of that size could be gone on with.
            if old || blobs > self.bounds.blobs || (blobs > 1 && bytes > self.bounds.bytes) {
                self.trash.take(&path)?;
                (blobs, bytes) = (blobs - 1, bytes - size.bytes);
            }
        }
        Ok(())
    }

    /// What has come of a blob, sorted and without overlap; None while another pull has it in hand.
    pub(crate) fn take(self: &Arc<Parts>, blob: &Digest, size: u64) -> io::Result<Option<(Part, Vec<Came>)>> {
        let path = self.dir.join(blob.hex());
        if self.open().insert(path.clone(), Then::Keep).is_some() {
            return Ok(None);
        }
        let part = Part { of: self.clone(), path };
        let came = match part.read(size) {
            Ok(came) => came,
            // Whatever lies there is no part of ours.
            Err(_) => {
                part.of.trash.take(&part.path)?;
                Vec::new()
            }
        };
        Ok(Some((part, came)))
    }

    /// Gives back the space of everything: of what a pull has in hand, when it lets go.
    pub(crate) fn clear(&self) -> io::Result<()> {
        let mut open = self.open();
        open.values_mut().for_each(|then| *then = Then::Remove);
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if !open.contains_key(&path) {
                self.trash.take(&path)?;
            }
        }
        Ok(())
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Then>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file for a run of bytes from `start` on.
    pub(crate) fn begin(&self, start: u64) -> io::Result<Arc<File>> {
        std::fs::create_dir_all(&self.path)?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        options.open(self.path.join(start.to_string())).map(Arc::new)
    }

    /// The blob is whole elsewhere, or was wrong.
    pub(crate) fn remove(&self) {
        if let Err(error) = self.of.trash.take(&self.path) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "a part of a blob can't be removed; it goes when it is old");
        }
    }

    fn read(&self, size: u64) -> io::Result<Vec<Came>> {
        let mut files = Vec::new();
        let entries = match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|_| io::ErrorKind::InvalidData)?;
            let start: u64 = name.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            if start >= size || files.len() == MAX_FILES || !entry.file_type()?.is_file() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let file = File::options().read(true).write(true).open(entry.path())?;
            let filled = file.metadata()?.len();
            // Begun, and nothing came.
            if filled == 0 {
                std::fs::remove_file(entry.path())?;
                continue;
            }
            files.push(Came { start, filled, file: Arc::new(file) });
        }
        files.sort_by_key(|came| came.start);
        let ends: Vec<u64> = files.iter().skip(1).map(|came| came.start).chain([size]).collect();
        for (came, end) in files.iter_mut().zip(ends) {
            came.filled = came.filled.min(end - came.start);
        }
        Ok(files)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut open = self.of.open();
        if open.get(&self.path) == Some(&Then::Remove) {
            self.remove();
        }
        open.remove(&self.path);
        // Nothing was kept of most, and then there is no more than before.
        if self.path.exists()
            && let Err(error) = self.of.trim(&open)
        {
            let dir = self.of.dir.display();
            tracing::warn!(%dir, %error, "parts of blobs can't be trimmed; the next broken pull tries again");
        }
    }
}

/// What one blob's parts take, and when the last of them came.
#[derive(Debug)]
struct Size {
    bytes: u64,
    inodes: u64,
    modified: SystemTime,
}

impl Size {
    /// What can't be looked at counts for nothing: it may be gone by now.
    fn of(path: &Path) -> Size {
        let files = std::fs::read_dir(path).into_iter().flatten().flatten();
        let all = files.map(|file| file.metadata()).chain([std::fs::symlink_metadata(path)]);
        let none = Size { bytes: 0, inodes: 0, modified: SystemTime::UNIX_EPOCH };
        all.flatten().fold(none, |size, metadata| Size {
            bytes: size.bytes + metadata.blocks() * 512,
            inodes: size.inodes + 1,
            modified: size.modified.max(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn parts(dir: &Path) -> Arc<Parts> {
        for name in ["parts", "trash"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        Parts::new(dir.join("parts"), Arc::new(Trash::open(dir.join("trash")).unwrap())).unwrap()
    }

    #[test]
    fn what_came_is_found_again_and_only_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let parts = parts(dir.path());
        let blob = Digest::sha256(b"x");
        let (part, came) = parts.take(&blob, 100).unwrap().unwrap();
        assert!(came.is_empty() && parts.take(&blob, 100).unwrap().is_none());
        for (start, length) in [(60, 500), (0, 7), (30, 50)] {
            part.begin(start).unwrap().set_len(length).unwrap();
        }
        drop(part);
        let (part, came) = parts.take(&blob, 100).unwrap().unwrap();
        let found: Vec<_> = came.iter().map(|came| (came.start, came.filled)).collect();
        assert_eq!(found, [(0, 7), (30, 30), (60, 40)]);
        part.begin(90).unwrap();
        drop(part);
        let (part, came) = parts.take(&blob, 100).unwrap().unwrap();
        assert_eq!((came.len(), std::fs::read_dir(part.path()).unwrap().count()), (3, 3), "one has nothing");
        part.remove();
        drop(part);
        assert!(parts.take(&blob, 100).unwrap().unwrap().1.is_empty());
    }

    #[test]
    fn what_is_no_part_or_old_or_unwanted_goes() {
        let dir = tempfile::tempdir().unwrap();
        let all = parts(dir.path());
        let blob = Digest::sha256(b"x");
        for stranger in ["y", "100", "-1", "0/sub"] {
            let path = dir.path().join("parts").join(blob.hex()).join(stranger);
            std::fs::create_dir_all(path).unwrap();
            let (part, came) = all.take(&blob, 100).unwrap().unwrap();
            assert!(came.is_empty(), "{stranger}");
            assert!(!part.path().exists(), "{stranger}");
        }
        for n in 0..BOUNDS.blobs + 5 {
            std::fs::create_dir_all(dir.path().join(format!("parts/{n}"))).unwrap();
        }
        let all = parts(dir.path());
        let count = || std::fs::read_dir(dir.path().join("parts")).unwrap().count();
        assert_eq!(count(), BOUNDS.blobs);
        let (held, _) = all.take(&blob, 100).unwrap().unwrap();
        held.begin(0).unwrap();
        all.clear().unwrap();
        assert_eq!(count(), 1);
        drop(held);
        assert_eq!(count(), 0);
    }
    /// Keeps `bytes` of a blob, as a broken pull does, and says whose they are.
    fn keep(parts: &Arc<Parts>, n: usize, bytes: usize) -> String {
        let blob = Digest::sha256(&n.to_le_bytes());
        let (part, _) = parts.take(&blob, 1 << 20).unwrap().unwrap();
        part.begin(0).unwrap().write_all_at(&vec![1; bytes], 0).unwrap();
        drop(part);
        // The clock of a file system is coarse.
        std::thread::sleep(Duration::from_millis(15));
        blob.hex().to_owned()
    }

    fn kept(dir: &Path) -> std::collections::BTreeSet<String> {
        let entries = std::fs::read_dir(dir.join("parts")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn broken_pulls_keep_no_more_than_the_bounds_however_long_the_daemon_lives() {
        let dir = tempfile::tempdir().unwrap();
        let all = parts(dir.path());
        let names: Vec<String> = (0..BOUNDS.blobs + 3).map(|n| keep(&all, n, 1)).collect();
        assert_eq!(kept(dir.path()), names[3..].iter().cloned().collect());
        let bounds = Bounds { bytes: 100_000, ..BOUNDS };
        let few = Parts::bounded(dir.path().join("parts"), all.trash.clone(), bounds).unwrap();
        let names: Vec<String> = (100..105).map(|n| keep(&few, n, 40_000)).collect();
        let now = kept(dir.path());
        assert!(now.contains(&names[4]) && now.contains(&names[3]) && !now.contains(&names[2]), "{now:?}");
        // What a pull has in hand is let alone.
        let (held, came) = few.take(&Digest::sha256(&104usize.to_le_bytes()), 1 << 20).unwrap().unwrap();
        keep(&few, 200, 90_000);
        assert!(held.path().exists() && came.len() == 1);
        let (bytes, inodes) = few.usage().unwrap();
        assert!((130_000..200_000).contains(&bytes) && inodes >= 4, "{bytes} bytes, {inodes} inodes");
        let bounds = Bounds { age: Duration::ZERO, ..BOUNDS };
        drop(held);
        Parts::bounded(dir.path().join("parts"), all.trash.clone(), bounds).unwrap();
        assert_eq!(kept(dir.path()).len(), 0);
    }
}
