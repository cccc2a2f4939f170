//! Images out of files: OCI layouts (directory or tar) and docker archives (`docker save`).
//!
//! A file is believed no more than a registry: every blob is read with a bound and against its digest,
//! and paths inside it are keys or confined, never joined to the node's.

mod documents;
pub(crate) mod place;

use std::collections::HashMap;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::Error;
use crate::image::ImageConfig;
use crate::manifest::{
    self, Descriptor, Document, MAX_CONFIG_BYTES, MAX_DOCUMENT_BYTES, MAX_INDEX_DEPTH, MAX_LAYERS,
};
use crate::platform::Platform;
use crate::pull::counted::Counted;
use crate::pull::{Pulls, Sealed, blocking, parse_config};
use crate::reference::Reference;
use crate::store::{Content, Hold, Name};
use crate::unpack::Expected;
use crate::unpack::decrypt::Cipher;
use crate::unpack::window::{LARGEST_LOG, USUAL_LOG};
use documents::Documents;
use place::Place;

/// What a builder writes beside the image's name; containerd's and Docker's, and the OCI's own.
pub(crate) const FULL_NAME: &str = "io.containerd.image.name";
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
const READ_BYTES: usize = 256 << 10;
/// Images in one archive.
const MAX_IMAGES: usize = 1000;

/// An archive whose kind is known.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
    pub(crate) shown: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    OciLayout,
    DockerArchive,
}

/// An image of the archive, not unpacked yet. Whatever is large is shared with the images that have it, too.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) names: Vec<Name>,
    /// What a layout calls it.
    pub(crate) tag: Option<String>,
    id: Digest,
    layers: Arc<[FoundLayer]>,
    /// The configuration is the last.
    documents: Vec<(Digest, Bytes)>,
}

#[derive(Debug, Clone)]
struct FoundLayer {
    file: String,
    expected: Expected,
    /// The layer's own when it is encrypted.
    encrypted: Option<Descriptor>,
}

/// `manifest.json` of a docker archive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Saved {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    pub(crate) layers: Vec<String>,
}

impl Opened {
    pub(crate) fn open(archive: &Path) -> Result<Opened, Error> {
        let shown = archive.display().to_string();
        let place = Place::open(archive)?;
        // A modern `docker save` is both; the layout says more.
        let kind = match () {
            () if place.has("index.json") => Kind::OciLayout,
            () if place.has("manifest.json") => Kind::DockerArchive,
            () => {
                let why = "it has neither index.json (an OCI layout) nor manifest.json (a docker archive)";
                return Err(Error::invalid(shown, why));
            }
        };
        Ok(Opened { place, kind, shown })
    }

    /// What containers/image calls this kind of place; policies speak of it so.
    pub(crate) fn transport(&self) -> &'static str {
        match (self.kind, &self.place) {
            (Kind::OciLayout, Place::Directory(_)) => "oci",
            (Kind::OciLayout, Place::Tar(_)) => "oci-archive",
            (Kind::DockerArchive, _) => "docker-archive",
        }
    }

    /// The images for this platform. `name` is for the only one.
    pub(crate) fn images(&self, platform: &Platform, name: Option<&Reference>) -> Result<Vec<Found>, Error> {
        let mut images = match self.kind {
            Kind::OciLayout => self.layout(platform)?,
            Kind::DockerArchive => self.docker()?,
        };
        match (images.as_mut_slice(), name) {
            ([], _) => Err(Error::invalid(&self.shown, format!("it has no image for {platform}"))),
            ([image], Some(name)) => {
                image.rename(name);
                Ok(images)
            }
            (several, Some(name)) => {
                let why = format!("it has {} images, and only one can be {name}", several.len());
                Err(Error::invalid(&self.shown, why))
            }
            (_, None) => Ok(images),
        }
    }

    /// `index.json` of a layout.
    pub(crate) fn index(&self) -> Result<manifest::Index, Error> {
        let bytes = self.place.read("index.json", MAX_DOCUMENT_BYTES as u64)?;
        match self.parse(&bytes, None)? {
            Document::Index(index) => Ok(index),
            Document::Manifest(_) => Err(Error::invalid(&self.shown, "index.json is not an index")),
        }
    }

    fn layout(&self, platform: &Platform) -> Result<Vec<Found>, Error> {
        let index = self.index()?;
        let mut documents = Documents::of(self);
        let mut known: HashMap<(&Digest, &str), Option<Found>> = HashMap::new();
        let mut images = Vec::new();
        for descriptor in &index.manifests {
            let runs = descriptor.platform.as_ref().is_none_or(|other| platform.runs(other));
            if !runs {
                continue;
            }
            let key = (&descriptor.digest, descriptor.media_type.as_str());
            let found = match known.get(&key) {
                Some(found) => found.clone(),
                None => self.image(descriptor, platform, &mut documents, Vec::new())?,
            };
            known.entry(key).or_insert_with(|| found.clone());
            if let Some(mut image) = found {
                image.names = layout_names(descriptor);
                image.tag = descriptor.annotations.get(REF_NAME).cloned();
                images.push(image);
            }
        }
        Ok(images)
    }

    /// Follows indexes down to the image for the platform.
    fn image(
        &self,
        descriptor: &Descriptor,
        platform: &Platform,
        documents: &mut Documents<'_>,
        mut way: Vec<(Digest, Bytes)>,
    ) -> Result<Option<Found>, Error> {
        if way.len() > MAX_INDEX_DEPTH {
            return Err(Error::invalid(&self.shown, "its indexes are nested too deeply"));
        }
        let bytes = documents.blob(&descriptor.digest, MAX_DOCUMENT_BYTES as u64)?;
        let document = self.parse(&bytes, Some(&descriptor.media_type))?;
        way.push((descriptor.digest.clone(), bytes));
        match document {
            Document::Index(index) => match platform.choose(&index.manifests) {
                Some(chosen) => self.image(chosen, platform, documents, way),
                None => Ok(None),
            },
            Document::Manifest(manifest) => self.found(&manifest, documents, way).map(Some),
        }
    }

    fn found(
        &self,
        manifest: &manifest::Manifest,
        documents: &mut Documents<'_>,
        mut way: Vec<(Digest, Bytes)>,
    ) -> Result<Found, Error> {
        if !manifest.files.is_empty() {
            let why = "it is an artifact, which is pulled from a registry (berth image copy puts it there)";
            return Err(Error::invalid(&self.shown, why));
        }
        let id = manifest.config.digest.clone();
        let bytes = documents.blob(&id, MAX_CONFIG_BYTES)?;
        let (_, diff_ids) = parse_config(&self.shown, &bytes, manifest)?;
        let layer = |(layer, diff_id): (&manifest::Layer, Digest)| FoundLayer {
            file: blob_file(&layer.descriptor.digest),
            expected: Expected {
                digest: Some(layer.descriptor.digest.clone()),
                size: Some(layer.descriptor.size),
                diff_id,
            },
            encrypted: layer.encrypted.then(|| layer.descriptor.clone()),
        };
        let layers = manifest.layers.iter().zip(diff_ids).map(layer).collect();
        way.push((id.clone(), bytes));
        Ok(Found { names: Vec::new(), tag: None, id, layers, documents: way })
    }

    fn docker(&self) -> Result<Vec<Found>, Error> {
        let mut documents = Documents::of(self);
        let saved = self.saved_list()?;
        let mut known: HashMap<(&str, &[String]), Found> = HashMap::new();
        let mut images = Vec::with_capacity(saved.len());
        for saved in &saved {
            let key = (saved.config.as_str(), saved.layers.as_slice());
            let mut image = match known.get(&key) {
                Some(found) => found.clone(),
                None => self.saved(saved, &mut documents)?,
            };
            known.entry(key).or_insert_with(|| image.clone());
            for tag in saved.repo_tags.iter().flatten() {
                image.names.extend(Reference::parse(tag)?.repo_tag().map(Name::Tag));
            }
            images.push(image);
        }
        Ok(images)
    }

    /// `manifest.json` of a docker archive.
    pub(crate) fn saved_list(&self) -> Result<Vec<Saved>, Error> {
        let bytes = self.place.read("manifest.json", MAX_DOCUMENT_BYTES as u64)?;
        let saved: Vec<Saved> = serde_json::from_slice(&bytes)
            .map_err(|error| Error::invalid(&self.shown, format!("manifest.json: {error}")))?;
        if saved.len() > MAX_IMAGES {
            return Err(Error::invalid(&self.shown, format!("it has more than {MAX_IMAGES} images")));
        }
        Ok(saved)
    }

    fn saved(&self, saved: &Saved, documents: &mut Documents<'_>) -> Result<Found, Error> {
        let bytes = documents.read(&saved.config, MAX_CONFIG_BYTES)?;
        let (_, diff_ids) = ImageConfig::parse(&bytes)
            .map_err(|bad| Error::invalid(&self.shown, format!("{}: {bad}", saved.config)))?;
        if diff_ids.len() != saved.layers.len() {
            let why = format!("{} diff IDs for {} layers", diff_ids.len(), saved.layers.len());
            return Err(Error::invalid(&self.shown, why));
        }
        if diff_ids.len() > MAX_LAYERS {
            return Err(Error::invalid(&self.shown, manifest::Error::TooManyLayers(diff_ids.len())));
        }
        let layer = |(file, diff_id): (&String, Digest)| FoundLayer {
            file: file.clone(),
            expected: Expected { digest: None, size: None, diff_id },
            encrypted: None,
        };
        let id = Digest::sha256(&bytes);
        Ok(Found {
            names: Vec::new(),
            tag: None,
            layers: saved.layers.iter().zip(diff_ids).map(layer).collect(),
            documents: vec![(id.clone(), bytes)],
            id,
        })
    }

    fn parse(&self, bytes: &[u8], announced: Option<&str>) -> Result<Document, Error> {
        manifest::parse(bytes, announced).map_err(|error| Error::invalid(&self.shown, error))
    }
}

impl Found {
    /// The name the operator gave stands for those the archive gave.
    fn rename(&mut self, name: &Reference) {
        let digest =
            self.documents.first().map(|(digest, _)| digest.clone()).filter(|first| *first != self.id);
        let by_digest = digest.map(|digest| Name::Digest(name.with_digest(digest).to_string()));
        self.names = name.repo_tag().map(Name::Tag).into_iter().chain(by_digest).collect();
    }
}

impl Pulls {
    /// Unpacks an image of an archive; its layers meet those of pulls.
    pub(crate) async fn import(&self, archive: &Arc<Opened>, found: Found) -> Result<Arc<Content>, Error> {
        let encrypted = found.layers.iter().map(|layer| layer.encrypted.as_ref());
        let ciphers = self.ciphers(encrypted).await?;
        let layers = found.layers.iter().cloned().zip(ciphers);
        let layers = layers.map(|(layer, cipher)| self.import_layer(archive.clone(), layer, cipher));
        let hold = Hold::join(&self.store.layers, try_join_all(layers).await?);
        let store = self.store.clone();
        let (id, documents, shown) = (found.id, found.documents, archive.shown.clone());
        blocking(move || {
            let bytes = documents.last().map_or(&[][..], |(_, config)| &config[..]);
            let (config, _) = ImageConfig::parse(bytes).map_err(|bad| Error::invalid(shown, bad))?;
            let documents = documents.into_iter().map(|(digest, bytes)| (digest, bytes.to_vec())).collect();
            let hold = store.mended(hold)?;
            let accounts = store.accounts(hold.layers());
            Ok(Arc::new(Content { id, config, accounts, hold, documents }))
        })
        .await
    }

    async fn import_layer(
        &self,
        archive: Arc<Opened>,
        layer: FoundLayer,
        cipher: Option<Cipher>,
    ) -> Result<Hold, Error> {
        let mut window_log = USUAL_LOG;
        loop {
            let permission = match self.permission(&layer.expected.diff_id).await? {
                Ok(hold) => return Ok(hold),
                Err(permission) => permission,
            };
            let source = archive.place.file(&layer.file)?;
            let source = BufReader::with_capacity(READ_BYTES, source);
            let counted = Counted::choose(&self.pull_cgroup, &self.unpacker, None);
            let (expected, cipher) = (layer.expected.clone(), cipher.clone());
            let sealed = Sealed { expected, cipher, counted, window_log };
            match self.clone().make_layer(source, sealed, permission, || ()).await {
                Err(unmade) if unmade.larger_window && window_log < LARGEST_LOG => window_log = LARGEST_LOG,
                made => return Ok(made?),
            }
        }
    }
}

pub(crate) fn blob_file(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

pub(crate) fn layout_name(descriptor: &Descriptor) -> Option<Reference> {
    let annotated = |key: &str| descriptor.annotations.get(key);
    let full = annotated(FULL_NAME).or_else(|| annotated(REF_NAME).filter(|name| name.contains('/')));
    full.and_then(|name| Reference::parse(name).ok())
}

/// The name an index entry carries. A bare tag names nothing on a node: there it is imported unnamed.
fn layout_names(descriptor: &Descriptor) -> Vec<Name> {
    let Some(reference) = layout_name(descriptor) else { return Vec::new() };
    let by_digest = Name::Digest(reference.with_digest(descriptor.digest.clone()).to_string());
    reference.repo_tag().map(Name::Tag).into_iter().chain([by_digest]).collect()
}

#[cfg(test)]
mod tests;
