//! Bringing to the disk what images already count on.
//!
//! A pull is answered before its layers are on the disk: they are in the page cache, which outlives every
//! crash but the machine's. So the record of such an image names the boot it was made in, and one from
//! another boot is dropped at the next start, as if the power had failed before the pull. Meanwhile a thread
//! syncs the file system; then the records say so.

use std::sync::{Arc, PoisonError, Weak};

use rustix::fd::OwnedFd;

use super::Store;
use super::index::Change;
use super::layers::Unsynced;
use super::record::Record;
use crate::digest::Digest;
use crate::error::Error;

impl Store {
    /// Starts the thread, unless one is at it or nothing is to be done. It holds the store only while it
    /// touches it, so a store can be closed and opened again under it.
    pub(crate) fn settle_soon(self: &Arc<Store>) {
        let mut settling = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        if *settling || self.layers.unsynced().is_empty() {
            return;
        }
        let store = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("image-settle".to_owned());
        match thread.spawn(move || while settle(&store) {}) {
            Ok(_) => *settling = true,
            // The next image tries again; until then a power cut costs this one.
            Err(error) => tracing::warn!(%error, "no thread to bring layers to the disk"),
        }
    }

    /// Whether there is more to do; when not, the thread is about to end.
    fn goes_on(&self) -> bool {
        let mut settling = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        *settling = !self.layers.unsynced().is_empty();
        *settling
    }

    fn settled(&self, layers: &[Unsynced]) -> Result<(), Error> {
        self.layers.mark_synced(layers);
        let mut images = self.images();
        let settled = |entry: &&super::Entry| {
            entry.record.unsynced_in.is_some() && self.layers.all_synced(entry.hold.layers())
        };
        let put: Vec<Record> = images
            .values()
            .filter(settled)
            .map(|entry| Record { unsynced_in: None, ..entry.record.clone() })
            .collect();
        if put.is_empty() {
            return Ok(());
        }
        let change = Change { put, ..Change::default() };
        self.index.apply(&change).map_err(|error| self.index_error(error))?;
        for record in change.put {
            if let Some(entry) = images.get_mut(&record.id) {
                entry.record = record;
            }
        }
        Ok(())
    }

    /// What the disk would not take is nothing to run: the images go, and are pulled again.
    fn give_up(&self, layers: &[Unsynced], error: &std::io::Error) {
        let ids: Vec<Digest> = {
            let images = self.images();
            let lost = |entry: &&super::Entry| {
                entry
                    .hold
                    .layers()
                    .iter()
                    .any(|layer| layers.iter().any(|lost| lost.diff_id == layer.diff_id))
            };
            images.values().filter(lost).map(|entry| entry.record.id.clone()).collect()
        };
        tracing::error!(%error, images = ?ids, "the disk did not take the layers of these images, which are forgotten; pull them again");
        self.layers.mark_synced(layers);
        for id in ids {
            if let Err(error) = self.remove(&id) {
                tracing::error!(%error, image = %id, "and forgetting it failed, too");
            }
        }
    }
}

/// One sync of everything there is by now. Says whether another is due.
fn settle(store: &Weak<Store>) -> bool {
    let Some((root, layers)) = begin(store) else { return false };
    let synced = rustix::fs::syncfs(&root);
    let Some(store) = store.upgrade() else { return false };
    match synced {
        Ok(()) => {
            if let Err(error) = store.settled(&layers) {
                tracing::warn!(%error, "images are on the disk, but their records can't say so");
            }
        }
        Err(errno) => store.give_up(&layers, &errno.into()),
    }
    store.goes_on()
}

fn begin(store: &Weak<Store>) -> Option<(OwnedFd, Vec<Unsynced>)> {
    let store = store.upgrade()?;
    let root = store.root_dir.try_clone().ok()?;
    Some((root, store.layers.unsynced()))
}
