//! Proving who we are to one endpoint: which credentials may be shown there, and the tokens they bring.
//!
//! The rules (threats.md, "Credentials go only to the host and scheme they were configured for"):
//! a challenge counts only when the endpoint itself gives it, never a redirect's target; a caller's
//! credentials are for the registry, never for its mirrors, which have their own in the node's files; a
//! token server is asked over https when the registry was (else a registry could make us say the password
//! aloud), with verification unless the operator called that very host insecure (CVE-2019-10214); and
//! no token is asked for that could do more than what is to be done, nearly always a pull. A registry that wants Basic gets the password
//! itself, so naming a token server gives it nothing that it could not have had.

mod token;

use std::fmt;
use std::sync::Arc;

use http::header::HeaderValue;
use tokio::time::Instant;

use super::failure::{Cause, Said};
use super::origin::Origin;
use super::transport::Trust;
use super::{Purpose, Shared};
use crate::auth::Credentials;
use crate::auth::challenge::{self, Challenge};
use crate::auth::lookup::{self, Place};

use token::TokenAsk;
pub(super) use token::Tokens;

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
    places: Arc<[Place]>,
    purpose: Purpose,
}

impl Session {
    pub(super) fn new(
        host: &str,
        path: &str,
        given: Option<Credentials>,
        places: Arc<[Place]>,
        purpose: Purpose,
    ) -> Session {
        Session {
            given: given.filter(|credentials| !credentials.is_empty()),
            found: tokio::sync::OnceCell::new(),
            grant: tokio::sync::Mutex::new(None),
            host: host.to_owned(),
            path: path.to_owned(),
            places,
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
        let find = || lookup::find(&self.places, &self.host, &self.path);
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
