//! Which of the four kinds a document is.

use std::fmt;

use super::{Error, Raw};

/// The four kinds of document that are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaType {
    OciManifest,
    OciIndex,
    DockerManifest,
    DockerList,
}

impl MediaType {
    pub const ALL: [MediaType; 4] =
        [MediaType::OciManifest, MediaType::OciIndex, MediaType::DockerManifest, MediaType::DockerList];

    pub fn as_str(self) -> &'static str {
        match self {
            MediaType::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            MediaType::OciIndex => "application/vnd.oci.image.index.v1+json",
            MediaType::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
            MediaType::DockerList => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    pub fn is_index(self) -> bool {
        match self {
            MediaType::OciIndex | MediaType::DockerList => true,
            MediaType::OciManifest | MediaType::DockerManifest => false,
        }
    }

    pub(super) fn named(text: &str) -> Option<MediaType> {
        MediaType::ALL.into_iter().find(|known| known.as_str() == text)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// Which of the four the document is, by its own word, by the announcement and by its shape: all of
/// those that speak must agree.
pub(super) fn kind(raw: &Raw, announced: Option<&str>) -> Result<MediaType, Error> {
    if raw.fs_layers.is_some() || raw.history.is_some() || raw.schema_version == Some(1) {
        return Err(Error::Schema1);
    }
    let announced = announced.and_then(specific);
    let own = raw.media_type.as_deref().filter(|text| !text.is_empty());
    if let (Some(announced), Some(own)) = (announced, own)
        && announced != own
    {
        return Err(Error::TypeMismatch { announced: announced.to_owned(), found: own.to_owned() });
    }
    match own.or(announced) {
        Some(text) if text.starts_with("application/vnd.docker.distribution.manifest.v1+") => {
            Err(Error::Schema1)
        }
        Some(text) => MediaType::named(text).ok_or_else(|| Error::UnknownType(text.to_owned())),
        None if raw.manifests.is_some() => Ok(MediaType::OciIndex),
        None => Ok(MediaType::OciManifest),
    }
}

/// The announcement, unless it is one of the words that servers say when they don't know.
fn specific(announced: &str) -> Option<&str> {
    let plain = announced.split(';').next().unwrap_or_default().trim();
    let vague = ["", "application/json", "text/plain", "application/octet-stream", "binary/octet-stream"];
    (!vague.contains(&plain)).then_some(plain)
}
