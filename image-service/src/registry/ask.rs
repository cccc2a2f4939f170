//! One request to an endpoint: by the scheme that it speaks, with the proof that it wants, and along the
//! redirects that it gives.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;

use super::endpoint::Endpoint;
use super::failure::Cause;
use super::origin::{self, Origin};
use super::session::Asker;
use super::transport::Trust;
use super::{Shared, body};
use crate::auth::challenge;
use crate::registries_conf::Tls;

const MAX_REDIRECTS: usize = 5;

/// What is asked of an endpoint.
#[derive(Debug, Clone)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) at: At<'a>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: Bytes,
}

/// Where it is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum At<'a> {
    /// A path of the API.
    Path(&'a str),
    /// Where the endpoint itself sent us for more of the same: the address of an upload.
    Address(&'a Uri),
}

impl<'a> Ask<'a> {
    pub(super) fn get(path: &'a str, headers: &'a HeaderMap) -> Ask<'a> {
        Ask { method: Method::GET, at: At::Path(path), headers, body: Bytes::new() }
    }

    /// What changes nothing may be asked wherever a redirect leads; bytes of ours go nowhere else.
    fn follows(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }
}

impl Endpoint {
    /// A request that ends in success, by the scheme that the endpoint speaks. An insecure one is tried with
    /// TLS first, then without (containers-registries.conf(5), `insecure`); what worked is remembered.
    pub(super) async fn ask(&self, shared: &Shared, ask: &Ask<'_>) -> Result<Response<Incoming>, Cause> {
        if let At::Address(uri) = ask.at {
            let scheme = uri.scheme().ok_or(Cause::Nonsense("the address of the upload is no URL"))?;
            return self.ask_by(shared, scheme, ask).await;
        }
        let only = self.place.access.scheme.as_ref();
        if let Some(scheme) = only.or((!self.place.insecure).then_some(&Scheme::HTTPS)) {
            return self.ask_by(shared, scheme, ask).await;
        }
        if let Some(scheme) = shared.schemes.get(&self.host) {
            let answer = self.ask_by(shared, &scheme, ask).await;
            if answer.as_ref().is_err_and(Cause::is_connect) {
                shared.schemes.forget(&self.host);
            }
            return answer;
        }
        let first = self.ask_by(shared, &Scheme::HTTPS, ask).await;
        let (scheme, answer) = match first {
            Err(cause) if cause.is_connect() => (Scheme::HTTP, self.ask_by(shared, &Scheme::HTTP, ask).await),
            other => (Scheme::HTTPS, other),
        };
        if !answer.as_ref().is_err_and(Cause::is_connect) {
            shared.schemes.remember(&self.host, scheme);
        }
        answer
    }

    /// Where a path of the API is.
    fn uri(&self, scheme: &Scheme, path: &str) -> Result<Uri, Cause> {
        let path = match &self.place.access.namespace {
            Some(meant) if !path.contains("ns=") => {
                let joint = if path.contains('?') { '&' } else { '?' };
                format!("{path}{joint}ns={}", origin::encode(meant))
            }
            _ => path.to_owned(),
        };
        origin::make(scheme, &self.host, &path).ok_or(Cause::Nonsense("the endpoint makes no URL"))
    }

    async fn ask_by(
        &self,
        shared: &Shared,
        scheme: &Scheme,
        ask: &Ask<'_>,
    ) -> Result<Response<Incoming>, Cause> {
        let uri = match ask.at {
            At::Path(path) => self.uri(scheme, path)?,
            At::Address(uri) => uri.clone(),
        };
        let home = self.uri(scheme, "/").ok().as_ref().and_then(Origin::of);
        let home = home.ok_or(Cause::Nonsense("the endpoint makes no URL"))?;
        let mut authorization = self.session.current().await;
        let mut answered = false;
        loop {
            let (answer, from_home) = self.follow(shared, &uri, &home, ask, authorization.as_ref()).await?;
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
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Response<Incoming>, bool), Cause> {
        let mut uri = uri.clone();
        let mut at_home = true;
        for _ in 0..=MAX_REDIRECTS {
            let origin = Origin::of(&uri).ok_or(Cause::Redirect("its target is no URL"))?;
            at_home = at_home && origin == *home;
            let body = Full::new(ask.body.clone());
            let mut request = Request::builder().method(&ask.method).uri(&uri).body(body);
            if let Ok(request) = &mut request {
                *request.headers_mut() = ask.headers.clone();
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
            if !ask.follows() {
                return Err(Cause::Redirect("what is pushed goes nowhere else"));
            }
            uri = self.target(&uri, &answer).map_err(Cause::Redirect)?;
        }
        Err(Cause::Redirect("there were too many already"))
    }

    /// What the `Location` of an answer from `uri` means.
    pub(super) fn target(&self, uri: &Uri, answer: &Response<Incoming>) -> Result<Uri, &'static str> {
        let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        origin::redirect(uri, location.ok_or("it names no target")?, self.place.insecure)
    }

    /// The address that an answer of the endpoint gives for more of the same.
    pub(super) fn address(&self, shared: &Shared, answer: &Response<Incoming>) -> Result<Uri, Cause> {
        self.target(&self.uri(&self.scheme(shared), "/")?, answer).map_err(Cause::Redirect)
    }

    /// Where the endpoint is, by the scheme that it was last asked by.
    pub(super) fn home(&self, shared: &Shared) -> Option<Origin> {
        Origin::of(&self.uri(&self.scheme(shared), "/").ok()?)
    }

    fn scheme(&self, shared: &Shared) -> Scheme {
        let only = self.place.access.scheme.clone();
        let known = || shared.schemes.get(&self.host).filter(|_| self.place.insecure);
        only.or_else(known).unwrap_or(Scheme::HTTPS)
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
