//! What readers see: all images at one moment, by id and by name. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::image::Image;
use crate::reference::Reference;

#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    by_id: BTreeMap<String, Arc<Image>>,
    by_name: HashMap<String, Arc<Image>>,
}

/// Fewer digits of an id than this are more likely a name.
const SHORTEST_ID: usize = 4;

impl Snapshot {
    pub(crate) fn new(images: impl IntoIterator<Item = Arc<Image>>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for image in images {
            for name in image.repo_tags.iter().chain(&image.repo_digests) {
                snapshot.by_name.insert(name.clone(), image.clone());
            }
            snapshot.by_id.insert(image.id.clone(), image);
        }
        snapshot
    }

    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.by_id.values().cloned().collect()
    }

    /// By id, whole with or without its `sha256:`.
    pub(crate) fn by_id(&self, id: &str) -> Option<&Arc<Image>> {
        match self.by_id.get(id) {
            None if id.len() == 64 => self.by_id.get(&format!("sha256:{id}")),
            found => found,
        }
    }

    /// By the normal form of a name.
    pub(crate) fn by_reference(&self, reference: &Reference) -> Option<&Arc<Image>> {
        let name = match reference.digest() {
            Some(digest) => format!("{}@{digest}", reference.repository()),
            None => reference.repo_tag()?,
        };
        self.by_name.get(&name)
    }

    /// By the start of an id that only one image has.
    pub(crate) fn by_id_prefix(&self, prefix: &str) -> Option<&Arc<Image>> {
        let hex = prefix.strip_prefix("sha256:").unwrap_or(prefix);
        if hex.len() < SHORTEST_ID || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let start = format!("sha256:{hex}");
        let mut found = self.by_id.range(start.clone()..).take_while(|(id, _)| id.starts_with(&start));
        match (found.next(), found.next()) {
            (Some((_, image)), None) => Some(image),
            _ => None,
        }
    }
}
