//! Pushing: blobs in pieces that survive a broken connection, then the documents that name them
//! (distribution-spec, "Push").
//!
//! ```text
//! has_blob ─ no ─► mount_blob ─ no ─► begin ─► send, send, … ─► finish
//!                                        ▲        │ broken: ask where it stands, go on from there
//!                                        └────────┘ forgotten: begin again
//! ```

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE};
use http::{HeaderMap, Method, Response, StatusCode, Uri};
use hyper::body::Incoming;

use super::ask::{Ask, At};
use super::endpoint::{self, Endpoint};
use super::failure::{Again, Cause, Failure};
use super::retry::Retry;
use super::round::Round;
use super::{Error, Repository, Shared, origin};
use crate::digest::Digest;
use crate::manifest::{Descriptor, MediaType};

/// A server that loses an upload more often than this will never have it.
const MAX_BEGINNINGS: u32 = 5;
/// Servers that want pieces of at least some length say so, within reason (distribution-spec,
/// `OCI-Chunk-Min-Length`).
const MAX_MIN_PIECE: u64 = 64 << 20;

/// A blob on its way to the registry.
#[derive(Debug)]
pub struct Upload {
    repository: Repository,
    blob: Digest,
    address: Uri,
    position: u64,
    min_piece: u64,
    beginnings: u32,
    retry: Retry,
}

impl Repository {
    /// Whether the registry has the blob in this repository.
    pub async fn has_blob(&self, blob: &Descriptor) -> Result<bool, Error> {
        let path = |endpoint: &Endpoint| endpoint.path(&format!("blobs/{}", blob.digest));
        let asked = self.asked(format!("looking for blob {}", blob.digest), Method::HEAD, path).await;
        match asked {
            Ok(answer) => {
                let length = answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
                Ok(length.is_none_or(|length| length.parse() == Ok(blob.size)))
            }
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the blob over from another repository of the same registry; false when the registry does not.
    pub async fn mount_blob(&self, blob: &Digest, from: &str) -> Result<bool, Error> {
        let query = format!("?mount={}&from={}", origin::encode(blob.as_str()), origin::encode(from));
        let path = |endpoint: &Endpoint| endpoint.path(&format!("blobs/uploads/{query}"));
        let asked = self.asked(format!("mounting blob {blob} from {from}"), Method::POST, path).await;
        match asked {
            Ok(answer) if answer.status() == StatusCode::CREATED => Ok(true),
            // It was begun as an upload, which the registry forgets by itself.
            Ok(_) => Ok(false),
            // What may not be read there may be sent all the same.
            Err(Error::NotFound(_) | Error::Unauthorized(_) | Error::Invalid(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins to send a blob.
    pub async fn upload(&self, blob: &Digest) -> Result<Upload, Error> {
        let patience = self.inner.shared.settings.patience.clone();
        let mut upload = Upload {
            repository: self.clone(),
            blob: blob.clone(),
            address: Uri::default(),
            position: 0,
            min_piece: 0,
            beginnings: 0,
            retry: Retry::new(patience, true),
        };
        upload.begin().await?;
        Ok(upload)
    }

    /// Puts a document under a tag or its digest, and sees that the registry took the same bytes.
    pub async fn put_document(
        &self,
        selector: &str,
        media_type: MediaType,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type.as_str()))]);
        let mut round = Round::new(&self.inner, format!("pushing {selector} to {}", self.inner.reference));
        loop {
            let path = round.endpoint().path(&format!("manifests/{selector}"));
            let ask =
                Ask { method: Method::PUT, at: At::Path(&path), headers: &headers, body: bytes.clone() };
            let answer = round.endpoint().ask(&self.inner.shared, &ask).await;
            let taken = answer.and_then(|answer| endpoint::verify_digest(answer.headers(), bytes, selector));
            match taken {
                Ok(_) => return Ok(()),
                Err(cause) => round.failed(cause).await?,
            }
        }
    }

    /// The answer to a request without a body.
    async fn asked(
        &self,
        what: String,
        method: Method,
        path: impl Fn(&Endpoint) -> String,
    ) -> Result<Response<Incoming>, Error> {
        let headers = HeaderMap::new();
        let mut round = Round::new(&self.inner, format!("{what} in {}", self.inner.reference));
        loop {
            let path = path(round.endpoint());
            let ask =
                Ask { method: method.clone(), at: At::Path(&path), headers: &headers, body: Bytes::new() };
            match round.endpoint().ask(&self.inner.shared, &ask).await {
                Ok(answer) => return Ok(answer),
                Err(cause) => round.failed(cause).await?,
            }
        }
    }
}

impl Upload {
    /// How much of the blob the registry has: what comes next begins there. After a failure that may be
    /// anything that was sent before.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How long a piece must be, but for the last.
    pub fn min_piece(&self) -> u64 {
        self.min_piece
    }

    /// Sends the bytes that begin at [`Upload::position`]. When that breaks, asks how far the registry came;
    /// look at the position again.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), Error> {
        let end = self.position + bytes.len() as u64;
        let range = format!("{}-{}", self.position, end.saturating_sub(1));
        let length = bytes.len() as u64;
        match self.ask(Method::PATCH, &self.address.clone(), Some(range), bytes).await {
            Ok(answer) => {
                self.position = came(&answer).filter(|came| *came <= end).unwrap_or(end);
                self.retry.progress(length);
                self.moved(&answer)
            }
            Err(cause) => self.resume(cause).await,
        }
    }

    /// Says that all is sent. False when the registry lost some of it meanwhile: then more is to be sent from
    /// [`Upload::position`] on.
    pub async fn finish(&mut self) -> Result<bool, Error> {
        let joint = if self.address.query().is_some() { '&' } else { '?' };
        let full = format!("{}{joint}digest={}", self.address, origin::encode(self.blob.as_str()));
        let address: Uri =
            full.parse().map_err(|_| self.failed(&Cause::Nonsense("the upload has no URL")))?;
        match self.ask(Method::PUT, &address, None, Bytes::new()).await {
            Ok(answer) => {
                endpoint::verify_said(answer.headers(), &self.blob).map_err(|cause| self.failed(&cause))?;
                Ok(true)
            }
            Err(cause) => {
                // The answer may have been lost, and not the blob.
                let at = self.repository.inner.endpoints[0].path(&format!("blobs/{}", self.blob));
                if cause.again() != Again::Never && self.ask_path(Method::HEAD, &at).await.is_ok() {
                    return Ok(true);
                }
                self.resume(cause).await?;
                Ok(false)
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Error> {
        loop {
            self.beginnings += 1;
            let path = self.repository.inner.endpoints[0].path("blobs/uploads/");
            match self.ask_path(Method::POST, &path).await {
                Ok(answer) => {
                    self.position = 0;
                    let least = answer.headers().get("oci-chunk-min-length");
                    let least = least.and_then(|least| least.to_str().ok()?.parse().ok());
                    self.min_piece = least.unwrap_or(0).min(MAX_MIN_PIECE);
                    return self.moved(&answer);
                }
                Err(cause) => self.pause(cause).await?,
            }
        }
    }

    /// Finds out where the upload stands after it broke.
    async fn resume(&mut self, cause: Cause) -> Result<(), Error> {
        let mut cause = out_of_step(cause);
        loop {
            self.pause(cause).await?;
            match self.ask(Method::GET, &self.address.clone(), None, Bytes::new()).await {
                Ok(answer) => {
                    self.position = came(&answer).unwrap_or(0);
                    tracing::info!(blob = %self.blob, from = self.position, "an upload broke and goes on");
                    return if answer.headers().contains_key(http::header::LOCATION) {
                        self.moved(&answer)
                    } else {
                        Ok(())
                    };
                }
                Err(lost) if is_lost(&lost) && self.beginnings < MAX_BEGINNINGS => {
                    return self.begin().await;
                }
                Err(next) => cause = next,
            }
        }
    }

    async fn pause(&mut self, cause: Cause) -> Result<(), Error> {
        match self.retry.pause(cause).await {
            Ok(()) => Ok(()),
            Err(cause) => Err(self.failed(&cause)),
        }
    }

    /// Every answer may name another address for the rest.
    fn moved(&mut self, answer: &Response<Incoming>) -> Result<(), Error> {
        let address = self.repository.inner.endpoints[0].address(self.shared(), answer);
        self.address = address.map_err(|cause| self.failed(&cause))?;
        Ok(())
    }

    async fn ask(
        &self,
        method: Method,
        address: &Uri,
        range: Option<String>,
        body: Bytes,
    ) -> Result<Response<Incoming>, Cause> {
        let mut headers = HeaderMap::new();
        if let Some(range) = range {
            let range = HeaderValue::from_str(&range).map_err(|_| Cause::Nonsense("range"))?;
            headers.insert(CONTENT_RANGE, range);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        }
        let ask = Ask { method, at: At::Address(address), headers: &headers, body };
        self.repository.inner.endpoints[0].ask(self.shared(), &ask).await
    }

    async fn ask_path(&self, method: Method, path: &str) -> Result<Response<Incoming>, Cause> {
        let headers = HeaderMap::new();
        let ask = Ask { method, at: At::Path(path), headers: &headers, body: Bytes::new() };
        self.repository.inner.endpoints[0].ask(self.shared(), &ask).await
    }

    fn shared(&self) -> &Shared {
        &self.repository.inner.shared
    }

    fn failed(&self, cause: &Cause) -> Error {
        let mut failure =
            Failure::new(format!("pushing blob {} to {}", self.blob, self.repository.inner.reference));
        failure.add(self.repository.inner.endpoints[0].name(), cause);
        failure.into_error()
    }
}

/// A piece that begins elsewhere than the registry expects is no reason to give up: it is asked what it has
/// (distribution-spec, "Pushing a blob in chunks"). So is an upload that it knows no more.
fn out_of_step(cause: Cause) -> Cause {
    match cause {
        Cause::Status { status: StatusCode::RANGE_NOT_SATISFIABLE, .. } | Cause::NotFound(_) => {
            Cause::Status {
                status: StatusCode::SERVICE_UNAVAILABLE,
                said: Default::default(),
                retry_after: Some(Duration::ZERO),
            }
        }
        other => other,
    }
}

/// Whether the registry has given the upload up: it does not know it, or won't go on with it (distribution's
/// registry, when a connection broke within a piece).
fn is_lost(cause: &Cause) -> bool {
    match cause {
        Cause::NotFound(_) => true,
        Cause::Status { status, .. } => status.is_client_error() && cause.again() == Again::Never,
        _ => false,
    }
}

/// How many bytes the registry has: `Range: 0-LAST`. Of nothing and of one byte distribution's registry says
/// the same, and nothing is likelier; should it be one byte after all, the digest is wrong and it says so.
fn came(answer: &Response<Incoming>) -> Option<u64> {
    let range = answer.headers().get(RANGE)?.to_str().ok()?;
    let last: u64 = range.trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}
