//! A place to ask, and how it is spoken to.

use std::path::PathBuf;

use http::HeaderMap;
use http::uri::Scheme;

use super::Error;
use crate::reference::{self, Reference};

/// A place to ask: `host/path`, over TLS unless it is insecure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub path: String,
    /// TLS without verification is accepted, and plain HTTP after that.
    pub insecure: bool,
    pub role: Role,
    pub access: Access,
}

/// How an endpoint is spoken to, where that is not as usual. `hosts.toml` says such things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The only scheme there is; None: https, and what `insecure` allows.
    pub scheme: Option<Scheme>,
    /// Where the API is: `/v2`, as the distribution-spec has it, unless the operator knows better.
    pub base: String,
    /// Instead of what `certs.d` has for the host.
    pub tls: Option<Tls>,
    /// Sent with each request to the endpoint itself.
    pub headers: HeaderMap,
    /// The registry that is meant, for a mirror of many (`?ns=`).
    pub namespace: Option<String>,
    /// Whether it is asked what a tag means, and not only for what is named by digest.
    pub resolves: bool,
}

impl Default for Access {
    fn default() -> Access {
        let base = "/v2".to_owned();
        let headers = HeaderMap::new();
        Access { scheme: None, base, tls: None, headers, namespace: None, resolves: true }
    }
}

/// Roots and keys in files, read when a connection is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    pub ca: Vec<PathBuf>,
    /// Certificates with their keys; one by an authority that the server knows is shown.
    pub client: Vec<(PathBuf, PathBuf)>,
    pub skip_verify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Mirror,
    /// Where the registry itself is, by its own name or by the `location` that the operator gave.
    Primary,
}

impl Endpoint {
    pub(super) fn of(reference: &Reference, insecure: bool, role: Role) -> Endpoint {
        let (host, path) = (reference.domain().to_owned(), reference.path().to_owned());
        Endpoint { host, path, insecure, role, access: Access::default() }
    }
}

pub(super) fn rewrite(
    reference: &Reference,
    location: &str,
    rest: &str,
    insecure: bool,
    role: Role,
) -> Result<Endpoint, Error> {
    let text = format!("{location}{rest}");
    let failed = |source| Error::Rewrite { reference: reference.to_string(), location: text.clone(), source };
    // The location names a host even where the same word in a reference would not (`mirror/…`).
    let (host, path) = text.split_once('/').unwrap_or((&text, ""));
    let dotted = reference::is_short(&text);
    let checked =
        Reference::parse(&if dotted { format!("h.invalid/{path}") } else { text.clone() }).map_err(failed)?;
    let host = if dotted { host } else { checked.domain() };
    if dotted {
        Reference::parse(&format!("{host}.invalid/a")).map_err(failed)?;
    }
    Ok(Endpoint {
        host: host.to_owned(),
        path: checked.path().to_owned(),
        insecure,
        role,
        access: Access::default(),
    })
}
