//! What refers to an image: signatures, attestations, lists of contents (distribution-spec, "Listing
//! Referrers"), and the documents that are such things.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, HeaderName, HeaderValue};

use super::endpoint::Endpoint;
use super::failure::Cause;
use super::round::Round;
use super::{Error, Repository, Shared, origin, page};
use crate::digest::Digest;
use crate::manifest::{self, ArtifactManifest, Descriptor, Document, MAX_ENTRIES, MediaType};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// A list this long is no list of signatures.
const MAX_PAGES: usize = 20;

/// A document of any kind but an index, verified against its digest.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub digest: Digest,
    pub bytes: Bytes,
    pub manifest: ArtifactManifest,
}

impl Repository {
    /// What refers to the manifest of this digest: by the referrers API, else by the tag that the
    /// specification names in its place (`sha256-<hex>`). Only what has `artifact_type`, when one is given.
    /// The descriptors are the registry's word; fetch them by digest with [`Repository::artifact`].
    /// An endpoint that knows of none is no answer as long as another can be asked.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Error> {
        let shared = &self.inner.shared;
        let mut round = Round::new(&self.inner, format!("listing what refers to {subject}"));
        loop {
            let found = match round.endpoint().referrers(shared, subject, artifact_type).await {
                Ok(found) if found.is_empty() => Err(Cause::NotFound(Default::default())),
                other => other,
            };
            match found {
                Ok(found) => return Ok(found),
                Err(cause) => match round.failed(cause).await {
                    Ok(()) => {}
                    Err(Error::NotFound(_)) => return Ok(Vec::new()),
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// A manifest whatever it is of, by tag or digest; None where no endpoint has it. Its layers come by
    /// [`Repository::blob`] and [`Repository::small_blob`].
    pub async fn artifact(&self, selector: &str) -> Result<Option<Artifact>, Error> {
        let name = format!("{}:{selector}", self.inner.reference.repository());
        let mut round = Round::naming(&self.inner, selector, format!("fetching {name}"));
        loop {
            match round.endpoint().artifact(&self.inner.shared, selector).await {
                Ok(found) => return Ok(Some(found)),
                Err(cause) => match round.failed(cause).await {
                    Ok(()) => {}
                    Err(Error::NotFound(_)) => return Ok(None),
                    Err(error) => return Err(error),
                },
            }
        }
    }
}

impl Endpoint {
    /// Empty when it knows of none.
    async fn referrers(
        &self,
        shared: &Shared,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Cause> {
        let wanted = |entry: &Descriptor| artifact_type.is_none_or(|wanted| entry.is_of(wanted));
        let query = artifact_type.map(|wanted| format!("?artifactType={}", origin::encode(wanted)));
        let start = self.path(&format!("referrers/{subject}{}", query.unwrap_or_default()));
        let mut next = Some(start);
        let mut all = Vec::new();
        for page in 0..MAX_PAGES {
            let Some(path) = next.take() else { break };
            let (headers, bytes) = match self.document(shared, &path, &index_only()?).await {
                // No such API: the tag says the same (distribution-spec, "Unavailable Referrers API").
                Err(Cause::NotFound(_)) if page == 0 && !self.place.access.resolves => return Ok(all),
                Err(Cause::NotFound(_)) if page == 0 => {
                    return self.referrers_tag(shared, subject, wanted).await;
                }
                other => other?,
            };
            let filtered = headers.contains_key(FILTERS_APPLIED);
            let entries = entries(&bytes, &headers)?;
            all.extend(entries.into_iter().filter(|entry| filtered || wanted(entry)));
            if all.len() > MAX_ENTRIES {
                return Err(manifest::Error::TooManyEntries(all.len()).into());
            }
            next = page::next(&headers, self.home(shared).as_ref())?;
        }
        Ok(all)
    }

    async fn referrers_tag(
        &self,
        shared: &Shared,
        subject: &Digest,
        wanted: impl Fn(&Descriptor) -> bool,
    ) -> Result<Vec<Descriptor>, Cause> {
        let hex = subject.hex();
        let algorithm = subject.as_str().trim_end_matches(hex).trim_end_matches(':');
        // The specification cuts the hex at 64 digits, so that a tag stays a tag.
        let tag = format!("{algorithm}-{}", &hex[..hex.len().min(64)]);
        let path = self.path(&format!("manifests/{tag}"));
        match self.document(shared, &path, &index_only()?).await {
            Ok((headers, bytes)) => Ok(entries(&bytes, &headers)?.into_iter().filter(wanted).collect()),
            Err(Cause::NotFound(_)) => Ok(Vec::new()),
            Err(other) => Err(other),
        }
    }

    async fn artifact(&self, shared: &Shared, selector: &str) -> Result<Artifact, Cause> {
        let mut accept = HeaderMap::new();
        for kind in [MediaType::OciManifest, MediaType::DockerManifest] {
            accept.append(ACCEPT, HeaderValue::from_static(kind.as_str()));
        }
        let path = self.path(&format!("manifests/{selector}"));
        let (headers, bytes) = self.document(shared, &path, &accept).await?;
        let digest = super::endpoint::verify_digest(&headers, &bytes, selector)?;
        let manifest = manifest::parse_artifact(&bytes, super::endpoint::content_type(&headers))?;
        Ok(Artifact { digest, bytes, manifest })
    }
}

fn index_only() -> Result<HeaderMap, Cause> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(MediaType::OciIndex.as_str()));
    Ok(headers)
}

fn entries(bytes: &[u8], headers: &HeaderMap) -> Result<Vec<Descriptor>, Cause> {
    match manifest::parse(bytes, super::endpoint::content_type(headers))? {
        Document::Index(index) => Ok(index.manifests),
        Document::Manifest(_) => Err(Cause::Nonsense("a list of referrers that is an image")),
    }
}
