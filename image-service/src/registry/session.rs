//! Proving who we are to one endpoint: which credentials may be shown there, and the tokens they bring.
//!
//! The rules (threats.md, "Credentials go only to the host and scheme they were configured for"):
//! a challenge counts only when the endpoint itself gives it, never a redirect's target; a caller's
//! credentials are for the registry, never for its mirrors, which have their own in the node's files; a
//! token server is asked over https when the registry was (else a registry could make us say the password
//! aloud), with verification unless the operator called that very host insecure (CVE-2019-10214); and
//! no token is asked for that could do more than what is to be done, nearly always a pull. A registry that wants Basic gets the password
//! itself, so naming a token server gives it nothing that it could not have had.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::Full;
use serde::Deserialize;
use tokio::time::Instant;

use super::failure::{Cause, Said};
use super::origin::{self, Origin};
use super::transport::Trust;
use super::{Purpose, Shared, body};
use crate::auth::challenge::{self, Challenge};
use crate::auth::{self, Credentials};
use crate::digest::{Digest, Hasher};

/// Tokens of this many repositories are kept.
const MAX_TOKENS: usize = 256;
/// Cloud registries hand out tokens of several KiB; none is near this.
const MAX_TOKEN_ANSWER_BYTES: usize = 1 << 20;
/// The token specification: `expires_in` defaults to 60 seconds.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
const MAX_LIFE: Duration = Duration::from_secs(3600);
/// A token this near its end is not used: the request must still arrive.
const MARGIN: Duration = Duration::from_secs(10);

/// What is sent as `Authorization`, and until when.
#[derive(Clone)]
pub(super) struct Grant {
    header: HeaderValue,
    expires: Option<Instant>,
}

impl Grant {
    fn is_fresh(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}

/// Who we are at one endpoint, for one pull.
pub(super) struct Session {
    /// What the caller gave, when it may be shown here.
    given: Option<Credentials>,
    found: tokio::sync::OnceCell<Option<Credentials>>,
    grant: tokio::sync::Mutex<Option<Grant>>,
    host: String,
    path: String,
    auth_files: Arc<[PathBuf]>,
    purpose: Purpose,
}

impl Session {
    pub(super) fn new(
        host: &str,
        path: &str,
        given: Option<Credentials>,
        auth_files: Arc<[PathBuf]>,
        purpose: Purpose,
    ) -> Session {
        Session {
            given: given.filter(|credentials| !credentials.is_empty()),
            found: tokio::sync::OnceCell::new(),
            grant: tokio::sync::Mutex::new(None),
            host: host.to_owned(),
            path: path.to_owned(),
            auth_files,
            purpose,
        }
    }

    /// What to send with the first try.
    pub(super) async fn current(&self) -> Option<HeaderValue> {
        let grant = self.grant.lock().await;
        grant.as_ref().filter(|grant| grant.is_fresh()).map(|grant| grant.header.clone())
    }

    /// What to send after the endpoint refused `refused` with this challenge. Those who come together
    /// share one answer.
    pub(super) async fn answer(
        &self,
        shared: &Shared,
        challenge: Option<Challenge>,
        refused: Option<&HeaderValue>,
        at: &Asker,
    ) -> Result<HeaderValue, Cause> {
        let mut grant = self.grant.lock().await;
        if let Some(newer) = grant.as_ref().filter(|grant| grant.is_fresh() && Some(&grant.header) != refused)
        {
            return Ok(newer.header.clone());
        }
        let credentials = self.credentials().await?;
        let new = match challenge.ok_or(Cause::Challenge)? {
            Challenge::Basic => basic(credentials)?,
            Challenge::Bearer { .. } if credentials.is_some_and(|c| !c.registry_token.is_empty()) => {
                let token = credentials.map(|c| c.registry_token.as_str()).unwrap_or_default();
                Grant { header: bearer(token)?, expires: None }
            }
            Challenge::Bearer { realm, service, scope } => {
                let scope = match self.purpose {
                    Purpose::Pull => challenge::pull_scope(&scope, &self.path),
                    Purpose::Push => challenge::push_scope(&scope, &self.path),
                };
                let ask = TokenAsk { realm, service, scope, credentials };
                ask.cached(shared, refused, at).await?
            }
        };
        if Some(&new.header) == refused {
            return Err(Cause::Denied(Said::default()));
        }
        Ok(grant.insert(new).header.clone())
    }

    async fn credentials(&self) -> Result<Option<&Credentials>, Cause> {
        if self.given.is_some() {
            return Ok(self.given.as_ref());
        }
        let find = || auth::files::find(&self.auth_files, &self.host, &self.path);
        Ok(self.found.get_or_try_init(find).await?.as_ref().filter(|credentials| !credentials.is_empty()))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Session")
            .field("host", &self.host)
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

/// The endpoint that asks for a token, as it was reached.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) origin: Origin,
    pub(super) host: String,
    pub(super) trust: Trust,
}

/// The tokens of the node.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<Digest, Grant>>);

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

struct TokenAsk<'a> {
    realm: String,
    service: String,
    scope: String,
    credentials: Option<&'a Credentials>,
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
    async fn cached(
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

fn basic(credentials: Option<&Credentials>) -> Result<Grant, Cause> {
    let credentials = credentials.filter(|credentials| !credentials.username.is_empty());
    let credentials =
        credentials.ok_or_else(|| Cause::Denied(Said("no credentials are known for it".to_owned())))?;
    Ok(Grant { header: secret(&credentials.basic())?, expires: None })
}

fn bearer(token: &str) -> Result<HeaderValue, Cause> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Result<HeaderValue, Cause> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Cause::Denied(Said("the credentials have characters no header can hold".to_owned())))?;
    value.set_sensitive(true);
    Ok(value)
}

fn request(method: Method, to: &Uri, path: &str, form: Bytes) -> Result<Request<Full<Bytes>>, Cause> {
    let nonsense = Cause::Nonsense("the token server's URL is none");
    let (scheme, authority) = to.scheme().zip(to.authority()).ok_or(nonsense)?;
    let uri = origin::make(scheme, authority.as_str(), path)
        .ok_or(Cause::Nonsense("the token server's URL is none"))?;
    Request::builder()
        .method(method)
        .uri(uri)
        .header(USER_AGENT, super::AGENT)
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
