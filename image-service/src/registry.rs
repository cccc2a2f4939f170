//! The registry client: manifests and blobs of one repository, from whichever endpoint has them.
//!
//! ```text
//! Registry ── repository(reference, credentials) ─► Repository ── resolve(platform) ─► Resolved
//!   settings, connections, tokens                     endpoints    └─ config(…), blob(…, offset) ─► Blob
//! ```
//!
//! It is our own, on hyper: the ready-made client reads manifests without a bound, gives credentials to
//! whatever server a challenge names, knows neither registries.conf nor certs.d, and never tries again.
//!
//! It never writes a file and never decides what to keep. Every byte of a manifest or configuration is
//! verified here; a blob's digest is checked by whoever reads it, since that one hashes it anyway.

mod ask;
mod blob;
mod body;
mod certs;
mod client_keys;
mod dial;
mod endpoint;
mod explain;
mod failure;
mod origin;
mod page;
mod push;
mod raw;
mod referrers;
mod repository;
mod retry;
mod round;
mod session;
mod settings;
mod signatures;
mod through;
mod transport;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::uri::Scheme;

use self::endpoint::Endpoint;
use self::failure::Cause;
use self::session::Tokens;
use self::transport::Transport;
use crate::auth::{Credentials, lookup};
use crate::digest::Digest;
use crate::manifest::{Manifest, MediaType};
use crate::reference::Reference;
use crate::registries_conf::{self, RegistriesConf};

pub use self::blob::Blob;
pub(crate) use self::certs::is_plain;
pub use self::explain::{Explained, Shown, Why};
pub use self::failure::Failure;
pub use self::push::Upload;
pub use self::raw::Raw;
pub use self::referrers::Artifact;
use self::repository::Inner;
pub use self::repository::Repository;
pub use self::settings::{Patience, Proxies, Purpose, Settings};

const AGENT: &str = concat!("berth/", env!("CARGO_PKG_VERSION"));

/// The client; cheap to clone. Connections and tokens are shared by all clones.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    /// What registries.conf says now.
    registries: ArcSwap<RegistriesConf>,
    transport: Transport,
    tokens: Tokens,
    schemes: Schemes,
}

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

/// What went wrong, by what a caller could do about it; each tells every endpoint's cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// registries.conf forbids this registry, or makes no name of it.
    #[error(transparent)]
    Blocked(#[from] registries_conf::Error),
    /// A hosts.toml can't be used.
    #[error("hosts.toml can't be used")]
    Hosts(#[from] crate::hosts_toml::Error),
    /// No endpoint has it.
    #[error("{0}")]
    NotFound(Failure),
    /// The credentials are missing or refused.
    #[error("{0}")]
    Unauthorized(Failure),
    /// No endpoint could be reached, or they are all in trouble.
    #[error("{0}")]
    Unavailable(Failure),
    /// Bytes that are not what their digest or size says.
    #[error("{0}")]
    Verification(Failure),
    /// An answer that no registry should give, or an image that can't be used here.
    #[error("{0}")]
    Invalid(Failure),
    /// The node's own configuration (certificates, credential files) can't be used.
    #[error("{0}")]
    Configuration(Failure),
}

impl Registry {
    /// Reads and connects to nothing yet.
    pub fn new(settings: Settings) -> Registry {
        let transport =
            Transport::new(settings.certs_dirs.clone(), settings.patience.clone(), &settings.proxies);
        let (tokens, schemes) = (Tokens::default(), Schemes::default());
        let registries = ArcSwap::from_pointee(settings.registries.clone());
        Registry { shared: Arc::new(Shared { settings, registries, transport, tokens, schemes }) }
    }

    /// What registries.conf says now.
    pub fn registries(&self) -> Arc<RegistriesConf> {
        self.shared.registries.load_full()
    }

    /// From now on this is what registries.conf says; pulls under way go on by what it said.
    pub fn set_registries(&self, registries: RegistriesConf) {
        self.shared.registries.store(Arc::new(registries));
    }

    /// Decides which endpoints to ask; asks none yet.
    pub fn repository(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Repository, Error> {
        self.repository_for(reference, credentials, &[])
    }

    /// The same for somebody who has files with credentials of their own; those are looked at first.
    pub fn repository_for(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        own_auth_files: &[PathBuf],
    ) -> Result<Repository, Error> {
        self.open(reference, credentials, own_auth_files, Purpose::Pull)
    }

    /// The same to push to: the registry itself, or who a hosts.toml says takes pushes for it; no mirror.
    pub fn repository_to_push(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        own_auth_files: &[PathBuf],
    ) -> Result<Repository, Error> {
        self.open(reference, credentials, own_auth_files, Purpose::Push)
    }

    fn open(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        own_auth_files: &[PathBuf],
        purpose: Purpose,
    ) -> Result<Repository, Error> {
        let auth_places: Arc<[lookup::Place]> = self.shared.auth_places(own_auth_files).into();
        let (_, mut places) = self.shared.places(reference, purpose)?;
        if purpose == Purpose::Push {
            // Half an image in one place and half in another is none.
            places.truncate(1);
        }
        if places.is_empty() {
            let mut failure = Failure::new(format!("pushing to {reference}"));
            failure.add(reference.domain(), &Cause::Nobody);
            return Err(failure.into_error());
        }
        let endpoint =
            |place| Endpoint::new(place, reference.domain(), credentials, auth_places.clone(), purpose);
        let inner = Inner {
            reference: reference.clone(),
            endpoints: places.into_iter().map(endpoint).collect(),
            preferred: AtomicUsize::new(0),
            sources: Mutex::default(),
            shared: self.shared.clone(),
        };
        Ok(Repository { inner: Arc::new(inner) })
    }
}

impl Shared {
    /// Where credentials are looked for.
    fn auth_places(&self, own: &[PathBuf]) -> Vec<lookup::Place> {
        lookup::places(own, self.registries.load().credential_helpers(), &self.settings.auth_files)
    }

    /// Whom to ask: by registries.conf where a rule of it speaks of the reference, else by hosts.toml.
    fn places(
        &self,
        reference: &Reference,
        purpose: Purpose,
    ) -> Result<(Why, Vec<registries_conf::Endpoint>), Error> {
        let registries = self.registries.load();
        let why = match registries.rule_of(reference) {
            Some(prefix) => Why::Rule(prefix.to_owned()),
            None => match crate::hosts_toml::endpoints(&self.settings.certs_dirs, reference, purpose)? {
                Some((path, places)) => return Ok((Why::Hosts(path), places)),
                None => Why::Nothing,
            },
        };
        let mut places = registries.endpoints(reference)?;
        if purpose == Purpose::Push {
            places.retain(|place| place.role == registries_conf::Role::Primary);
        }
        Ok((why, places))
    }
}

/// Which scheme an insecure endpoint spoke when it was last asked.
#[derive(Debug, Default)]
struct Schemes(Mutex<HashMap<String, Scheme>>);

impl Schemes {
    fn get(&self, host: &str) -> Option<Scheme> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }

    fn remember(&self, host: &str, scheme: Scheme) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), scheme);
    }

    fn forget(&self, host: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }
}
