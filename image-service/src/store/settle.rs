//! Bringing to the disk what images already count on.
//!
//! A pull is answered before its layers are on the disk: they are in the page cache, which outlives every
//! crash but the machine's or the disk's. So the record of such an image names the boot and the mount that it
//! was made in, and one of another is dropped at the next start, as if the power had failed before the
//! pull. Meanwhile a thread syncs the file system; then the records say so.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, StatxFlags};

use super::Store;
use super::index::Change;
use super::layers::Unsynced;
use super::record::Record;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Layer;

/// Pulls come in bunches, and one sync serves all that came before it.
const BUNCH: Duration = Duration::from_millis(300);

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

    /// Whether no power cut can take the image any more; one that is not here is not settled.
    pub(crate) fn is_settled(&self, id: &Digest) -> bool {
        self.images().get(id).is_some_and(|entry| entry.record.unsynced_in.is_none())
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

    /// What the disk would not take is nothing to run: the images go, and are pulled again. They are out of
    /// sight even when the same disk does not take that either.
    fn give_up(&self, layers: &[Unsynced], error: &std::io::Error) {
        self.layers.mark_synced(layers);
        let lost = |entry: &super::Entry| {
            let is_lost = |layer: &Layer| layers.iter().any(|lost| lost.diff_id == layer.diff_id);
            entry.hold.layers().iter().any(is_lost)
        };
        let mut images = self.images();
        let (gone, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut *images).into_iter().partition(|(_, entry)| lost(entry));
        *images = kept;
        self.publish(&images);
        let remove: Vec<Digest> = gone.keys().cloned().collect();
        tracing::error!(%error, images = ?remove, "the disk did not take the layers of these images, which are forgotten; pull them again");
        if let Err(error) = self.index.apply(&Change { remove, ..Change::default() }) {
            tracing::error!(%error, "nor does it take that they are; mend the disk and start berthd again");
        }
        drop(images);
        // With the last hold the layers go to the trash, so no later start finds such an image whole.
        drop(gone);
    }
}

/// What is lost with the machine's memory, and with the mount when a disk is taken away and comes again.
pub(super) fn page_cache(boot: &str, root: &OwnedFd) -> String {
    // STATX_MNT_ID_UNIQUE (Linux 6.8, statx(2)), which is never used again in a boot. An older kernel
    // doesn't know it and leaves the mark away; its boot must do.
    const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let found = rustix::fs::statx(root, "", AtFlags::EMPTY_PATH, UNIQUE).ok();
    let mount = found.filter(|found| found.stx_mask & UNIQUE.bits() != 0).map(|found| found.stx_mnt_id);
    format!("{boot} {}", mount.unwrap_or(0))
}

/// One sync of everything there is by now. Says whether another is due.
fn settle(store: &Weak<Store>) -> bool {
    std::thread::sleep(BUNCH);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Accounts, ImageConfig};
    use crate::images::Settings;
    use crate::store::{Content, Hold, Name};

    fn open(dir: &std::path::Path) -> Arc<Store> {
        let opened = Store::open(&Settings::new(dir), |_, _, _| Ok(())).unwrap();
        Arc::new(opened.0)
    }

    fn put(store: &Arc<Store>, n: u8) -> Digest {
        let diff_id = Digest::sha256(&[n]);
        let layer = Layer {
            diff_id: diff_id.clone(),
            bytes: 1,
            inodes: 1,
            has_root: false,
            opaque_root: false,
            undescribed: Vec::new(),
        };
        let hold = store.ingest().unwrap().commit(&store.layers, layer).unwrap();
        let config = serde_json::json!({"os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
        let bytes = serde_json::to_vec(&config).unwrap();
        let (config, _) = ImageConfig::parse(&bytes).unwrap();
        let id = Digest::sha256(&bytes);
        let hold = Hold::join(&store.layers, vec![hold]);
        let documents = vec![(id.clone(), bytes)];
        let content = Content { id: id.clone(), config, accounts: Accounts::default(), hold, documents };
        store.put(&content, &[Name::Tag(format!("a:{n}"))], None).unwrap();
        id
    }

    fn ids(store: &Store) -> Vec<String> {
        store.snapshot().list().iter().map(|image| image.id.clone()).collect()
    }

    #[test]
    fn what_a_power_cut_may_have_taken_is_dropped_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let settled = put(&store, 1);
        assert!(settle_once(&store) && store.layers.unsynced().is_empty());
        // As if the machine had been started anew between these and the next start.
        Arc::get_mut(&mut store).unwrap().page_cache = "another".to_owned();
        put(&store, 2);
        store.layers.close();
        drop(store);
        let store = open(dir.path());
        assert_eq!(ids(&store), [settled.to_string()]);
        assert_eq!(std::fs::read_dir(dir.path().join("images/layers")).unwrap().count(), 1);
    }

    #[test]
    fn a_crash_of_the_daemon_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let id = put(&store, 1);
        store.layers.close();
        drop(store);
        let store = open(dir.path());
        assert_eq!(ids(&store), [id.to_string()]);
        // It is still to be brought to the disk, and then the record says so.
        assert_eq!(store.layers.unsynced().len(), 1);
        store.settle_soon();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !store.images().values().all(|entry| entry.record.unsynced_in.is_none()) {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn images_that_the_disk_did_not_take_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        put(&store, 1);
        store.give_up(&store.layers.unsynced(), &std::io::Error::from_raw_os_error(5));
        assert_eq!(ids(&store), Vec::<String>::new());
        assert!(store.layers.unsynced().is_empty());
    }

    /// One round of the thread, here.
    fn settle_once(store: &Arc<Store>) -> bool {
        let (root, layers) = begin(&Arc::downgrade(store)).unwrap();
        rustix::fs::syncfs(&root).unwrap();
        store.settled(&layers).unwrap();
        let images = store.images();
        images.values().all(|entry| entry.record.unsynced_in.is_none())
    }
}
