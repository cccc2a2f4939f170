//! What the manifests of an image are annotated with, for those who ask: nothing of it is kept in memory.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::error::Error;
use crate::image::Image;
use crate::images::Images;
use crate::manifest::{self, Document};
use crate::pull::blocking;
use crate::store::Store;

impl Images {
    /// The annotations of the manifest that led to the image (image-spec, annotations.md); of several, all together.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn annotations(&self, image: &Image) -> Result<BTreeMap<String, String>, Error> {
        let (store, id) = (self.inner.pulls.store.clone(), image.id.clone());
        blocking(move || of(&store, &id)).await
    }
}

fn of(store: &Store, id: &str) -> Result<BTreeMap<String, String>, Error> {
    let mut annotations = BTreeMap::new();
    for digest in store.documents_of(id) {
        if let Some(manifest) = read(store, &digest, id)? {
            annotations.extend(manifest.annotations);
        }
    }
    Ok(annotations)
}

/// A document that is a manifest of this image; the others are indexes and the configuration.
fn read(store: &Store, digest: &Digest, id: &str) -> Result<Option<manifest::Manifest>, Error> {
    let Some(bytes) = store.document(digest)? else { return Ok(None) };
    match manifest::parse(&bytes, None) {
        Ok(Document::Manifest(manifest)) if manifest.config.digest.as_str() == id => Ok(Some(manifest)),
        Ok(_) | Err(_) => Ok(None),
    }
}
