//! `auth.json` and Docker's `config.json`: who we are to which registry (containers-auth.json(5)).
//!
//! Keys may name a registry, a namespace or a repository; the most specific that covers the repository
//! wins. Files are read anew for every pull, so that a rotated secret is seen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Credentials, InvalidAuth, credential_helper, host_of};
use crate::bounded;

/// A node with secrets for ten thousand registries would still fit.
const MAX_FILE_BYTES: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("reading {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not valid JSON")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{path}: {key}")]
    Auth { path: PathBuf, key: String, source: InvalidAuth },
    #[error(transparent)]
    Helper(#[from] credential_helper::Error),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// Where a file says the credentials are.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    Here { credentials: Credentials, key: String },
    Helper { name: String, server: String },
    Nothing,
}

pub(super) fn look(path: &Path, host: &str, repository: &str) -> Result<Found, Error> {
    let Some(text) = read(path)? else { return Ok(Found::Nothing) };
    // The cause of a JSON error never quotes the text, which holds secrets.
    let file: File =
        serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_owned(), source })?;
    file.look(host, repository).map_err(|(key, source)| Error::Auth { path: path.to_owned(), key, source })
}

impl File {
    fn look(&self, host: &str, repository: &str) -> Result<Found, (String, InvalidAuth)> {
        let own = host_of(host);
        // A helper knows registries and no parts of them: a key of one means nothing, as with containers/image.
        let helpers = |(key, _): &(&String, &String)| is_whole(key) && host_of(key) == own;
        if let Some((server, name)) = self.cred_helpers.iter().find(helpers) {
            return Ok(Found::Helper { name: name.clone(), server: server.clone() });
        }
        let keys = keys(own, repository);
        let scoped = keys.iter().find_map(|key| self.auths.get_key_value(key));
        let whole = || self.auths.iter().find(|(key, _)| is_whole(key) && host_of(key) == own);
        match scoped.or_else(whole) {
            Some((key, entry)) if !entry.is_empty() => {
                let read = entry.read().map_err(|error| (key.clone(), error));
                read.map(|credentials| Found::Here { credentials, key: key.clone() })
            }
            // Docker leaves an empty entry beside what it keeps in its store.
            Some(_) | None if !self.creds_store.is_empty() => {
                let server = if own == "docker.io" { "https://index.docker.io/v1/" } else { own };
                Ok(Found::Helper { name: self.creds_store.clone(), server: server.to_owned() })
            }
            Some(_) | None => Ok(Found::Nothing),
        }
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.auth.is_empty() && self.identitytoken.is_empty() && self.registrytoken.is_empty()
    }

    fn read(&self) -> Result<Credentials, InvalidAuth> {
        let mut credentials = match self.auth.as_str() {
            "" => Credentials::default(),
            auth => Credentials::from_auth(auth)?,
        };
        credentials.identity_token.clone_from(&self.identitytoken);
        credentials.registry_token.clone_from(&self.registrytoken);
        Ok(credentials)
    }
}

/// `h/a/b`, `h/a`, `h`: from the most to the least specific.
fn keys(host: &str, repository: &str) -> Vec<String> {
    let mut key = format!("{host}/{repository}");
    let mut keys = vec![key.clone()];
    while let Some(at) = key.rfind('/') {
        key.truncate(at);
        keys.push(key.clone());
    }
    keys
}

/// A key that names a registry, not a part of it: a bare host, or a URL (`https://index.docker.io/v1/`),
/// whose path is the API's.
fn is_whole(key: &str) -> bool {
    key.starts_with("https://") || key.starts_with("http://") || !key.contains('/')
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match bounded::read(path, MAX_FILE_BYTES) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file, the repository, and whose password is found.
    fn check(file: &str, repository: &str, answer: &str) {
        let file: File = serde_json::from_str(file).unwrap();
        let (host, path) = repository.split_once('/').unwrap();
        let found = match file.look(host, path).unwrap() {
            Found::Here { credentials, .. } => credentials.username,
            Found::Helper { name, server } => format!("{name}({server})"),
            Found::Nothing => String::new(),
        };
        assert_eq!(found, answer, "{repository}");
    }

    #[test]
    fn the_most_specific_key_wins() {
        // base64 of host:p, space:p, repo:p
        let file = r#"{"auths":{
            "a.io":{"auth":"aG9zdDpw"}, "a.io/ns":{"auth":"c3BhY2U6cA=="}, "a.io/ns/repo":{"auth":"cmVwbzpw"}}}"#;
        check(file, "a.io/x", "host");
        check(file, "a.io/ns/x", "space");
        check(file, "a.io/ns/repo", "repo");
        check(file, "a.io/ns/repo/sub", "repo");
        check(file, "a.io/nsx/repo", "host");
        check(file, "b.io/ns/repo", "");
        check(file, "a.io:5000/x", "");
        check(file, "x.a.io/x", "");
    }

    #[test]
    fn docker_hub_goes_by_all_its_names() {
        for key in ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"] {
            check(
                &format!(r#"{{"auths":{{"{key}":{{"auth":"aG9zdDpw"}}}}}}"#),
                "docker.io/library/x",
                "host",
            );
        }
        check(r#"{"auths":{"docker.io/team":{"auth":"aG9zdDpw"}}}"#, "docker.io/library/x", "");
        check(r#"{"auths":{"docker.io/team":{"auth":"aG9zdDpw"}}}"#, "docker.io/team/x", "host");
    }

    #[test]
    fn helpers_are_named_by_registry_or_for_all() {
        let file = r#"{"credHelpers":{"a.io":"one"},"credsStore":"all","auths":{"b.io":{},"c.io":{"auth":"aG9zdDpw"}}}"#;
        check(file, "a.io/x", "one(a.io)");
        check(file, "b.io/x", "all(b.io)");
        check(file, "c.io/x", "host");
        check(file, "docker.io/x", "all(https://index.docker.io/v1/)");
        check("{}", "a.io/x", "");
        let file = r#"{"credHelpers":{"a.io/org":"one","https://b.io/v2/":"two"}}"#;
        check(file, "a.io/x", "");
        check(file, "a.io/org/x", "");
        check(file, "b.io/x", "two(https://b.io/v2/)");
    }
}
