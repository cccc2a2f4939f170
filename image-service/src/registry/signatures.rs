//! Signatures that are no manifests: a registry's own extension for them (X-R-S-S, "Docker Registry signature
//! API" of OpenShift and Atomic), and plain files on a server beside it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{HeaderName, LOCATION};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::Full;
use serde::Deserialize;

use super::endpoint::Endpoint;
use super::failure::{Cause, Failure};
use super::round::Round;
use super::transport::Trust;
use super::{Error, Repository, Shared, body, origin};
use crate::digest::Digest;

/// With 1, the registry says in its answer to `/v2/` that it keeps signatures.
const SUPPORTS: HeaderName = HeaderName::from_static("x-registry-supports-signatures");
const MAX_REDIRECTS: usize = 5;

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    signatures: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    schema_version: u64,
    #[serde(rename = "type")]
    kind: String,
    content: String,
}

impl Repository {
    /// The simple signatures that the registry keeps for the manifest; None when it keeps none for anybody.
    pub(crate) async fn own_signatures(&self, image: &Digest) -> Result<Option<Vec<Vec<u8>>>, Error> {
        let mut round = Round::new(&self.inner, format!("listing the signatures of {image}"));
        loop {
            match round.endpoint().signatures(&self.inner.shared, image).await {
                Ok(found) => return Ok(found),
                Err(cause) => match round.failed(cause).await {
                    Ok(()) => {}
                    Err(Error::NotFound(_)) => return Ok(None),
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// What lies at a URL that the operator named, of at most `limit` bytes; None when nothing does. No
    /// credentials are shown there, and https is never left for http.
    pub(crate) async fn lookaside(&self, url: &str, limit: usize) -> Result<Option<Bytes>, Error> {
        let shared = &self.inner.shared;
        let uri: Result<Uri, Cause> = url.parse().map_err(|_| Cause::Nonsense("it is no URL"));
        let answer = match uri {
            Ok(uri) => plain(shared, uri, limit).await,
            Err(cause) => Err(cause),
        };
        match answer {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Cause::NotFound(_)) => Ok(None),
            Err(cause) => {
                let mut failure = Failure::new("looking for signatures");
                failure.add(url, &cause);
                Err(failure.into_error())
            }
        }
    }
}

async fn plain(shared: &Shared, mut uri: Uri, limit: usize) -> Result<Bytes, Cause> {
    for _ in 0..=MAX_REDIRECTS {
        origin::check(&uri).map_err(Cause::Redirect)?;
        let request = Request::builder().uri(&uri).header(http::header::USER_AGENT, super::AGENT);
        let request = request.body(Full::<Bytes>::default()).map_err(|_| Cause::Nonsense("it is no URL"))?;
        let answer = shared.transport.send(request, &Trust::Verified).await?;
        if answer.status().is_redirection() {
            let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let location = location.ok_or(Cause::Redirect("it names no target"))?;
            uri = origin::redirect(&uri, location, false).map_err(Cause::Redirect)?;
        } else if answer.status() == StatusCode::OK {
            return body::read(answer.into_body(), limit, &shared.settings.patience).await;
        } else {
            return Err(body::refusal(answer, &shared.settings.patience).await);
        }
    }
    Err(Cause::Redirect("there were too many already"))
}

impl Endpoint {
    async fn signatures(&self, shared: &Shared, image: &Digest) -> Result<Option<Vec<Vec<u8>>>, Cause> {
        let Some((ping, path)) = self.signature_paths(image) else { return Ok(None) };
        let (headers, _) = self.document(shared, &ping, &HeaderMap::new()).await?;
        if headers.get(SUPPORTS).is_none_or(|value| value != "1") {
            return Ok(None);
        }
        let (_, bytes) = match self.document(shared, &path, &HeaderMap::new()).await {
            Err(Cause::NotFound(_)) => return Ok(Some(Vec::new())),
            other => other?,
        };
        let list: List = serde_json::from_slice(&bytes)
            .map_err(|_| Cause::Nonsense("a list of signatures that is none"))?;
        let known = list.signatures.iter().filter(|item| item.schema_version == 2 && item.kind == "atomic");
        // What is damaged is no signature; a good one beside it counts.
        Ok(Some(known.filter_map(|item| BASE64.decode(&item.content).ok()).collect()))
    }
}
