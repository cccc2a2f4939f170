//! Documents as they are, whatever they are of, and the names that a repository has: for those who copy and
//! show images without running them.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, HeaderValue};
use serde::Deserialize;

use super::endpoint::{self, Endpoint};
use super::failure::Cause;
use super::round::Round;
use super::{Error, Repository, Shared, page};
use crate::digest::Digest;
use crate::manifest::{self, Descriptor, MediaType, Outline};

/// Tags of a repository that are listed; more are cut off.
const MAX_TAGS: usize = 10_000;
const MAX_PAGES: usize = 100;

/// A document, verified against its digest.
#[derive(Debug, Clone)]
pub struct Raw {
    pub digest: Digest,
    pub bytes: Bytes,
    pub outline: Outline,
}

impl Raw {
    /// As an index would name it.
    pub fn descriptor(&self) -> Descriptor {
        let media_type = self.outline.media_type().as_str();
        Descriptor::new(media_type, self.digest.clone(), self.bytes.len() as u64)
    }

    /// Checks a document that lies in a file against what led there.
    pub fn read(bytes: Vec<u8>, expected: &Descriptor) -> Result<Raw, manifest::Error> {
        let outline = manifest::outline(&bytes, Some(&expected.media_type))?;
        Ok(Raw { digest: expected.digest.clone(), bytes: bytes.into(), outline })
    }
}

impl Repository {
    /// What the reference names, or what an index names in it.
    pub async fn raw(&self, expected: Option<&Descriptor>) -> Result<Raw, Error> {
        let selector = expected.map_or(self.inner.reference.selector(), |entry| entry.digest.as_str());
        let what = format!("fetching {selector} of {}", self.inner.reference);
        let mut round = Round::naming(&self.inner, selector, what);
        loop {
            let found = round.endpoint().raw(&self.inner.shared, selector).await;
            let found =
                found.and_then(|raw| match expected.filter(|one| one.size != raw.bytes.len() as u64) {
                    Some(one) => Err(Cause::Size { expected: one.size, found: raw.bytes.len() as u64 }),
                    None => Ok(raw),
                });
            match found {
                Ok(found) => return Ok(round.served(found)),
                Err(cause) => round.failed(cause).await?,
            }
        }
    }

    /// The tags of the repository, sorted as the registry sorts them.
    pub async fn tags(&self) -> Result<Vec<String>, Error> {
        let mut round = Round::new(&self.inner, format!("listing the tags of {}", self.inner.reference));
        loop {
            match round.endpoint().tags(&self.inner.shared).await {
                Ok(found) => return Ok(found),
                Err(cause) => round.failed(cause).await?,
            }
        }
    }
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Endpoint {
    async fn raw(&self, shared: &Shared, selector: &str) -> Result<Raw, Cause> {
        let accept = MediaType::ALL.map(MediaType::as_str).join(", ");
        let accept = HeaderValue::from_str(&accept).map_err(|_| Cause::Nonsense("accept"))?;
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let path = self.path(&format!("manifests/{selector}"));
        let (headers, bytes) = self.document(shared, &path, &headers).await?;
        let digest = endpoint::verify_digest(&headers, &bytes, selector)?;
        let outline = manifest::outline(&bytes, endpoint::content_type(&headers))?;
        Ok(Raw { digest, bytes, outline })
    }

    /// distribution-spec, "Listing Tags".
    async fn tags(&self, shared: &Shared) -> Result<Vec<String>, Cause> {
        let mut next = Some(self.path("tags/list"));
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(path) = next.take().filter(|_| all.len() < MAX_TAGS) else { break };
            let (headers, bytes) = self.document(shared, &path, &HeaderMap::new()).await?;
            let page: Tags = serde_json::from_slice(&bytes)
                .map_err(|_| Cause::Nonsense("the list of tags is not in JSON"))?;
            all.extend(page.tags.unwrap_or_default());
            next = page::next(&headers, self.home(shared).as_ref())?;
        }
        all.truncate(MAX_TAGS);
        Ok(all)
    }
}
