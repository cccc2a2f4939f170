//! Image references: `registry.k8s.io/pause:3.9`, `busybox`, `host:5000/a/b@sha256:…`.
//!
//! The grammar and the normal form are those of Docker and containers/image (distribution/reference):
//! no host means docker.io, one word on docker.io means `library/…`, nothing after the name means
//! `:latest`. A [`Reference`] is always in normal form and holds only bytes the grammar allows, so its
//! parts can stand in a URL as they are.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, InvalidDigest};

/// The registry that an unqualified name means.
pub const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library/";
const LEGACY_DOMAIN: &str = "index.docker.io";
const DEFAULT_TAG: &str = "latest";
/// distribution/reference, `RepositoryNameTotalLengthMax`.
const MAX_PATH_LENGTH: usize = 255;
/// A DNS name and a port.
const MAX_DOMAIN_LENGTH: usize = 255 + 6;
/// distribution/reference, the tag expression.
const MAX_TAG_LENGTH: usize = 128;

/// A normalised reference. It has a tag, a digest, or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image reference: {why}")]
pub struct InvalidReference {
    text: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error("{0}")]
    Grammar(&'static str),
    #[error("{0}")]
    Digest(InvalidDigest),
}

impl From<&'static str> for Why {
    fn from(text: &'static str) -> Why {
        Why::Grammar(text)
    }
}

impl Reference {
    /// Reads and normalises; a name alone gets the tag `latest`.
    pub fn parse(text: &str) -> Result<Reference, InvalidReference> {
        read(text).map_err(|why| InvalidReference { text: text.chars().take(300).collect(), why })
    }

    /// The registry's name as references use it: `docker.io`, `host:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository without its registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The repository: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What stands in the URL of the manifest: the digest when there is one, else the tag.
    pub fn selector(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// The same repository at this digest, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { domain: self.domain.clone(), path: self.path.clone(), tag: None, digest: Some(digest) }
    }

    /// `repository:tag`, when there is a tag and no digest pins it.
    pub fn repo_tag(&self) -> Option<String> {
        match (&self.tag, &self.digest) {
            (Some(tag), None) => Some(format!("{}:{tag}", self.repository())),
            _ => None,
        }
    }

    /// As people write it: without docker.io and library/, without `latest`.
    pub fn familiar(&self) -> String {
        let mut text = match (self.domain.as_str(), self.path.strip_prefix(DEFAULT_NAMESPACE)) {
            (DEFAULT_DOMAIN, Some(name)) if !name.contains('/') => name.to_owned(),
            (DEFAULT_DOMAIN, _) => self.path.clone(),
            _ => self.repository(),
        };
        match (&self.tag, &self.digest) {
            (Some(tag), None) if tag == DEFAULT_TAG => {}
            (Some(tag), _) => text = format!("{text}:{tag}"),
            (None, _) => {}
        }
        match &self.digest {
            Some(digest) => format!("{text}@{digest}"),
            None => text,
        }
    }
}

/// The canonical form: everything written out.
impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(out, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(out, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Reference, InvalidReference> {
        Reference::parse(text)
    }
}

/// Whether the text names no registry (`busybox`, `library/busybox:1`), so that short-name rules apply.
pub fn is_short(text: &str) -> bool {
    let name = text.split('@').next().unwrap_or_default();
    split_domain(name).is_none()
}

fn read(text: &str) -> Result<Reference, Why> {
    if text.is_empty() {
        return Err(Why::from("it is empty"));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(Why::Digest)?)),
        None => (text, None),
    };
    let (name, tag) = split_tag(rest);
    tag.map_or(Ok(()), check_tag)?;
    if is_bare_id(name) {
        return Err(Why::from("64 hex digits are an image's id, not a name"));
    }
    let (domain, path) = normal_name(name);
    check_domain(&domain)?;
    check_path(&path)?;
    let implied = (tag.is_none() && digest.is_none()).then_some(DEFAULT_TAG);
    Ok(Reference { domain, path, tag: tag.or(implied).map(str::to_owned), digest })
}

/// A colon starts a tag unless a slash follows it (then it was a port).
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn is_bare_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The first part is a registry when it could not be a part of a path: it has a dot, a colon or a
/// capital letter, or is `localhost` (distribution/reference, `splitDockerDomain`).
fn split_domain(name: &str) -> Option<(&str, &str)> {
    let (first, rest) = name.split_once('/')?;
    let is_domain =
        first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase());
    is_domain.then_some((first, rest))
}

fn normal_name(name: &str) -> (String, String) {
    let (domain, path) = split_domain(name).unwrap_or((DEFAULT_DOMAIN, name));
    let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
    let official = domain == DEFAULT_DOMAIN && !path.contains('/');
    let namespace = if official { DEFAULT_NAMESPACE } else { "" };
    (domain.to_owned(), format!("{namespace}{path}"))
}

fn check_tag(tag: &str) -> Result<(), Why> {
    if tag.is_empty() {
        return Err(Why::from("the tag is empty"));
    }
    if tag.len() > MAX_TAG_LENGTH {
        return Err(Why::from("the tag is longer than 128 bytes"));
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first = tag.bytes().next().is_some_and(word);
    if !first || !tag.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
        return Err(Why::from("the tag has characters a tag can't have"));
    }
    Ok(())
}

fn check_domain(domain: &str) -> Result<(), Why> {
    if domain.len() > MAX_DOMAIN_LENGTH {
        return Err(Why::from("the registry's name is too long"));
    }
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(Why::from("the IPv6 address is not closed"))?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| Why::from("the IPv6 address is not one"))?;
            (None, if after.is_empty() { None } else { Some(after.strip_prefix(':').unwrap_or("")) })
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    if let Some(port) = port
        && (!port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err())
    {
        return Err(Why::from("the registry's port is not a port"));
    }
    if host.is_some_and(|host| !host.split('.').all(is_domain_label)) {
        return Err(Why::from("the registry's name is no host name"));
    }
    Ok(())
}

fn is_domain_label(label: &str) -> bool {
    let alnum = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    alnum(label.bytes().next())
        && alnum(label.bytes().last())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn check_path(path: &str) -> Result<(), Why> {
    if path.len() > MAX_PATH_LENGTH {
        return Err(Why::from("the repository's name is longer than 255 bytes"));
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(Why::from("the repository's name must be lowercase"));
    }
    if !path.split('/').all(is_path_part) {
        return Err(Why::from("the repository's name has characters or separators it can't have"));
    }
    Ok(())
}

/// `[a-z0-9]+` parts joined by `.`, `_`, `__` or any number of `-`.
fn is_path_part(part: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(alnum) || !bytes.last().is_some_and(alnum) {
        return false;
    }
    bytes.split(alnum).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

#[cfg(test)]
mod tests;
