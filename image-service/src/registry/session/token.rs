//! Tokens: asked for where a challenge says, kept for as long as they are good.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::Full;
use serde::Deserialize;
use tokio::time::Instant;

use super::{Asker, Grant, bearer, secret};
use crate::auth::Credentials;
use crate::digest::{Digest, Hasher};
use crate::registry::failure::Cause;
use crate::registry::origin::{self, Origin};
use crate::registry::transport::Trust;
use crate::registry::{AGENT, Shared, body};

/// Tokens of this many repositories are kept.
const MAX_TOKENS: usize = 256;
/// Cloud registries hand out tokens of several KiB; none is near this.
const MAX_TOKEN_ANSWER_BYTES: usize = 1 << 20;
/// The token specification: `expires_in` defaults to 60 seconds.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
const MAX_LIFE: Duration = Duration::from_secs(3600);
/// A token this near its end is not used: the request must still arrive.
const MARGIN: Duration = Duration::from_secs(10);

/// The tokens of the node.
#[derive(Default)]
pub(in crate::registry) struct Tokens(Mutex<HashMap<Digest, Grant>>);

impl Tokens {
    fn get(&self, key: &Digest) -> Option<Grant> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(key).filter(|grant| grant.is_fresh()).cloned()
    }

    fn put(&self, key: Digest, grant: Grant) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= MAX_TOKENS {
            tokens.retain(|_, grant| grant.is_fresh());
        }
        if tokens.len() >= MAX_TOKENS {
            tokens.clear();
        }
        tokens.insert(key, grant);
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Tokens")
    }
}

pub(super) struct TokenAsk<'a> {
    pub(super) realm: String,
    pub(super) service: String,
    pub(super) scope: String,
    pub(super) credentials: Option<&'a Credentials>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

impl TokenAsk<'_> {
    pub(super) async fn cached(
        &self,
        shared: &Shared,
        refused: Option<&HeaderValue>,
        at: &Asker,
    ) -> Result<Grant, Cause> {
        let key = self.key(at);
        if let Some(grant) = shared.tokens.get(&key).filter(|grant| Some(&grant.header) != refused) {
            return Ok(grant);
        }
        let realm = self.realm(at)?;
        let trust = realm_trust(shared, &realm, at);
        let told = |source| Cause::Token { realm: place(&realm), source: Box::new(source) };
        let grant = self.fetch(shared, &realm, &trust).await.map_err(told)?;
        shared.tokens.put(key, grant.clone());
        Ok(grant)
    }

    /// Tokens are kept by who they are for, so that one pod's secret never serves another's pull.
    fn key(&self, at: &Asker) -> Digest {
        let none = Credentials::default();
        let who = self.credentials.unwrap_or(&none);
        let mut hasher = Hasher::new(crate::digest::Algorithm::Sha256);
        for part in [
            at.origin.scheme.as_str(),
            &at.host,
            &self.realm,
            &self.service,
            &self.scope,
            &who.username,
            &who.password,
            &who.identity_token,
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finish()
    }

    fn realm(&self, at: &Asker) -> Result<Uri, Cause> {
        let refuse = |why| Cause::Realm { realm: self.realm.chars().take(200).collect(), why };
        let realm: Uri = self.realm.parse().map_err(|_| refuse("it is no URL"))?;
        origin::check(&realm).map_err(refuse)?;
        if at.origin.scheme.as_str() == "https" && realm.scheme_str() != Some("https") {
            return Err(refuse("the registry speaks https, and this is plain http"));
        }
        Ok(realm)
    }

    async fn fetch(&self, shared: &Shared, realm: &Uri, trust: &Trust) -> Result<Grant, Cause> {
        match self.credentials.filter(|credentials| !credentials.identity_token.is_empty()) {
            None => self.ask(shared, self.get(realm)?, trust).await,
            Some(credentials) => {
                let posted = self.ask(shared, self.post(realm, &credentials.identity_token)?, trust).await;
                // Servers that know no OAuth2 answer so; they may know the password.
                match posted {
                    Err(Cause::NotFound(_) | Cause::Status { .. }) if !credentials.password.is_empty() => {
                        self.ask(shared, self.get(realm)?, trust).await
                    }
                    answer => answer,
                }
            }
        }
    }

    async fn ask(
        &self,
        shared: &Shared,
        request: Request<Full<Bytes>>,
        trust: &Trust,
    ) -> Result<Grant, Cause> {
        let answer = shared.transport.send(request, trust).await?;
        if !answer.status().is_success() {
            // A redirect among token servers is refused too: it would carry the password on.
            return Err(body::refusal(answer, &shared.settings.patience).await);
        }
        let text = body::read(answer.into_body(), MAX_TOKEN_ANSWER_BYTES, &shared.settings.patience).await?;
        let answer: TokenAnswer =
            serde_json::from_slice(&text).map_err(|_| Cause::Nonsense("the token is not in JSON"))?;
        answer.into_grant()
    }

    /// The token specification: GET with `service` and `scope`, and Basic when there is a user.
    fn get(&self, realm: &Uri) -> Result<Request<Full<Bytes>>, Cause> {
        let user = self.credentials.filter(|credentials| !credentials.username.is_empty());
        let account = user.map(|user| ("account", user.username.as_str()));
        let service = (!self.service.is_empty()).then_some(("service", self.service.as_str()));
        let scopes = self.scope.split(' ').map(|scope| ("scope", scope));
        let pairs = service.into_iter().chain(scopes).chain(account);
        let pairs: Vec<_> = pairs.map(|(name, value)| format!("{name}={}", origin::encode(value))).collect();
        let query = pairs.join("&");
        let old = realm.query().map(|old| format!("{old}&")).unwrap_or_default();
        let path = format!("{}?{old}{query}", realm.path());
        let mut request = request(Method::GET, realm, &path, Bytes::new())?;
        if let Some(user) = user {
            request.headers_mut().insert(AUTHORIZATION, secret(&user.basic())?);
        }
        Ok(request)
    }

    /// The OAuth2 form of the token specification, for refresh tokens.
    fn post(&self, realm: &Uri, refresh_token: &str) -> Result<Request<Full<Bytes>>, Cause> {
        let form = format!(
            "grant_type=refresh_token&service={}&client_id=berth&scope={}&refresh_token={}",
            origin::encode(&self.service),
            origin::encode(&self.scope),
            origin::encode(refresh_token),
        );
        let path = realm.path_and_query().map_or("/", |path| path.as_str());
        let mut request = request(Method::POST, realm, path, Bytes::from(form))?;
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form_type);
        Ok(request)
    }
}

impl TokenAnswer {
    fn into_grant(self) -> Result<Grant, Cause> {
        let token = if self.token.is_empty() { self.access_token } else { self.token };
        if token.is_empty() {
            return Err(Cause::Nonsense("there is no token in the answer"));
        }
        let life = self.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs).min(MAX_LIFE);
        let expires = Some(Instant::now() + life.saturating_sub(MARGIN));
        Ok(Grant { header: bearer(&token)?, expires })
    }
}

/// How far the token server is trusted: as the registry when it is the same host; as configured for
/// itself otherwise. The roots given for the registry count, its leniency does not.
fn realm_trust(shared: &Shared, realm: &Uri, at: &Asker) -> Trust {
    let host = realm.authority().map(ToString::to_string).unwrap_or_default();
    if Origin::of(realm).is_some_and(|origin| origin.same_host(&at.origin)) {
        at.trust.clone()
    } else if shared.registries.load().is_insecure_host(&host) {
        Trust::Anyone
    } else {
        Trust::VerifiedBy(at.host.clone())
    }
}

fn request(method: Method, to: &Uri, path: &str, form: Bytes) -> Result<Request<Full<Bytes>>, Cause> {
    let nonsense = Cause::Nonsense("the token server's URL is none");
    let (scheme, authority) = to.scheme().zip(to.authority()).ok_or(nonsense)?;
    let uri = origin::make(scheme, authority.as_str(), path)
        .ok_or(Cause::Nonsense("the token server's URL is none"))?;
    Request::builder()
        .method(method)
        .uri(uri)
        .header(USER_AGENT, AGENT)
        .body(Full::new(form))
        .map_err(|_| Cause::Nonsense("the token server's URL is none"))
}

/// A URL as it may be told: without its query, which may hold secrets.
fn place(uri: &Uri) -> String {
    format!(
        "{}://{}{}",
        uri.scheme_str().unwrap_or_default(),
        uri.authority().map(|authority| authority.as_str()).unwrap_or_default(),
        uri.path()
    )
}
