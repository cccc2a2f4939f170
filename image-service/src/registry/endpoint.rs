//! One place that may have the repository: requests to it, with its scheme, its credentials and the
//! redirects it gives.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HOST, HeaderName,
    HeaderValue, LOCATION, RANGE, USER_AGENT, WWW_AUTHENTICATE,
};
use http::uri::Scheme;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::{Body, Incoming};

use super::failure::Cause;
use super::origin::{self, Origin};
use super::session::{Asker, Session};
use super::transport::Trust;
use super::{Fetched, Shared, body};
use crate::auth::{Credentials, challenge};
use crate::digest::Digest;
use crate::manifest::{self, Descriptor, Document, MAX_DOCUMENT_BYTES, MediaType};
use crate::registries_conf::{self, Role, Tls};

const MAX_REDIRECTS: usize = 5;
const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

#[derive(Debug)]
pub(super) struct Endpoint {
    place: registries_conf::Endpoint,
    /// Where its API is: the place's host, but for docker.io.
    host: String,
    session: Session,
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
        auth_files: Arc<[PathBuf]>,
    ) -> Endpoint {
        let given = match place.role {
            Role::Primary => given.filter(|credentials| credentials.are_for(&[domain, &place.host])),
            Role::Mirror => None,
        };
        let session = Session::new(&place.host, &place.path, given.cloned(), auth_files);
        let host = if place.host == "docker.io" { "registry-1.docker.io" } else { &place.host }.to_owned();
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
        let (parts, body) = self.get(shared, path, headers).await?.into_parts();
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
        let answer = self.get(shared, &path, &headers).await?;
        let is_part = answer.status() == StatusCode::PARTIAL_CONTENT;
        let skip = check_range(answer.status(), answer.headers(), size, &range)?;
        let body = answer.into_body();
        let expected = if is_part { range.end - range.start } else { size };
        match body.size_hint().exact() {
            Some(found) if found != expected => Err(Cause::Size { expected, found }),
            Some(_) | None => Ok(Opened { body, skip, is_part }),
        }
    }

    /// A GET that ends in success, by the scheme that the endpoint speaks. An insecure one is tried with
    /// TLS first, then without (containers-registries.conf(5), `insecure`); what worked is remembered.
    async fn get(
        &self,
        shared: &Shared,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Cause> {
        let only = self.place.access.scheme.as_ref();
        if let Some(scheme) = only.or((!self.place.insecure).then_some(&Scheme::HTTPS)) {
            return self.get_by(shared, scheme, path, headers).await;
        }
        if let Some(scheme) = shared.schemes.get(&self.host) {
            let answer = self.get_by(shared, &scheme, path, headers).await;
            if answer.as_ref().is_err_and(Cause::is_connect) {
                shared.schemes.forget(&self.host);
            }
            return answer;
        }
        let first = self.get_by(shared, &Scheme::HTTPS, path, headers).await;
        let (scheme, answer) = match first {
            Err(cause) if cause.is_connect() => {
                (Scheme::HTTP, self.get_by(shared, &Scheme::HTTP, path, headers).await)
            }
            other => (Scheme::HTTPS, other),
        };
        if !answer.as_ref().is_err_and(Cause::is_connect) {
            shared.schemes.remember(&self.host, scheme);
        }
        answer
    }

    async fn get_by(
        &self,
        shared: &Shared,
        scheme: &Scheme,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Cause> {
        let path = match &self.place.access.namespace {
            Some(meant) if !path.contains("ns=") => {
                let joint = if path.contains('?') { '&' } else { '?' };
                format!("{path}{joint}ns={}", origin::encode(meant))
            }
            _ => path.to_owned(),
        };
        let uri =
            origin::make(scheme, &self.host, &path).ok_or(Cause::Nonsense("the endpoint makes no URL"))?;
        let home = Origin::of(&uri).ok_or(Cause::Nonsense("the endpoint makes no URL"))?;
        let mut authorization = self.session.current().await;
        let mut answered = false;
        loop {
            let (answer, from_home) =
                self.follow(shared, &uri, &home, headers, authorization.as_ref()).await?;
            if answer.status().is_success() {
                return Ok(answer);
            }
            if answer.status() != StatusCode::UNAUTHORIZED || !from_home || answered {
                return Err(body::refusal(answer, &shared.settings.patience).await);
            }
            let challenges = answer.headers().get_all(WWW_AUTHENTICATE);
            let challenge = challenge::choose(challenges.iter().filter_map(|value| value.to_str().ok()));
            // Read to its end, the connection can serve the next try.
            drop(body::refusal(answer, &shared.settings.patience).await);
            let asker =
                Asker { origin: home.clone(), host: self.host.clone(), trust: self.trust(&home, &home) };
            let new = self.session.answer(shared, challenge, authorization.as_ref(), &asker).await?;
            (authorization, answered) = (Some(new), true);
        }
    }

    /// Follows redirects. `Authorization` stays at home: no other origin sees it, not even the same host
    /// by another scheme or port (CVE-2020-15157), nor home itself when a stranger sends us back there.
    /// Says whether the answer is the endpoint's own.
    async fn follow(
        &self,
        shared: &Shared,
        uri: &Uri,
        home: &Origin,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Response<Incoming>, bool), Cause> {
        let mut uri = uri.clone();
        let mut at_home = true;
        for _ in 0..=MAX_REDIRECTS {
            let origin = Origin::of(&uri).ok_or(Cause::Redirect("its target is no URL"))?;
            at_home = at_home && origin == *home;
            let mut request = Request::builder().uri(&uri).body(Full::<Bytes>::default());
            if let Ok(request) = &mut request {
                *request.headers_mut() = headers.clone();
                request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(super::AGENT));
                if at_home {
                    request.headers_mut().extend(self.place.access.headers.clone());
                    if let Some(authorization) = authorization {
                        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
                    }
                }
            }
            let request = request.map_err(|_| Cause::Redirect("its target is no URL"))?;
            debug_assert!(!request.headers().contains_key(HOST), "hyper sets the host from the URL");
            let answer = shared.transport.send(request, &self.trust(&origin, home)).await?;
            if !is_redirect(answer.status()) {
                return Ok((answer, at_home));
            }
            let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let location = location.ok_or(Cause::Redirect("it names no target"))?;
            uri = origin::redirect(&uri, location, self.place.insecure).map_err(Cause::Redirect)?;
        }
        Err(Cause::Redirect("there were too many already"))
    }

    /// What the operator said of the registry holds for where it sends us, since digests guard the bytes
    /// there; but a key of ours is shown only to the host it lies under.
    fn trust(&self, origin: &Origin, home: &Origin) -> Trust {
        if let Some(tls) = &self.place.access.tls {
            let client = if origin == home { tls.client.clone() } else { Vec::new() };
            Trust::Given(Arc::new(Tls { client, ..tls.clone() }))
        } else if self.place.insecure {
            Trust::Anyone
        } else if origin == home {
            Trust::Verified
        } else {
            Trust::VerifiedBy(self.host.clone())
        }
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
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
    if let Some(said) = text(headers, DOCKER_CONTENT_DIGEST).filter(|said| !said.is_empty()) {
        let said = Digest::parse(said).map_err(|_| Cause::Nonsense("Docker-Content-Digest is no digest"))?;
        same_digest(&said, bytes)?;
    }
    Ok(own)
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
