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
/// The token specification: `expires_in` defaults to 60 seconds, and no token is to be given for less. Servers that
/// say less don't mean it: clients have counted so from the beginning.
const MIN_LIFE_SECONDS: f64 = 60.0;
const MAX_LIFE_SECONDS: f64 = 3600.0;
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

/// Servers put it in many ways: one of the tokens may be null, and the life a float or a text.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Value>,
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
        let life = self.life();
        let tokens = [self.token, self.access_token].into_iter().flatten();
        let token = tokens.into_iter().find(|token| !token.is_empty());
        let token = token.ok_or(Cause::Nonsense("there is no token in the answer"))?;
        let expires = Some(Instant::now() + life.saturating_sub(MARGIN));
        Ok(Grant { header: bearer(&token)?, expires })
    }

    fn life(&self) -> Duration {
        let said = match &self.expires_in {
            Some(serde_json::Value::String(text)) => text.trim().parse().ok(),
            Some(other) => other.as_f64(),
            None => None,
        };
        let seconds = said.filter(|seconds| seconds.is_finite()).unwrap_or(MIN_LIFE_SECONDS);
        Duration::from_secs_f64(seconds.clamp(MIN_LIFE_SECONDS, MAX_LIFE_SECONDS))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(answer: &str) -> Option<Grant> {
        serde_json::from_str::<TokenAnswer>(answer).ok()?.into_grant().ok()
    }

    #[test]
    fn tokens_are_read_however_servers_put_them() {
        let check = |answer: &str, token: &str, seconds: u64| {
            let grant = grant(answer).unwrap_or_else(|| panic!("{answer} has no token"));
            let life = grant.expires.unwrap().duration_since(Instant::now()) + MARGIN;
            assert_eq!(grant.header, format!("Bearer {token}"), "{answer}");
            assert_eq!(life.as_secs_f64().round() as u64, seconds, "{answer}");
        };
        check(r#"{"token": "t", "expires_in": 300}"#, "t", 300);
        check(r#"{"token": null, "access_token": "a", "expires_in": 300.9}"#, "a", 301);
        check(r#"{"token": "", "access_token": "a", "expires_in": "300"}"#, "a", 300);
        check(r#"{"token": "t", "access_token": null, "expires_in": null}"#, "t", 60);
        check(r#"{"token": "t"}"#, "t", 60);
        for odd in ["5", "0", "-7", "\"soon\"", "\"nan\"", "[]", "{}"] {
            check(&format!(r#"{{"token": "t", "expires_in": {odd}}}"#), "t", 60);
        }
        check(r#"{"token": "t", "expires_in": 1e300}"#, "t", 3600);
        for none in [r#"{"token": null}"#, "{}", "[]", r#"{"token": 1}"#] {
            assert!(grant(none).is_none(), "{none}");
        }
    }

    #[test]
    fn a_token_near_its_end_is_not_used() {
        let (tokens, key) = (Tokens::default(), Digest::sha256(b"key"));
        let fresh = grant(r#"{"token": "t"}"#).unwrap();
        tokens.put(key.clone(), fresh.clone());
        assert!(tokens.get(&key).is_some());
        tokens.put(key.clone(), Grant { expires: Some(Instant::now()), ..fresh });
        assert!(tokens.get(&key).is_none());
    }
}
