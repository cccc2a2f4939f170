//! What a document consists of, without asking whether it can be run here: for copying and showing.

use super::{ArtifactManifest, Document, Error, Index, MediaType, index, parse_artifact, parse_raw};

/// A document of any kind, bounded and unambiguous.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one a document, and seldom moved")]
pub enum Outline {
    Index(Index),
    Manifest(ArtifactManifest),
}

impl Outline {
    pub fn media_type(&self) -> MediaType {
        match self {
            Outline::Index(index) => index.media_type,
            Outline::Manifest(manifest) => manifest.media_type,
        }
    }
}

/// Reads a document of any kind. `announced` as in [`super::parse`].
pub fn outline(bytes: &[u8], announced: Option<&str>) -> Result<Outline, Error> {
    let (raw, media_type) = parse_raw(bytes, announced)?;
    if !media_type.is_index() {
        return parse_artifact(bytes, announced).map(Outline::Manifest);
    }
    match index(raw, media_type)? {
        Document::Index(index) => Ok(Outline::Index(index)),
        Document::Manifest(_) => Err(Error::Ambiguous("an index that is none")),
    }
}
