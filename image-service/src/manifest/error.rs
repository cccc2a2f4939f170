//! What is wrong with a document.

use super::{MAX_DOCUMENT_BYTES, MAX_ENTRIES, MAX_LAYERS};
use crate::digest::Digest;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the manifest is larger than {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
    #[error("the manifest is not the JSON it should be")]
    Json(#[source] serde_json::Error),
    #[error("the manifest is ambiguous: {0}")]
    Ambiguous(&'static str),
    #[error("the manifest says it is {found:?}, but was announced as {announced:?}")]
    TypeMismatch { announced: String, found: String },
    #[error("the manifest has the unknown type {0:?}")]
    UnknownType(String),
    #[error(
        "the manifest is of Docker's schema 1, which can't be verified; push the image again with a tool of this decade"
    )]
    Schema1,
    #[error("the manifest has schemaVersion {0}, and only 2 is known")]
    SchemaVersion(u64),
    #[error("the manifest has no {0}")]
    Missing(&'static str),
    #[error("the image has {0} layers, and at most {MAX_LAYERS} can be stacked")]
    TooManyLayers(usize),
    #[error("the index has {0} entries, more than {MAX_ENTRIES}")]
    TooManyEntries(usize),
    #[error("layer {0} is foreign: its bytes lie outside the registry, and are not fetched from there")]
    ForeignLayer(Digest),
    #[error("layer {digest} has the unknown type {media_type:?}")]
    UnknownLayer { digest: Digest, media_type: String },
    #[error(
        "this is an artifact with a configuration of type {0:?} and no titled file, not a container image"
    )]
    Artifact(String),
    #[error("layer {0} of the artifact has no title, so nobody can say what file it is")]
    Untitled(Digest),
    #[error("a file of the artifact can't be called {title:?}: {why}")]
    Title { title: String, why: &'static str },
    #[error("the sizes in the manifest add up to more than a disk holds")]
    Size,
}
