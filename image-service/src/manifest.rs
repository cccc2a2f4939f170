//! What a registry says an image is: OCI manifests and indexes, and Docker's schema 2 pair of them.
//!
//! [`parse`] is total and bounded: a document is at most [`MAX_DOCUMENT_BYTES`], an image has at most
//! [`MAX_LAYERS`] layers, an index at most [`MAX_ENTRIES`] entries. A document that two readers could
//! read in two ways is refused (GHSA-5j5w-g665-5m35), and so is one whose type is not the type that
//! the registry or the index named.

mod error;
mod files;
mod kind;
mod outline;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::platform::Platform;

pub use error::Error;
pub use files::ArtifactFile;
pub use kind::MediaType;
pub use outline::{Outline, outline};

/// OCI distribution-spec asks registries to take at least 4 MiB; the peers read no more either.
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;
/// An overlay mount takes at most 500 lower directories (Linux, `OVL_MAX_STACK`).
pub const MAX_LAYERS: usize = 500;
/// More instances of one image than anyone has published.
pub const MAX_ENTRIES: usize = 1000;
/// Indexes inside indexes: the spec allows them, nobody needs more.
pub const MAX_INDEX_DEPTH: usize = 4;
/// An image's configuration is JSON that is read whole.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// What names a blob or a manifest: OCI image-spec, descriptor.md. Its `urls` are never read: a
/// manifest must not say where we go (CVE-2020-15157).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What an artifact is, in lists of referrers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }
}

impl Descriptor {
    pub fn is_of(&self, artifact_type: &str) -> bool {
        self.artifact_type.as_deref() == Some(artifact_type)
    }
}

/// How the tar of a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub descriptor: Descriptor,
    pub compression: Compression,
    /// What is packed so is encrypted besides (ocicrypt's `+encrypted`).
    pub encrypted: bool,
}

/// One image for one platform; layers from the bottom up. Or an artifact, which has files instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub media_type: MediaType,
    pub config: Descriptor,
    pub layers: Vec<Layer>,
    /// Of an artifact; an image has none.
    pub files: Vec<ArtifactFile>,
    pub annotations: BTreeMap<String, String>,
}

/// Instances of one image, each for its platform, or further indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    pub media_type: MediaType,
    pub manifests: Vec<Descriptor>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one a document, and seldom moved")]
pub enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    pub fn media_type(&self) -> MediaType {
        match self {
            Document::Manifest(manifest) => manifest.media_type,
            Document::Index(index) => index.media_type,
        }
    }
}

/// Reads a document. `announced` is its type by the registry's Content-Type or by the index above it.
pub fn parse(bytes: &[u8], announced: Option<&str>) -> Result<Document, Error> {
    let (raw, media_type) = parse_raw(bytes, announced)?;
    match (media_type.is_index(), &raw.config) {
        (true, _) => index(raw, media_type),
        (false, Some(config)) if !is_image_config(&config.media_type) => artifact(bytes, announced),
        (false, _) => manifest(raw, media_type),
    }
}

/// An artifact whose layers are files, as image volumes have them.
fn artifact(bytes: &[u8], announced: Option<&str>) -> Result<Document, Error> {
    let found = parse_artifact(bytes, announced)?;
    let Some(files) = files::files(&found)? else { return Err(Error::Artifact(found.config.media_type)) };
    let (media_type, config, annotations) = (found.media_type, found.config, found.annotations);
    Ok(Document::Manifest(Manifest { media_type, config, layers: Vec::new(), files, annotations }))
}

fn parse_raw(bytes: &[u8], announced: Option<&str>) -> Result<(Raw, MediaType), Error> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(Error::TooLarge);
    }
    let raw: Raw = serde_json::from_slice(bytes).map_err(Error::Json)?;
    let media_type = kind::kind(&raw, announced)?;
    match raw.schema_version {
        None if media_type == MediaType::OciIndex || media_type == MediaType::OciManifest => {}
        None => return Err(Error::Missing("schemaVersion")),
        Some(2) => {}
        Some(other) => return Err(Error::SchemaVersion(other)),
    }
    Ok((raw, media_type))
}

/// A manifest of anything, its layers as they are called: a signature, an attestation, a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactManifest {
    pub media_type: MediaType,
    /// `artifactType`, or the configuration's type where that is what says it (image-spec, manifest.md).
    pub artifact_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    /// What it refers to.
    pub subject: Option<Descriptor>,
    pub annotations: BTreeMap<String, String>,
}

/// Reads a manifest without asking whether it is a container's image; bounded and unambiguous all the same.
pub fn parse_artifact(bytes: &[u8], announced: Option<&str>) -> Result<ArtifactManifest, Error> {
    let (raw, media_type) = parse_raw(bytes, announced)?;
    if media_type.is_index() || raw.manifests.is_some() {
        return Err(Error::Ambiguous("an artifact with a list of manifests"));
    }
    let config = raw.config.ok_or(Error::Missing("config"))?;
    let layers = raw.layers.ok_or(Error::Missing("layers"))?;
    if layers.len() > MAX_LAYERS {
        return Err(Error::TooManyLayers(layers.len()));
    }
    let artifact_type = raw.artifact_type.filter(|text| !text.is_empty());
    let artifact_type = artifact_type.unwrap_or_else(|| config.media_type.clone());
    let (subject, annotations) = (raw.subject, raw.annotations);
    Ok(ArtifactManifest { media_type, artifact_type, config, layers, subject, annotations })
}

/// Every field that any of the formats gives a meaning to, so that none is overlooked.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    fs_layers: Option<serde::de::IgnoredAny>,
    history: Option<serde::de::IgnoredAny>,
    #[serde(default, deserialize_with = "null_as_default")]
    annotations: BTreeMap<String, String>,
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn index(raw: Raw, media_type: MediaType) -> Result<Document, Error> {
    if raw.layers.is_some() || raw.config.is_some() {
        return Err(Error::Ambiguous("an index with layers or a configuration"));
    }
    let manifests = raw.manifests.ok_or(Error::Missing("manifests"))?;
    if manifests.len() > MAX_ENTRIES {
        return Err(Error::TooManyEntries(manifests.len()));
    }
    Ok(Document::Index(Index { media_type, manifests, annotations: raw.annotations }))
}

fn manifest(raw: Raw, media_type: MediaType) -> Result<Document, Error> {
    if raw.manifests.is_some() {
        return Err(Error::Ambiguous("an image with a list of manifests"));
    }
    let config = raw.config.ok_or(Error::Missing("config"))?;
    let layers = raw.layers.ok_or(Error::Missing("layers"))?;
    if layers.len() > MAX_LAYERS {
        return Err(Error::TooManyLayers(layers.len()));
    }
    let total = layers.iter().try_fold(config.size, |sum, layer| sum.checked_add(layer.size));
    total.filter(|total| *total <= i64::MAX as u64).ok_or(Error::Size)?;
    if config.size > MAX_CONFIG_BYTES {
        return Err(Error::Size);
    }
    let layers = layers.into_iter().map(layer).collect::<Result<_, _>>()?;
    let annotations = raw.annotations;
    Ok(Document::Manifest(Manifest { media_type, config, layers, files: Vec::new(), annotations }))
}

fn is_image_config(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    )
}

fn layer(descriptor: Descriptor) -> Result<Layer, Error> {
    let (media_type, encrypted) = match descriptor.media_type.strip_suffix("+encrypted") {
        Some(media_type) => (media_type, true),
        None => (descriptor.media_type.as_str(), false),
    };
    if media_type.contains(".nondistributable.") || media_type.contains(".foreign.") {
        return Err(Error::ForeignLayer(descriptor.digest));
    }
    let compression = match media_type {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Compression::None
        }
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        _ => {
            let media_type = descriptor.media_type;
            return Err(Error::UnknownLayer { digest: descriptor.digest, media_type });
        }
    };
    Ok(Layer { descriptor, compression, encrypted })
}

#[cfg(test)]
mod tests;
