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
mod dial;
mod endpoint;
mod explain;
mod failure;
mod origin;
mod push;
mod raw;
mod referrers;
mod retry;
mod round;
mod session;
mod signatures;
mod transport;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use http::uri::Scheme;

use self::endpoint::Endpoint;
use self::failure::Cause;
use self::round::Round;
use self::session::Tokens;
use self::transport::Transport;
use crate::auth::Credentials;
use crate::digest::Digest;
use crate::manifest::{self, Descriptor, Document, MAX_CONFIG_BYTES, MAX_INDEX_DEPTH, Manifest, MediaType};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registries_conf::{self, RegistriesConf};

pub use self::blob::Blob;
pub use self::explain::{Explained, Shown, Why};
pub use self::failure::Failure;
pub use self::push::Upload;
pub use self::raw::Raw;
pub use self::referrers::Artifact;

const AGENT: &str = concat!("berth/", env!("CARGO_PKG_VERSION"));

/// What is to be done with a repository: no token is asked for that could do more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Pull,
    Push,
}

/// What the client is told once.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub registries: RegistriesConf,
    /// Directories like `/etc/containers/certs.d`, the first that has the host wins.
    pub certs_dirs: Vec<PathBuf>,
    /// Files like `auth.json` and `~/.docker/config.json`, the first that knows the registry wins.
    pub auth_files: Vec<PathBuf>,
    pub patience: Patience,
    pub proxies: Proxies,
}

/// How long to wait for what, and how often to ask again.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For an answer to begin; a small one must also end within it.
    pub answer: Duration,
    /// For the next bytes of a blob.
    pub idle: Duration,
    /// Within each window of waiting, at least `floor_bytes` of a blob must come.
    pub window: Duration,
    pub floor_bytes: u64,
    /// Tries at one endpoint; progress resets the count.
    pub attempts: u32,
    /// Between the first two tries; doubles with each.
    pub pause: Duration,
    /// The longest `Retry-After` that is waited for. The kubelet comes back by itself after longer.
    pub retry_after: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            window: Duration::from_secs(60),
            floor_bytes: 16 << 10,
            attempts: 5,
            pause: Duration::from_millis(250),
            retry_after: Duration::from_secs(60),
        }
    }
}

/// Which proxies stand between us and registries. The loopback is never asked for through one.
#[derive(Debug, Clone, Default)]
pub enum Proxies {
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, as curl reads them.
    #[default]
    Environment,
    Given {
        http: String,
        https: String,
        no: String,
    },
}

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

/// One repository as one caller sees it: its endpoints, and what may be shown to them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    reference: Reference,
    endpoints: Vec<Endpoint>,
    /// The one that answered last: what one has of an image, it most likely has all of.
    preferred: AtomicUsize,
    /// Which endpoint each blob came from last, and which ones gave a wrong one.
    sources: Mutex<Sources>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Sources {
    served: HashMap<Digest, usize>,
    distrusted: BTreeSet<usize>,
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
    /// Of documents that were fetched one by one; the last is the image's manifest.
    pub(crate) fn of(way: &[Raw]) -> Result<Resolved, manifest::Error> {
        let fetched = |raw: &Raw| Fetched {
            digest: raw.digest.clone(),
            media_type: raw.outline.media_type(),
            bytes: raw.bytes.clone(),
        };
        let last = way.last().map_or(&[][..], |raw| &raw.bytes[..]);
        match manifest::parse(last, way.last().map(|raw| raw.outline.media_type().as_str()))? {
            Document::Manifest(manifest) => {
                Ok(Resolved { documents: way.iter().map(fetched).collect(), manifest })
            }
            Document::Index(_) => Err(manifest::Error::Missing("layers")),
        }
    }

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
        let auth_files: Arc<[PathBuf]> =
            own_auth_files.iter().chain(&self.shared.settings.auth_files).cloned().collect();
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
            |place| Endpoint::new(place, reference.domain(), credentials, auth_files.clone(), purpose);
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

impl Repository {
    /// Fetches what the reference names and follows indexes to the image for the platform.
    pub async fn resolve(&self, platform: &Platform) -> Result<Resolved, Error> {
        let (fetched, mut document) = self.inner.manifest(self.inner.reference.selector(), None).await?;
        let mut documents = vec![fetched];
        loop {
            let index = match document {
                Document::Manifest(manifest) => return Ok(Resolved { documents, manifest }),
                Document::Index(index) => index,
            };
            if documents.len() > MAX_INDEX_DEPTH {
                return Err(self.inner.failed(&Cause::Nonsense("its indexes are nested too deep")));
            }
            let Some(entry) = platform.choose(&index.manifests) else {
                return Err(self.inner.failed(&no_platform(platform, &index.manifests)));
            };
            let (fetched, next) = self.inner.manifest(entry.digest.as_str(), Some(entry)).await?;
            documents.push(fetched);
            document = next;
        }
    }

    /// Opens a blob at an offset. Broken connections are mended inside the stream.
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<Blob, Error> {
        self.blob_range(descriptor, offset..descriptor.size).await
    }

    /// Opens a part of a blob.
    pub async fn blob_range(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<Blob, Error> {
        Blob::open(self.inner.clone(), descriptor, range).await
    }

    /// The image's configuration, whole and verified.
    pub async fn config(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        self.small_blob(descriptor, MAX_CONFIG_BYTES).await
    }

    /// A blob of at most `limit` bytes, whole and verified.
    pub async fn small_blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes, Error> {
        if descriptor.size > limit {
            return Err(self.inner.failed(&Cause::TooLong(limit)));
        }
        loop {
            let mut blob = self.blob(descriptor, 0).await?;
            let mut whole = BytesMut::new();
            while let Some(bytes) = blob.next().await? {
                whole.extend_from_slice(&bytes);
            }
            let found = Digest::of(descriptor.digest.algorithm(), &whole);
            if found == descriptor.digest {
                return Ok(whole.freeze());
            }
            if !self.distrust(&descriptor.digest) {
                let cause = Cause::Digest { expected: descriptor.digest.clone(), found };
                return Err(self.inner.failed(&cause));
            }
        }
    }

    /// Says that a blob's bytes were not what its digest says, or no archive at all. Whoever gave it is asked last from now
    /// on; true when another endpoint is left that may give a better one.
    pub fn distrust(&self, blob: &Digest) -> bool {
        let mut sources = self.inner.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = sources.served.get(blob).copied() else { return false };
        tracing::warn!(endpoint = self.inner.endpoints[index].name(), %blob, "a blob is not what its digest says");
        sources.distrusted.insert(index) && sources.distrusted.len() < self.inner.endpoints.len()
    }
}

impl Inner {
    /// A document from the first endpoint that gives a good one.
    async fn manifest(
        &self,
        selector: &str,
        expected: Option<&Descriptor>,
    ) -> Result<(Fetched, Document), Error> {
        let what = match expected {
            None => format!("fetching {}", self.reference),
            Some(child) => format!("fetching {} of {}", child.digest, self.reference),
        };
        let mut round = Round::new(self, what);
        loop {
            match round.endpoint().manifest(&self.shared, selector, expected).await {
                Ok(found) => return Ok(round.served(found)),
                Err(cause) => round.failed(cause).await?,
            }
        }
    }

    /// The preferred endpoint, then the others in their order, and last those that gave wrong bytes.
    fn order(&self) -> Vec<usize> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<usize> = (0..self.endpoints.len()).collect();
        order.sort_by_key(|index| (sources.distrusted.contains(index), *index != preferred));
        order
    }

    fn served(&self, blob: &Digest, index: usize) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).served.insert(blob.clone(), index);
    }

    fn failed(&self, cause: &Cause) -> Error {
        let mut failure = Failure::new(format!("fetching {}", self.reference));
        failure.add(self.endpoints[self.preferred.load(Ordering::Relaxed)].name(), cause);
        failure.into_error()
    }
}

fn no_platform(platform: &Platform, entries: &[Descriptor]) -> Cause {
    let names = entries.iter().filter_map(|entry| entry.platform.as_ref()).map(ToString::to_string);
    let there: Vec<String> = names.take(20).map(|name| name.chars().take(60).collect()).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    Cause::Platform { platform: platform.to_string(), there }
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
