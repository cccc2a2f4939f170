//! What an image is, without fetching its layers.

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::{Value, json};

use super::location::Location;
use super::source::Source;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::ImageConfig;
use crate::images::Settings;
use crate::manifest::{Descriptor, MAX_CONFIG_BYTES, MediaType, Outline, outline};
use crate::platform::Platform;

/// One image as its documents have it.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// Without tag and digest; empty when it has none.
    pub name: String,
    /// Of what the name means, often an index; None where there is none (a docker archive in the store).
    pub digest: Option<Digest>,
    /// Tags of the repository.
    pub tags: Vec<String>,
    /// What the name means.
    pub raw: Bytes,
    /// The manifest of the one image.
    pub manifest: Bytes,
    pub config: Bytes,
}

/// Looks at a place; of an index at the image for the platform.
///
/// # Errors
/// When the policy rejects the place, or a document is not there, or not what its digest says.
pub async fn inspect(
    settings: &Settings,
    location: &Location,
    platform: &Platform,
    auth_files: &[PathBuf],
) -> Result<Inspected, Error> {
    let registry = super::registry(settings, auth_files)?;
    let source = Source::open(location, &registry, settings)?;
    let top = source.top().await?;
    let way = source.follow(top, platform).await?;
    let (top, last) = (&way[0], &way[way.len() - 1]);
    let config = match &last.outline {
        Outline::Manifest(manifest) => source.small(&manifest.config, MAX_CONFIG_BYTES).await?,
        Outline::Index(_) => Bytes::new(),
    };
    let tags = match &source {
        // Some registries let nobody list them; the image can be told all the same.
        Source::Registry { repository, .. } => repository.tags().await.unwrap_or_default(),
        Source::Files(_) | Source::Stored(_) => Vec::new(),
    };
    let name = source.reference().map(|reference| reference.repository()).unwrap_or_default();
    let (raw, manifest) = (top.bytes.clone(), last.bytes.clone());
    Ok(Inspected { name, digest: Some(top.digest.clone()), tags, raw, manifest, config })
}

impl Inspected {
    /// In the words of `skopeo inspect`.
    ///
    /// # Errors
    /// When the documents, which the caller may have from anywhere, are none.
    pub fn json(&self) -> Result<Value, Error> {
        let invalid = |why: String| Error::invalid(format!("the image {}", self.name), why);
        let layers: Vec<Descriptor> = match self.manifest.len() {
            0 => Vec::new(),
            _ => match outline(&self.manifest, None).map_err(|error| invalid(error.to_string()))? {
                Outline::Manifest(manifest) => manifest.layers,
                Outline::Index(_) => Vec::new(),
            },
        };
        // The configuration of an artifact is none of an image; then there is less to tell.
        let config = ImageConfig::parse(&self.config).map(|(config, _)| config).unwrap_or_default();
        let own: Value = serde_json::from_slice(&self.config).unwrap_or_default();
        let data = |layer: &Descriptor| {
            let notes = if layer.annotations.is_empty() { Value::Null } else { json!(layer.annotations) };
            json!({"MIMEType": layer.media_type, "Digest": layer.digest, "Size": layer.size,
                "Annotations": notes})
        };
        Ok(json!({
            "Name": self.name,
            "Digest": self.digest,
            "RepoTags": self.tags,
            "Created": own["created"],
            "DockerVersion": own["docker_version"].as_str().unwrap_or_default(),
            "Labels": if config.labels.is_empty() { Value::Null } else { json!(config.labels) },
            "Architecture": own["architecture"].as_str().unwrap_or_default(),
            "Os": own["os"].as_str().unwrap_or_default(),
            "Layers": layers.iter().map(|layer| &layer.digest).collect::<Vec<_>>(),
            "LayersData": layers.iter().map(data).collect::<Vec<_>>(),
            "Env": config.env,
        }))
    }

    /// The kind of what the name means.
    pub fn media_type(&self) -> Option<MediaType> {
        outline(&self.raw, None).ok().map(|outline| outline.media_type())
    }
}
