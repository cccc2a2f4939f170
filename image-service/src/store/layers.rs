//! Which layers are on the disk and how many hold each. A layer that nobody holds is gone at once.
//!
//! Pulls, images and writable layers hold layers all in the same way: by a [`Hold`], which lets go when
//! it is dropped. So nothing can forget to.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::gc::Trash;
use crate::image::Layer;

/// All layers of the node.
#[derive(Debug)]
pub(crate) struct Layers {
    dir: PathBuf,
    trash: Arc<Trash>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    layers: HashMap<Digest, Entry>,
    bytes: u64,
    inodes: u64,
    made: u64,
    /// The service is ending: what is held stays on the disk for the next run, which sweeps.
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    layer: Layer,
    holders: usize,
    /// Its bytes are known to be on the disk, not only on their way to it.
    synced: bool,
    /// Which making of the layer this is: it may go and come again while the disk is synced.
    made: u64,
    damaged: bool,
}

/// A layer as it was made once.
#[derive(Debug)]
pub(crate) struct Unsynced {
    pub(crate) diff_id: Digest,
    made: u64,
}

/// The right to use some layers. They exist for as long as this does.
#[derive(Debug)]
pub(crate) struct Hold {
    of: Arc<Layers>,
    layers: Vec<Layer>,
}

/// The mark on a damaged layer. Dropped, whatever lies there is in use again: what could not be had anew is
/// better than nothing.
#[derive(Debug)]
pub(crate) struct Damaged {
    of: Arc<Layers>,
    diff_id: Digest,
}

impl Drop for Damaged {
    fn drop(&mut self) {
        self.of.set_damaged(&self.diff_id, false);
    }
}

impl Layers {
    pub(crate) fn new(dir: PathBuf, trash: Arc<Trash>) -> Arc<Layers> {
        Arc::new(Layers { dir, trash, known: Mutex::default() })
    }

    /// Where a layer lies: a directory named by the hex of its diff ID.
    pub(crate) fn path(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join(diff_id.hex())
    }

    /// Where what writes its archive again lies.
    pub(crate) fn recipe(&self, diff_id: &Digest) -> PathBuf {
        self.dir.with_file_name("recipes").join(diff_id.hex())
    }

    /// As long as it is marked it is nothing to hold, and the next one that is made takes its place.
    pub(crate) fn mark_damaged(self: &Arc<Layers>, diff_id: &Digest) -> Damaged {
        self.set_damaged(diff_id, true);
        Damaged { of: self.clone(), diff_id: diff_id.clone() }
    }

    fn set_damaged(&self, diff_id: &Digest, damaged: bool) {
        if let Some(entry) = self.known().layers.get_mut(diff_id) {
            entry.damaged = damaged;
        }
    }

    /// Where all known layers lie.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.known().layers.keys().map(|diff_id| self.path(diff_id)).collect()
    }

    /// (bytes, inodes) of all layers.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let known = self.known();
        (known.bytes, known.inodes)
    }

    /// Holds layers that are there; None when one is not.
    pub(crate) fn hold<'a>(
        self: &Arc<Layers>,
        diff_ids: impl IntoIterator<Item = &'a Digest>,
    ) -> Option<Hold> {
        let mut known = self.known();
        let wanted: Vec<&Digest> = diff_ids.into_iter().collect();
        let there = |diff_id: &Digest| known.layers.get(diff_id).is_some_and(|entry| !entry.damaged);
        if !wanted.iter().all(|diff_id| there(diff_id)) {
            return None;
        }
        let mut layers = Vec::with_capacity(wanted.len());
        for diff_id in wanted {
            let entry = known.layers.get_mut(diff_id)?;
            entry.holders += 1;
            layers.push(entry.layer.clone());
        }
        Some(Hold { of: self.clone(), layers })
    }

    /// Makes a layer known that has just been unpacked, by moving it to its place. One that is there
    /// already wins.
    pub(crate) fn add(self: &Arc<Layers>, layer: Layer, made: &Path) -> io::Result<Hold> {
        let mut known = self.known();
        let there = known.layers.get(&layer.diff_id).is_some_and(|entry| !entry.damaged);
        if !there {
            let place = self.path(&layer.diff_id);
            // What nobody knows of is in the way only if its removal failed; or it is damaged.
            self.trash.take(&place)?;
            std::fs::rename(made, place)?;
        }
        known.insert(layer.clone(), false);
        known.made_anew(&layer.diff_id);
        Ok(Hold { of: self.clone(), layers: vec![layer] })
    }

    /// Holds layers that a record of an earlier run names; `synced` when it says that they are on the disk.
    pub(crate) fn adopt(self: &Arc<Layers>, layers: &[Layer], synced: bool) -> Hold {
        let mut known = self.known();
        for layer in layers {
            known.insert(layer.clone(), synced);
        }
        Hold { of: self.clone(), layers: layers.to_vec() }
    }

    /// Whether no power cut can take these any more.
    pub(crate) fn all_synced(&self, layers: &[Layer]) -> bool {
        let known = self.known();
        layers.iter().all(|layer| known.layers.get(&layer.diff_id).is_some_and(|entry| entry.synced))
    }

    /// The layers that a power cut could still take.
    pub(crate) fn unsynced(&self) -> Vec<Unsynced> {
        let known = self.known();
        let unsynced = known.layers.iter().filter(|(_, entry)| !entry.synced);
        unsynced.map(|(diff_id, entry)| Unsynced { diff_id: diff_id.clone(), made: entry.made }).collect()
    }

    /// Remembers that the file system was synced after these were whole.
    pub(crate) fn mark_synced(&self, layers: &[Unsynced]) {
        let mut known = self.known();
        for layer in layers {
            if let Some(entry) = known.layers.get_mut(&layer.diff_id) {
                entry.synced |= entry.made == layer.made;
            }
        }
    }

    /// From now on letting go removes nothing: the holders go because the service does.
    pub(crate) fn close(&self) {
        self.known().closed = true;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renames happen under the lock: nobody can unpack to a place that is just being cleared.
    fn release(&self, layers: &[Layer]) {
        let mut known = self.known();
        for layer in layers {
            if known.release(&layer.diff_id)
                && !known.closed
                && let Err(error) = self.trash.take(&self.path(&layer.diff_id))
            {
                tracing::warn!(layer = %layer.diff_id, %error, "an unused layer can't be removed; a restart tries again");
            }
            if !known.closed && !known.layers.contains_key(&layer.diff_id) {
                // Without its layer it is swept by the next start at the latest.
                _ = self.trash.take(&self.recipe(&layer.diff_id));
            }
        }
    }
}

impl Known {
    fn insert(&mut self, layer: Layer, synced: bool) {
        if let Some(entry) = self.layers.get_mut(&layer.diff_id) {
            entry.holders += 1;
            entry.synced |= synced;
            return;
        }
        self.bytes += layer.bytes;
        self.inodes += layer.inodes;
        self.made += 1;
        let entry = Entry { synced, made: self.made, damaged: false, holders: 1, layer };
        self.layers.insert(entry.layer.diff_id.clone(), entry);
    }

    /// What was damaged is whole now, but not on the disk yet.
    fn made_anew(&mut self, diff_id: &Digest) {
        self.made += 1;
        if let Some(entry) = self.layers.get_mut(diff_id).filter(|entry| entry.damaged) {
            (entry.damaged, entry.synced, entry.made) = (false, false, self.made);
        }
    }

    /// Whether that was the last holder.
    fn release(&mut self, diff_id: &Digest) -> bool {
        let Some(entry) = self.layers.get_mut(diff_id) else { return false };
        entry.holders -= 1;
        if entry.holders > 0 {
            return false;
        }
        self.bytes -= entry.layer.bytes;
        self.inodes -= entry.layer.inodes;
        self.layers.remove(diff_id);
        true
    }
}

impl Hold {
    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// All layers of several holds in one, in their order.
    pub(crate) fn join(of: &Arc<Layers>, holds: Vec<Hold>) -> Hold {
        let layers = holds.into_iter().flat_map(|mut hold| std::mem::take(&mut hold.layers)).collect();
        Hold { of: of.clone(), layers }
    }
}

impl Clone for Hold {
    fn clone(&self) -> Hold {
        let mut known = self.of.known();
        for layer in &self.layers {
            known.insert(layer.clone(), false);
        }
        Hold { of: self.of.clone(), layers: self.layers.clone() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.of.release(&self.layers);
    }
}
