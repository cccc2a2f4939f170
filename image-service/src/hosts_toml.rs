//! `hosts.toml`, containerd's way to say where a registry's images are: `DIR/HOST[:PORT]/hosts.toml`, and
//! `DIR/_default/hosts.toml` for registries that have no directory of their own (containerd,
//! docs/hosts.md). It is read at each pull, so a change counts at once.
//!
//! It speaks where no rule of `registries.conf` does: that one is the node's first word.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde::Deserialize;
use toml::Spanned;

use crate::bounded;
use crate::reference::Reference;
use crate::registries_conf::{Access, Endpoint, Role, Tls};
use crate::registry::{Purpose, is_plain};

/// No configuration written by people is larger.
const MAX_FILE_BYTES: u64 = 1 << 20;
const FILE: &str = "hosts.toml";
const DEFAULT: &str = "_default";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not valid TOML")]
    Toml { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: {why}")]
    Rule { path: PathBuf, why: String },
}

/// Keys that we don't know are refused: one that is misspelt would be missed only when the mirror is needed.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    server: Option<String>,
    host: BTreeMap<String, Spanned<Table>>,
    // The keys of a table again, for the server. (serde's flatten would lose where tables stand.)
    capabilities: Option<Vec<String>>,
    ca: OneOrMany,
    client: Clients,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, OneOrMany>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Table {
    capabilities: Option<Vec<String>>,
    ca: OneOrMany,
    client: Clients,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, OneOrMany>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum OneOrMany {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

/// `"pem"`, `["pem", …]` or `[["cert", "key"], …]`.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Clients {
    #[default]
    None,
    One(String),
    Many(Vec<Client>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    Pem(String),
    Pair([String; 2]),
}

/// Whom to ask for a reference, mirrors first, and the file that says so; None where none speaks of its
/// registry.
pub(crate) fn endpoints(
    dirs: &[PathBuf],
    reference: &Reference,
    purpose: Purpose,
) -> Result<Option<(PathBuf, Vec<Endpoint>)>, Error> {
    let Some(path) = find(dirs, reference.domain()) else { return Ok(None) };
    let failed = |source| Error::Read { path: path.clone(), source };
    let text = bounded::read_text(&path, MAX_FILE_BYTES).map_err(failed)?;
    let file: File = toml::from_str(&text)
        .map_err(|source| Error::Toml { path: path.clone(), source: Box::new(source) })?;
    let rule = |why| Error::Rule { path: path.clone(), why };
    let dir = path.parent().unwrap_or(Path::new("/"));
    let endpoints = file.endpoints(reference, dir, purpose).map_err(rule)?;
    Ok(Some((path, endpoints)))
}

/// What the text of a file, wherever it lies, makes of a reference.
#[cfg(feature = "fuzzing")]
pub(crate) fn parse(text: &str, reference: &Reference) -> Result<Vec<Endpoint>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    file.endpoints(reference, Path::new("/"), Purpose::Pull)
}

/// The file that counts for a host: the first directory's that has one, its own before the default.
fn find(dirs: &[PathBuf], host: &str) -> Option<PathBuf> {
    if !is_plain(host) {
        return None;
    }
    // containerd also knows `host_port_`, for file systems without colons.
    let escaped = host.split_once(':').map(|(host, port)| format!("{host}_{port}_"));
    let names = [Some(host.to_owned()), escaped, Some(DEFAULT.to_owned())];
    let files = names.iter().flatten().flat_map(|name| dirs.iter().map(move |dir| dir.join(name).join(FILE)));
    files.into_iter().find(|path| path.is_file())
}

impl File {
    fn endpoints(self, reference: &Reference, dir: &Path, purpose: Purpose) -> Result<Vec<Endpoint>, String> {
        let mut hosts: Vec<(String, Spanned<Table>)> = self.host.into_iter().collect();
        // They are asked in the order in which they are written.
        hosts.sort_by_key(|(_, table)| table.span().start);
        let serves = |capabilities: &Option<Vec<String>>| match purpose {
            Purpose::Pull => can(capabilities, "pull"),
            Purpose::Push => can(capabilities, "push"),
        };
        let mut endpoints = Vec::new();
        for (url, table) in hosts {
            let table = table.into_inner();
            if serves(&table.capabilities) {
                endpoints.push(table.endpoint(&url, reference, Role::Mirror, dir)?);
            }
        }
        if serves(&self.capabilities) {
            let server = self.server.unwrap_or_else(|| format!("https://{}", reference.domain()));
            let own = Table {
                capabilities: self.capabilities,
                ca: self.ca,
                client: self.client,
                skip_verify: self.skip_verify,
                override_path: self.override_path,
                header: self.header,
                dial_timeout: self.dial_timeout,
            };
            endpoints.push(own.endpoint(&server, reference, Role::Primary, dir)?);
        }
        // A push asks its one endpoint only of what it brought there itself.
        if purpose == Purpose::Push {
            endpoints.iter_mut().for_each(|endpoint| endpoint.access.resolves = true);
        }
        let by_tag = reference.digest().is_none();
        let able = |endpoint: &Endpoint| !by_tag || endpoint.access.resolves;
        if purpose == Purpose::Pull && !endpoints.iter().any(able) {
            let what = if by_tag { "pull and resolve" } else { "pull" };
            return Err(format!("nobody in it has the capabilities to {what} {reference}"));
        }
        Ok(endpoints)
    }
}

/// Who says nothing of its capabilities has all (containerd, docs/hosts.md, "capabilities field").
fn can(capabilities: &Option<Vec<String>>, what: &str) -> bool {
    capabilities.as_ref().is_none_or(|all| all.iter().any(|one| one == what))
}

impl Table {
    fn endpoint(self, url: &str, reference: &Reference, role: Role, dir: &Path) -> Result<Endpoint, String> {
        let bad = || format!("{url:?} is no URL of a registry");
        let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let uri: Uri = full.parse().map_err(|_| bad())?;
        let authority =
            uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(bad)?;
        let scheme =
            uri.scheme().filter(|scheme| matches!(scheme.as_str(), "http" | "https")).ok_or_else(bad)?;
        let path = uri.path().trim_end_matches('/');
        if self.dial_timeout.is_some() {
            tracing::warn!(host = authority.as_str(), dir = %dir.display(), "dial_timeout: the node has one of its own");
        }
        let base = match (self.override_path, path.ends_with("/v2")) {
            (true, _) | (false, true) => path.to_owned(),
            (false, false) => format!("{path}/v2"),
        };
        let tls =
            Tls { ca: self.ca.paths(dir), client: self.client.paths(dir), skip_verify: self.skip_verify };
        let host = authority.as_str().to_owned();
        let foreign = role == Role::Mirror && host != reference.domain();
        let access = Access {
            scheme: Some(scheme.clone()),
            base,
            tls: (scheme == &Scheme::HTTPS && tls != Tls::default()).then_some(tls),
            headers: headers(self.header)?,
            // A mirror of many registries must know which is meant.
            namespace: foreign.then(|| reference.domain().to_owned()),
            resolves: can(&self.capabilities, "resolve"),
        };
        Ok(Endpoint { host, path: reference.path().to_owned(), insecure: false, role, access })
    }
}

impl OneOrMany {
    fn list(self) -> Vec<String> {
        match self {
            OneOrMany::None => Vec::new(),
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }

    fn paths(self, dir: &Path) -> Vec<PathBuf> {
        self.list().into_iter().map(|path| dir.join(path)).collect()
    }
}

impl Clients {
    /// Certificates with their keys, which may be one file.
    fn paths(self, dir: &Path) -> Vec<(PathBuf, PathBuf)> {
        let pair = |cert: &str, key: &str| (dir.join(cert), dir.join(key));
        match self {
            Clients::None => Vec::new(),
            Clients::One(pem) => vec![pair(&pem, &pem)],
            Clients::Many(many) => many
                .into_iter()
                .map(|client| match client {
                    Client::Pem(pem) => pair(&pem, &pem),
                    Client::Pair([cert, key]) => pair(&cert, if key.is_empty() { &cert } else { &key }),
                })
                .collect(),
        }
    }
}

fn headers(table: BTreeMap<String, OneOrMany>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, values) in table {
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} names no header"))?;
        for value in values.list() {
            let mut value =
                HeaderValue::from_str(&value).map_err(|_| format!("header {name} can't have its value"))?;
            // It may well be a secret.
            value.set_sensitive(true);
            headers.append(key.clone(), value);
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests;
