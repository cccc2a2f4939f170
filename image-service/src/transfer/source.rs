//! Where an image comes from: its documents, and its blobs from any byte on.

use std::io::{BufReader, Read};

use bytes::Bytes;

use super::files::Files;
use super::location::Location;
use super::stored::Stored;
use crate::error::Error;
use crate::images::{Settings, policy_in_force};
use crate::manifest::{self, Descriptor, Outline};
use crate::platform::Platform;
use crate::policy::Manifest;
use crate::reference::Reference;
use crate::registry::{self, Raw, Registry, Repository};

/// What is read of a file at once.
const PIECE_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) enum Source {
    Registry { repository: Repository, reference: Reference },
    Files(Files),
    Stored(Stored),
}

/// The bytes of one blob, from some place on.
pub(super) enum Stream {
    Registry(Box<registry::Blob>, Reference),
    File(Box<dyn Read + Send>, String),
}

impl Source {
    /// Opens the place and asks the policy whether anything may be taken from it.
    pub(super) fn open(
        location: &Location,
        registry: &Registry,
        settings: &Settings,
    ) -> Result<Source, Error> {
        let policy = policy_in_force(settings, None).map_err(Error::Policy)?;
        match location {
            Location::Registry { name } => {
                // The first that a short name may mean: what is looked at is not guessed.
                let candidates = registry.registries().candidates(name).map_err(Error::registries)?;
                let missing = || Error::NotFound { name: name.clone(), source: None };
                let reference = candidates.into_iter().next().ok_or_else(missing)?;
                policy.check(&reference).map_err(Error::Policy)?;
                let failed = |error| Error::registry(name, error);
                let repository = registry.repository(&reference, None).map_err(failed)?;
                Ok(Source::Registry { repository, reference })
            }
            Location::File { path, reference, .. } => {
                let files = Files::open(path, reference.as_deref())?;
                let checked = policy.check_file(files.transport(), path, reference.as_deref());
                checked.map_err(Error::Policy)?;
                Ok(Source::Files(files))
            }
        }
    }

    /// What the name means: an image, or an index of them.
    pub(super) async fn top(&self) -> Result<Raw, Error> {
        match self {
            Source::Registry { repository, reference } => {
                repository.raw(None).await.map_err(|error| Error::registry(&reference.to_string(), error))
            }
            Source::Files(files) => files.top(),
            Source::Stored(stored) => stored.top(),
        }
    }

    /// A document that another one names.
    pub(super) async fn document(&self, entry: &Descriptor) -> Result<Raw, Error> {
        match self {
            Source::Registry { repository, reference } => repository
                .raw(Some(entry))
                .await
                .map_err(|error| Error::registry(&reference.to_string(), error)),
            Source::Files(files) => files.document(entry),
            // It has one document, and that names no other.
            Source::Stored(stored) => stored.top(),
        }
    }

    /// A small blob, whole and verified.
    pub(super) async fn small(&self, blob: &Descriptor, limit: u64) -> Result<Bytes, Error> {
        match self {
            Source::Registry { repository, reference } => repository
                .small_blob(blob, limit)
                .await
                .map_err(|error| Error::registry(&reference.to_string(), error)),
            Source::Files(files) => files.small(blob, limit).map(Bytes::from),
            Source::Stored(stored) => {
                let mut bytes = Vec::new();
                let read = stored.blob(blob, 0)?.take(limit).read_to_end(&mut bytes);
                read.map_err(|error| Error::io("reading", stored.shown().as_ref(), error))?;
                Ok(Bytes::from(bytes))
            }
        }
    }

    /// A blob from `offset` on, verified by nobody yet.
    pub(super) async fn blob(&self, blob: &Descriptor, offset: u64) -> Result<Stream, Error> {
        match self {
            Source::Registry { repository, reference } => {
                let opened = repository.blob(blob, offset).await;
                let opened = opened.map_err(|error| Error::registry(&reference.to_string(), error))?;
                Ok(Stream::Registry(Box::new(opened), reference.clone()))
            }
            Source::Files(files) => {
                let file = files.blob(blob, offset)?;
                let file = BufReader::with_capacity(PIECE_BYTES, file);
                Ok(Stream::File(Box::new(file), files.shown().to_owned()))
            }
            Source::Stored(stored) => Ok(Stream::File(stored.blob(blob, offset)?, stored.shown().to_owned())),
        }
    }

    /// Whether the policy lets an image be taken: the documents that led to its manifest, which is last.
    ///
    /// An image that could run must be signed itself. What lies in an index beside images (attestations, as buildkit
    /// makes them) may also be taken because an index that leads to it is signed: that names it by its digest.
    pub(super) async fn verify(&self, settings: &Settings, documents: &[Raw]) -> Result<(), Error> {
        let Source::Registry { repository, reference } = self else { return Ok(()) };
        let policy = policy_in_force(settings, None).map_err(Error::Policy)?;
        let Some(demand) = policy.demand(reference).map_err(Error::Policy)? else { return Ok(()) };
        let Some((last, above)) = documents.split_last() else { return Ok(()) };
        let verify = async |raw: &Raw| {
            let manifest = Manifest { digest: &raw.digest, bytes: &raw.bytes };
            demand.verify(repository, &manifest, &settings.registries_d).await.map(drop)
        };
        let own = verify(last).await;
        if let (Err(Error::Policy(_)), true) = (&own, is_beside_images(last)) {
            for index in above.iter().rev() {
                if verify(index).await.is_ok() {
                    return Ok(());
                }
            }
        }
        own
    }

    pub(super) fn reference(&self) -> Option<&Reference> {
        match self {
            Source::Registry { reference, .. } => Some(reference),
            Source::Files(files) => files.name(),
            Source::Stored(stored) => stored.name(),
        }
    }

    /// From the top down to the one image for the platform; the top is first.
    pub(super) async fn follow(&self, top: Raw, platform: &Platform) -> Result<Vec<Raw>, Error> {
        let mut way = vec![top];
        while let Outline::Index(index) = &way[way.len() - 1].outline {
            if way.len() > crate::manifest::MAX_INDEX_DEPTH {
                return Err(Error::invalid("the index", "its indexes are nested too deep"));
            }
            let Some(entry) = platform.choose(&index.manifests) else {
                return Err(Error::invalid("the index", format!("it has no image for {platform}")));
            };
            let next = self.document(entry).await?;
            way.push(next);
        }
        Ok(way)
    }
}

/// Whether nothing could run it: it has layers, or a configuration, that no image has.
fn is_beside_images(raw: &Raw) -> bool {
    let announced = raw.outline.media_type();
    manifest::parse(&raw.bytes, Some(announced.as_str())).is_err()
}

impl Stream {
    /// The next bytes; None after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            Stream::Registry(blob, reference) => {
                blob.next().await.map_err(|error| Error::registry(&reference.to_string(), error))
            }
            Stream::File(file, shown) => {
                let mut piece = vec![0; PIECE_BYTES];
                let read = file.read(&mut piece);
                let read = read.map_err(|error| Error::io("reading", shown.as_ref(), error))?;
                piece.truncate(read);
                Ok((read > 0).then(|| Bytes::from(piece)))
            }
        }
    }
}
