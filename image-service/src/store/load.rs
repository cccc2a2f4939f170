//! What an earlier run left: read, checked, and swept of what nobody holds.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::index::Read;
use super::record::Record;
use super::{Entry, Store, artifact_files};
use crate::digest::Digest;
use crate::error::Error;
use crate::image::ImageConfig;

impl Store {
    /// Reads the index; what is damaged is dropped from it, since it can be pulled again.
    pub(super) fn load(&self) -> Result<(), Error> {
        let mut images = self.images();
        let mut damaged = 0;
        for Read { key, found } in self.index.read_all().map_err(|error| self.index_error(error))? {
            match found.and_then(|(record, config)| self.check(&key, record, &config)) {
                Some(entry) => _ = images.insert(entry.record.id.clone(), entry),
                None => {
                    tracing::warn!(image = %key, "an image is damaged and was dropped; pull it again");
                    damaged += 1;
                }
            }
        }
        if damaged > 0 {
            let whole: Vec<&Record> = images.values().map(|entry| &entry.record).collect();
            self.index.keep(&whole).map_err(|error| self.index_error(error))?;
        }
        self.publish(&images);
        Ok(())
    }

    /// A record that is whole, with everything it names.
    fn check(&self, key: &str, record: Record, config: &[u8]) -> Option<Entry> {
        let same = record.id.as_str() == key && Digest::of(record.id.algorithm(), config) == record.id;
        let (parsed, diff_ids) = read_config(&record.id, config)?;
        let mut layers = record.layers.iter().map(|layer| &layer.diff_id);
        // One more than the configuration has may have been made by mending.
        let whole = layers.by_ref().take(diff_ids.len()).eq(&diff_ids)
            && layers.count() <= 1
            && record.layers.iter().all(|layer| self.layers.path(&layer.diff_id).is_dir());
        let arrived = record.unsynced_in.as_ref().is_none_or(|cache| *cache == self.page_cache);
        if !same || !whole || !arrived {
            return None;
        }
        let accounts = self.accounts(&record.layers);
        let hold = self.layers.adopt(&record.layers, record.unsynced_in.is_none());
        let image = Arc::new(self.image(&record, parsed, accounts));
        Some(Entry { record, image, hold })
    }

    /// Removes layers that nobody holds: a crash came between their unpacking and their image.
    pub(super) fn sweep(&self) -> Result<(), Error> {
        let dir = self.root.join("layers");
        let failed = |error| Error::io("listing", &dir, error);
        let held: BTreeSet<PathBuf> = self.layers.paths().into_iter().collect();
        for found in std::fs::read_dir(&dir).map_err(failed)? {
            let path = found.map_err(failed)?.path();
            if !held.contains(&path) {
                self.trash.take(&path).map_err(failed)?;
            }
        }
        for found in std::fs::read_dir(self.root.join("recipes")).map_err(failed)? {
            let path = found.map_err(failed)?.path();
            let of = path.file_name().map(|name| dir.join(name)).unwrap_or_default();
            if !held.contains(&of) {
                self.trash.take(&path).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// What an image is made of. An artifact has its manifest where images have their configuration, and its files in
/// one layer, known by the same digest.
fn read_config(id: &Digest, bytes: &[u8]) -> Option<(ImageConfig, Vec<Digest>)> {
    match ImageConfig::parse(bytes) {
        Ok(read) => Some(read),
        Err(_) => artifact_files(bytes).map(|_| (ImageConfig::default(), vec![id.clone()])),
    }
}
