//! Writable layers: one directory per container, and the layers below it that it holds.
//!
//! ```text
//! CONTAINERS/<container id>/held    which layers, and in which boot
//!                           upper/  work/
//! ```
//! They are volatile: made without fsync, and worth nothing after a reboot.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::layers::{Damaged, Hold, Layers};
use crate::digest::Digest;
use crate::error::Error;
use crate::gc::Trash;
use crate::image::{Image, Layer};
use crate::images::{RootfsPlan, Usage};
use crate::mountplan;
use crate::unpack;

const RECORD: &str = "held";
/// More than any runtime's ids.
const MAX_ID: usize = 128;
/// A record names layers; an image has few.
const MAX_RECORD_BYTES: u64 = 4 << 20;

#[derive(Debug)]
pub(crate) struct Writables {
    dir: PathBuf,
    /// The lower directory of an image without any.
    empty_dir: PathBuf,
    layers: Arc<Layers>,
    trash: Arc<Trash>,
    boot: String,
    held: Mutex<BTreeMap<String, Hold>>,
    /// One making or unmaking at a time; readers of `held` wait for neither.
    changing: Mutex<()>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    boot: String,
    image: String,
    layers: Vec<Layer>,
}

impl Writables {
    /// Finds what an earlier run made in this boot; what is of another boot, or not whole, is removed.
    pub(crate) fn open(
        dir: PathBuf,
        empty_dir: PathBuf,
        layers: Arc<Layers>,
        trash: Arc<Trash>,
        boot: String,
    ) -> Result<Writables, Error> {
        let writables = Writables {
            dir,
            empty_dir,
            layers,
            trash,
            boot,
            held: Mutex::default(),
            changing: Mutex::default(),
        };
        let failed = |error| Error::io("listing", &writables.dir, error);
        for found in std::fs::read_dir(&writables.dir).map_err(failed)? {
            let name = found.map_err(failed)?.file_name();
            writables.adopt(&name.to_string_lossy());
        }
        Ok(writables)
    }

    pub(crate) fn make(&self, container_id: &str, image: &Image) -> Result<RootfsPlan, Error> {
        let dir = self.path(container_id)?;
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hold) = self.held().get(container_id) {
            return Ok(self.plan(&dir, hold.layers()));
        }
        let hold = self
            .layers
            .hold(image.layers.iter().map(|layer| &layer.diff_id))
            .ok_or_else(|| Error::NotFound { name: image.id.clone(), source: None })?;
        let made = self.trash.take(&dir).and_then(|()| self.make_dirs(&dir, image));
        if let Err(error) = made {
            _ = self.trash.take(&dir);
            return Err(Error::io("making the writable layer", &dir, error));
        }
        let plan = self.plan(&dir, hold.layers());
        self.held().insert(container_id.to_owned(), hold);
        Ok(plan)
    }

    pub(crate) fn unmake(&self, container_id: &str) -> Result<(), Error> {
        let dir = self.path(container_id)?;
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.trash.take(&dir).map_err(|error| Error::io("removing", &dir, error))?;
        // The layers are let go of last: as long as the record is there, so are they.
        let held = self.held().remove(container_id);
        drop(held);
        Ok(())
    }

    pub(crate) fn plan_of(&self, container_id: &str) -> Option<RootfsPlan> {
        let dir = self.path(container_id).ok()?;
        self.held().get(container_id).map(|hold| self.plan(&dir, hold.layers()))
    }

    /// Marks a layer that no container lies on; else the answer is such a container. One that is just being made
    /// is waited for, and the next finds the mark.
    pub(crate) fn mark_damaged(&self, diff_id: &Digest) -> Result<Damaged, String> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let uses = |hold: &Hold| hold.layers().iter().any(|layer| layer.diff_id == *diff_id);
        match self.held().iter().find(|(_, hold)| uses(hold)) {
            Some((id, _)) => Err(id.clone()),
            None => Ok(self.layers.mark_damaged(diff_id)),
        }
    }

    pub(crate) fn list(&self) -> Vec<String> {
        self.held().keys().cloned().collect()
    }

    pub(crate) fn usage(&self, container_id: &str) -> Usage {
        match self.path(container_id) {
            Ok(path) => usage(path),
            Err(_) => Usage::default(),
        }
    }

    pub(crate) fn usage_of_all(&self) -> Usage {
        usage(self.dir.clone())
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Hold>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id becomes a directory's name only when it can be nothing else.
    fn path(&self, container_id: &str) -> Result<PathBuf, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let good = !container_id.is_empty()
            && container_id.len() <= MAX_ID
            && !container_id.starts_with('.')
            && container_id.bytes().all(plain);
        if good {
            Ok(self.dir.join(container_id))
        } else {
            Err(Error::invalid(
                format!("container id {container_id:?}"),
                "it can't be the name of a directory",
            ))
        }
    }

    fn make_dirs(&self, dir: &Path, image: &Image) -> io::Result<()> {
        let private = |path: &Path| std::fs::DirBuilder::new().mode(0o700).create(path);
        private(dir)?;
        let record =
            Record { boot: self.boot.clone(), image: image.id.clone(), layers: image.layers.clone() };
        std::fs::write(dir.join(RECORD), serde_json::to_vec(&record)?)?;
        private(&dir.join("work"))?;
        private(&dir.join("upper"))?;
        self.copy_root(&image.layers, &dir.join("upper"))
    }

    /// A container's `/` is its writable layer's root, so that is made like the image's.
    fn copy_root(&self, layers: &[Layer], upper: &Path) -> io::Result<()> {
        let (mode, owner) = match mountplan::root(layers) {
            Some(diff_id) => {
                let stat = rustix::fs::stat(self.layers.path(diff_id))?;
                (stat.st_mode & 0o7777, Some((stat.st_uid, stat.st_gid)))
            }
            None => (0o755, None),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let upper = rustix::fs::open(upper, flags, Mode::empty())?;
        if let Some((uid, gid)) = owner.filter(|owner| *owner != (0, 0)) {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::fchown(&upper, Some(uid), Some(gid))?;
        }
        Ok(rustix::fs::fchmod(&upper, Mode::from_raw_mode(mode))?)
    }

    fn plan(&self, dir: &Path, layers: &[Layer]) -> RootfsPlan {
        let mut lower: Vec<PathBuf> =
            mountplan::lower(layers).into_iter().map(|diff_id| self.layers.path(diff_id)).collect();
        if lower.is_empty() {
            lower.push(self.empty_dir.clone());
        }
        RootfsPlan { lower, upper: dir.join("upper"), work: dir.join("work") }
    }

    fn adopt(&self, container_id: &str) {
        let Ok(dir) = self.path(container_id) else { return };
        let record = self.read(&dir).filter(|record| record.boot == self.boot && self.has_all(record));
        match record {
            Some(record) => {
                self.held().insert(container_id.to_owned(), self.layers.adopt(&record.layers, false));
            }
            None => {
                if let Err(error) = self.trash.take(&dir) {
                    tracing::warn!(%container_id, %error, "an old writable layer can't be removed");
                }
            }
        }
    }

    fn read(&self, dir: &Path) -> Option<Record> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(dir.join(RECORD)).ok()?;
        io::Read::read_to_end(&mut io::Read::take(file, MAX_RECORD_BYTES), &mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn has_all(&self, record: &Record) -> bool {
        record.layers.iter().all(|layer| self.layers.path(&layer.diff_id).is_dir())
    }
}

fn usage(path: PathBuf) -> Usage {
    let (bytes, inodes) = unpack::open_root(&path).map_or((0, 0), |dir| unpack::usage::of(&dir));
    Usage { path, bytes, inodes }
}
