//! One repository as one caller sees it.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use super::endpoint::Endpoint;
use super::failure::{Cause, Failure};
use super::round::Round;
use super::{Blob, Error, Fetched, Resolved, Shared};
use crate::digest::Digest;
use crate::manifest::{Descriptor, Document, MAX_CONFIG_BYTES, MAX_INDEX_DEPTH};
use crate::platform::Platform;
use crate::reference::Reference;

/// One repository as one caller sees it: its endpoints, and what may be shown to them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) reference: Reference,
    pub(super) endpoints: Vec<Endpoint>,
    /// The one that answered last: what one has of an image, it most likely has all of.
    pub(super) preferred: AtomicUsize,
    /// Which endpoint each blob came from last, and which ones gave a wrong one.
    pub(super) sources: Mutex<Sources>,
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) served: HashMap<Digest, usize>,
    pub(super) distrusted: BTreeSet<usize>,
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
    pub(super) async fn manifest(
        &self,
        selector: &str,
        expected: Option<&Descriptor>,
    ) -> Result<(Fetched, Document), Error> {
        let what = match expected {
            None => format!("fetching {}", self.reference),
            Some(child) => format!("fetching {} of {}", child.digest, self.reference),
        };
        let mut round = Round::naming(self, selector, what);
        loop {
            match round.endpoint().manifest(&self.shared, selector, expected).await {
                Ok(found) => return Ok(round.served(found)),
                Err(cause) => round.failed(cause).await?,
            }
        }
    }

    /// The preferred endpoint, then the others in their order, and last those that gave wrong bytes.
    pub(super) fn order(&self) -> Vec<usize> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<usize> = (0..self.endpoints.len()).collect();
        order.sort_by_key(|index| (sources.distrusted.contains(index), *index != preferred));
        order
    }

    pub(super) fn served(&self, blob: &Digest, index: usize) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).served.insert(blob.clone(), index);
    }

    pub(super) fn failed(&self, cause: &Cause) -> Error {
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
