//! One place that may have the repository: its documents and blobs, verified as far as one answer can be.
//! How a request reaches it: `ask`.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RANGE,
};
use http::{HeaderMap, StatusCode};
use hyper::body::{Body, Incoming};

use super::ask::Ask;
use super::failure::Cause;
use super::session::Session;
use super::{Fetched, Purpose, Shared, body};
use crate::auth::Credentials;
use crate::auth::lookup::Place;
use crate::digest::Digest;
use crate::manifest::{self, Descriptor, Document, MAX_DOCUMENT_BYTES, MediaType};
use crate::registries_conf::{self, Role};

/// Where the API of `docker.io` is.
pub(super) const DOCKER_API: &str = "registry-1.docker.io";
const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) place: registries_conf::Endpoint,
    /// Where its API is: the place's host, but for docker.io.
    pub(super) host: String,
    pub(super) session: Session,
}

/// A blob's answer: the bytes to come, of which the first `skip` are not wanted.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) body: Incoming,
    pub(super) skip: u64,
    /// The range that was asked for, not the whole.
    pub(super) is_part: bool,
}

impl Endpoint {
    /// `given` is shown here only when this is the registry itself and not a mirror.
    pub(super) fn new(
        place: registries_conf::Endpoint,
        domain: &str,
        given: Option<&Credentials>,
        auth_places: Arc<[Place]>,
        purpose: Purpose,
    ) -> Endpoint {
        let given = match place.role {
            Role::Primary => given.filter(|credentials| credentials.are_for(&[domain, &place.host])),
            Role::Mirror => None,
        };
        let session = Session::new(&place.host, &place.path, given.cloned(), auth_places, purpose);
        let host = if place.host == "docker.io" { DOCKER_API } else { &place.host }.to_owned();
        Endpoint { place, host, session }
    }

    /// The path of something in the repository: `manifests/…`, `blobs/…`, `referrers/…`.
    pub(super) fn path(&self, what: &str) -> String {
        format!("{}/{}/{what}", self.place.access.base, self.place.path)
    }

    /// Where the registry answers to a ping, and where its extension keeps signatures; None for one whose API
    /// lies elsewhere than the specification has it.
    pub(super) fn signature_paths(&self, image: &Digest) -> Option<(String, String)> {
        let path = format!("/extensions/v2/{}/signatures/{image}", self.place.path);
        (self.place.access.base == "/v2").then(|| ("/v2/".to_owned(), path))
    }

    pub(super) fn name(&self) -> &str {
        &self.place.host
    }

    /// The document that `selector` names, verified: against the pin when the selector is a digest,
    /// against the server's own word, and against the index that led here.
    pub(super) async fn manifest(
        &self,
        shared: &Shared,
        selector: &str,
        expected: Option<&Descriptor>,
    ) -> Result<(Fetched, Document), Cause> {
        let accept = MediaType::ALL.map(MediaType::as_str).join(", ");
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_str(&accept).map_err(|_| Cause::Nonsense("accept"))?);
        let path = self.path(&format!("manifests/{selector}"));
        let (headers, bytes) = self.document(shared, &path, &headers).await?;
        verify_document(&headers, bytes, selector, expected)
    }

    /// What lies at a path of the API, whole; verified by nobody yet.
    pub(super) async fn document(
        &self,
        shared: &Shared,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(HeaderMap, Bytes), Cause> {
        let (parts, body) = self.ask(shared, &Ask::get(path, headers)).await?.into_parts();
        let bytes = body::read(body, MAX_DOCUMENT_BYTES, &shared.settings.patience).await?;
        Ok((parts.headers, bytes))
    }

    /// A part of the blob, or all of it from a server that knows no ranges.
    pub(super) async fn blob(
        &self,
        shared: &Shared,
        descriptor: &Descriptor,
        range: Range<u64>,
    ) -> Result<Opened, Cause> {
        let size = descriptor.size;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(range) = range_header(&range, size) {
            headers.insert(RANGE, HeaderValue::from_str(&range).map_err(|_| Cause::Nonsense("range"))?);
        }
        let path = self.path(&format!("blobs/{}", descriptor.digest));
        let answer = self.ask(shared, &Ask::get(&path, &headers)).await?;
        let is_part = answer.status() == StatusCode::PARTIAL_CONTENT;
        let skip = check_range(answer.status(), answer.headers(), size, &range)?;
        let body = answer.into_body();
        let expected = if is_part { range.end - range.start } else { size };
        match body.size_hint().exact() {
            Some(found) if found != expected => Err(Cause::Size { expected, found }),
            Some(_) | None => Ok(Opened { body, skip, is_part }),
        }
    }
}

fn verify_document(
    headers: &HeaderMap,
    bytes: Bytes,
    selector: &str,
    expected: Option<&Descriptor>,
) -> Result<(Fetched, Document), Cause> {
    if let Some(expected) = expected.filter(|expected| expected.size != bytes.len() as u64) {
        return Err(Cause::Size { expected: expected.size, found: bytes.len() as u64 });
    }
    let own = verify_digest(headers, &bytes, selector)?;
    let document = manifest::parse(&bytes, content_type(headers))?;
    if let Some(expected) = expected.filter(|expected| expected.media_type != document.media_type().as_str())
    {
        let (announced, found) = (expected.media_type.clone(), document.media_type().to_string());
        return Err(manifest::Error::TypeMismatch { announced, found }.into());
    }
    Ok((Fetched { digest: own, media_type: document.media_type(), bytes }, document))
}

/// The digest of a document: the one that the selector pins, and never against the server's own word.
pub(super) fn verify_digest(headers: &HeaderMap, bytes: &[u8], selector: &str) -> Result<Digest, Cause> {
    let own = match &Digest::parse(selector) {
        Ok(pinned) => same_digest(pinned, bytes)?,
        Err(_) => Digest::sha256(bytes),
    };
    if let Some(said) = said_digest(headers)? {
        same_digest(&said, bytes)?;
    }
    Ok(own)
}

/// Never against the server's own word, where it says which digest it took something for.
pub(super) fn verify_said(headers: &HeaderMap, own: &Digest) -> Result<(), Cause> {
    match said_digest(headers)? {
        Some(said) if said.algorithm() == own.algorithm() && said != *own => {
            Err(Cause::Digest { expected: own.clone(), found: said })
        }
        _ => Ok(()),
    }
}

fn said_digest(headers: &HeaderMap) -> Result<Option<Digest>, Cause> {
    let said = text(headers, DOCKER_CONTENT_DIGEST).filter(|said| !said.is_empty()).map(Digest::parse);
    said.transpose().map_err(|_| Cause::Nonsense("Docker-Content-Digest is no digest"))
}

pub(super) fn content_type(headers: &HeaderMap) -> Option<&str> {
    text(headers, CONTENT_TYPE)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn same_digest(expected: &Digest, bytes: &[u8]) -> Result<Digest, Cause> {
    let found = Digest::of(expected.algorithm(), bytes);
    if found == *expected { Ok(found) } else { Err(Cause::Digest { expected: expected.clone(), found }) }
}

/// None for the whole. The end is said only where there is more behind it: not all servers like it.
fn range_header(range: &Range<u64>, size: u64) -> Option<String> {
    match (range.start, range.end) {
        (0, end) if end == size => None,
        (start, end) if end == size => Some(format!("bytes={start}-")),
        (start, end) => Some(format!("bytes={start}-{}", end - 1)),
    }
}

/// How many bytes to skip: all before the start when the server knows no ranges (RFC 9110, 14.2).
fn check_range(status: StatusCode, headers: &HeaderMap, size: u64, asked: &Range<u64>) -> Result<u64, Cause> {
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Cause::Nonsense("the blob is encoded though we asked for it as it is"));
    }
    if status == StatusCode::OK {
        return Ok(asked.start);
    }
    if status != StatusCode::PARTIAL_CONTENT || range_header(asked, size).is_none() {
        return Err(Cause::Nonsense("a success that is neither the whole nor the part asked for"));
    }
    let range = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    let (part, total) = range.strip_prefix("bytes ").and_then(|r| r.split_once('/')).unwrap_or_default();
    let whole = total == "*" || total.parse() == Ok(size);
    let (first, last) = part.split_once('-').unwrap_or_default();
    if !whole || first.parse() != Ok(asked.start) || last.parse() != Ok(asked.end - 1) {
        return Err(Cause::Nonsense("another range than was asked for"));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_the_one_asked_for_or_refused() {
        let check = |status: u16, range: &str, answer: Option<u64>| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, HeaderValue::from_str(range).unwrap());
            let skip = check_range(StatusCode::from_u16(status).unwrap(), &headers, 100, &(40..100));
            assert_eq!(skip.ok(), answer, "{status} {range}");
        };
        check(200, "", Some(40));
        check(206, "bytes 40-99/100", Some(0));
        check(206, "bytes 40-99/*", Some(0));
        check(206, "bytes 39-99/100", None);
        check(206, "bytes 40-98/100", None);
        check(206, "bytes 40-99/101", None);
        check(206, "bytes 0-99/100", None);
        check(206, "", None);
        check(206, "lines 40-99/100", None);
        check(204, "", None);
        assert_eq!(range_header(&(0..100), 100), None);
        assert_eq!(range_header(&(40..100), 100).as_deref(), Some("bytes=40-"));
        assert_eq!(range_header(&(0..40), 100).as_deref(), Some("bytes=0-39"));
    }
}
