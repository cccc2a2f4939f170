//! An image of the node's own store as a source: its documents, and its layers as the archives that they came
//! from, written again from what lies on the disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::inspect::Inspected;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::{Image, ImageConfig};
use crate::images::Images;
use crate::manifest::{Descriptor, MediaType, Outline, outline};
use crate::reference::Reference;
use crate::registry::Raw;
use crate::store::{Hold, Store};
use crate::unpack::open_root;
use crate::unpack::recipe::Rebuilt;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

#[derive(Debug)]
pub(super) struct Stored {
    name: Option<Reference>,
    manifest: Vec<u8>,
    config: (Digest, Vec<u8>),
    /// Where the layers' recipes and directories lie.
    layers: HashMap<Digest, (PathBuf, PathBuf)>,
    shown: String,
    _hold: Hold,
}

impl Stored {
    /// The image `name`. Its layers are given unpacked, so its manifest is another than the one it was pulled by;
    /// its configuration, and so its id, is the same.
    pub(super) fn open(images: &Images, name: &str) -> Result<Stored, Error> {
        let missing = || Error::NotFound { name: name.to_owned(), source: None };
        let image = images.find(name).ok_or_else(missing)?;
        let store = images.store().clone();
        let id = Digest::parse(&image.id).map_err(|error| Error::invalid(name, error))?;
        let config = store.document(&id)?.filter(|bytes| Digest::of(id.algorithm(), bytes) == id);
        let config = config.ok_or_else(|| Error::invalid(name, "its configuration is damaged; verify it"))?;
        let documents = store.documents(&id)?;
        if documents.iter().any(|(_, bytes)| is_encrypted(bytes)) {
            let why = "its layers are encrypted, and stay so: copy it from its registry (berth image copy)";
            return Err(Error::invalid(name, why));
        }
        let (_, diff_ids) = ImageConfig::parse(&config).map_err(|bad| Error::invalid(name, bad))?;
        let hold = store.layers.hold(&diff_ids).ok_or_else(missing)?;
        let mut layers = HashMap::new();
        let mut descriptors = Vec::new();
        for diff_id in &diff_ids {
            descriptors.push(layer(&store, diff_id, name)?);
            layers.insert(diff_id.clone(), (store.recipe(diff_id), store.layers.path(diff_id)));
        }
        let kind = MediaType::OciManifest.as_str();
        let about = Descriptor::new(CONFIG, id.clone(), config.len() as u64);
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": about, "layers": descriptors});
        let manifest = manifest.to_string().into_bytes();
        let called = Reference::parse(name).ok().filter(|_| !image.id.contains(name));
        let first = image.repo_tags.first().and_then(|tag| Reference::parse(tag).ok());
        let name =
            called.filter(|called| called.repo_tag().is_some_and(|tag| image.repo_tags.contains(&tag)));
        let shown = format!("{} in the store", image.id);
        Ok(Stored { name: name.or(first), manifest, config: (id, config), layers, shown, _hold: hold })
    }

    pub(super) fn name(&self) -> Option<&Reference> {
        self.name.as_ref()
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    pub(super) fn top(&self) -> Result<Raw, Error> {
        let kind = MediaType::OciManifest.as_str();
        let top = Descriptor::new(kind, Digest::sha256(&self.manifest), self.manifest.len() as u64);
        Raw::read(self.manifest.clone(), &top).map_err(|error| Error::invalid(&self.shown, error))
    }

    /// A layer, or the configuration.
    pub(super) fn blob(&self, blob: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>, Error> {
        let failed = |error| Error::io("reading", self.shown.as_ref(), error);
        if blob.digest == self.config.0 {
            let skip = usize::try_from(offset).unwrap_or(usize::MAX).min(self.config.1.len());
            return Ok(Box::new(io::Cursor::new(self.config.1[skip..].to_vec())));
        }
        let missing = || Error::invalid(&self.shown, format!("it has no {}", blob.digest));
        let (recipe, dir) = self.layers.get(&blob.digest).ok_or_else(missing)?;
        let recipe = File::open(recipe).map_err(failed)?;
        let root = open_root(dir).map_err(|errno| failed(errno.into()))?;
        let mut rebuilt = Rebuilt::open(recipe, root).map_err(failed)?;
        io::copy(&mut (&mut rebuilt).take(offset), &mut io::sink()).map_err(failed)?;
        Ok(Box::new(rebuilt))
    }
}

/// What only a key opened must not leave the node as if it had been open.
fn is_encrypted(document: &[u8]) -> bool {
    let Ok(Outline::Manifest(manifest)) = outline(document, None) else { return false };
    manifest.layers.iter().any(|layer| layer.media_type.ends_with("+encrypted"))
}

fn layer(store: &Arc<Store>, diff_id: &Digest, name: &str) -> Result<Descriptor, Error> {
    let size = File::open(store.recipe(diff_id)).and_then(Rebuilt::measure);
    let size = size.map_err(|_| {
        let why = format!(
            "layer {diff_id} was unpacked without a record of its archive, or that replaces too much of itself; \
             copy the image from its registry (berth image copy)"
        );
        Error::invalid(name, why)
    })?;
    Ok(Descriptor::new(LAYER, diff_id.clone(), size))
}

/// What the store has of an image.
pub(super) fn inspect(images: &Images, name: &str) -> Result<Inspected, Error> {
    let missing = || Error::NotFound { name: name.to_owned(), source: None };
    let image: Arc<Image> = images.find(name).ok_or_else(missing)?;
    let id = Digest::parse(&image.id).map_err(|error| Error::invalid(name, error))?;
    let documents = images.store().documents(&id)?;
    let with_digest = image.repo_digests.iter().find_map(|text| Reference::parse(text).ok());
    let is_manifest = |bytes: &[u8]| matches!(outline(bytes, None), Ok(Outline::Manifest(manifest)) if manifest.config.digest == id);
    let find = |wanted: &dyn Fn(&Digest, &[u8]) -> bool| {
        let found = documents.iter().find(|(digest, bytes)| wanted(digest, bytes));
        found.map(|(_, bytes)| bytes.clone()).unwrap_or_default()
    };
    let digest = with_digest.as_ref().and_then(|reference| reference.digest().cloned());
    let manifest = find(&|_, bytes| is_manifest(bytes));
    let raw = find(&|own, _| Some(own) == digest.as_ref());
    Ok(Inspected {
        name: with_digest.map(|reference| reference.repository()).unwrap_or_default(),
        digest,
        tags: image.repo_tags.clone(),
        raw: if raw.is_empty() { manifest.clone() } else { raw }.into(),
        manifest: manifest.into(),
        config: find(&|own, _| *own == id).into(),
    })
}
