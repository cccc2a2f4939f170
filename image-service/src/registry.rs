//! The registry client: manifests and blobs of one repository, from whichever endpoint has them.
#![allow(clippy::todo, clippy::unused_async)]

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::auth::Credentials;
use crate::digest::Digest;
use crate::manifest::{Descriptor, Manifest, MediaType};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registries_conf::RegistriesConf;

/// What the client is told once.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub registries: RegistriesConf,
    /// Directories like `/etc/containers/certs.d`, the first that has the host wins.
    pub certs_dirs: Vec<PathBuf>,
    /// Files like `auth.json` and `~/.docker/config.json`, the first that knows the registry wins.
    pub auth_files: Vec<PathBuf>,
}

/// The client; cheap to clone. Connections and tokens are shared by all clones.
#[derive(Debug, Clone)]
pub struct Registry {
    _shared: Arc<Settings>,
}

/// One repository as one caller sees it: its endpoints, and what may be shown to them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {}

/// A manifest or an index, verified against its digest.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub digest: Digest,
    pub media_type: MediaType,
    pub bytes: Bytes,
}

/// What a reference came to on a platform.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// From what the reference names (often an index) down to the image's manifest, which is last.
    pub documents: Vec<Fetched>,
    pub manifest: Manifest,
}

impl Resolved {
    /// The digest of what the reference names: the one to remember as `repository@digest`.
    pub fn digest(&self) -> &Digest {
        &self.documents[0].digest
    }
}

/// The bytes of a blob from an offset on. Exactly `size - offset` bytes come, or an error; the digest
/// is for the reader to check, who sees every byte anyway.
#[derive(Debug)]
pub struct Blob {}

/// What went wrong, by what a caller could do about it; each tells every endpoint's cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Configuration forbids this registry.
    #[error("{0}")]
    Blocked(String),
    /// No endpoint has it.
    #[error("{0}")]
    NotFound(String),
    /// The credentials are missing or refused.
    #[error("{0}")]
    Unauthorized(String),
    /// No endpoint could be reached, or they are all in trouble.
    #[error("{0}")]
    Unavailable(String),
    /// Bytes that are not what their digest or size says.
    #[error("{0}")]
    Verification(String),
    /// An answer that no registry should give, or an image that is none.
    #[error("{0}")]
    Invalid(String),
    /// The node's own configuration can't be used.
    #[error("{0}")]
    Configuration(String),
}

impl Registry {
    pub fn new(settings: Settings) -> Result<Registry, Error> {
        Ok(Registry { _shared: Arc::new(settings) })
    }

    /// Decides which endpoints to ask; asks none yet.
    pub fn repository(
        &self,
        _reference: &Reference,
        _credentials: Option<&Credentials>,
    ) -> Result<Repository, Error> {
        todo!()
    }
}

impl Repository {
    /// Fetches what the reference names and follows indexes to the image for the platform.
    pub async fn resolve(&self, _platform: &Platform) -> Result<Resolved, Error> {
        todo!()
    }

    /// Opens a blob at an offset. Broken connections are mended inside the stream.
    pub async fn blob(&self, _descriptor: &Descriptor, _offset: u64) -> Result<Blob, Error> {
        todo!()
    }

    /// The image's configuration, whole and verified.
    pub async fn config(&self, _descriptor: &Descriptor) -> Result<Bytes, Error> {
        todo!()
    }
}

impl Blob {
    /// The next bytes; None after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        todo!()
    }
}
