//! `registries.conf` (version 2): which endpoints are asked for a reference, in which order, and what
//! a name without a registry may mean. containers-registries.conf(5) is the rule; keys that it has and
//! we don't are ignored, as containers/image ignores those it doesn't know.
//!
//! [`RegistriesConf::endpoints`] is a pure function of the files and a reference.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::HeaderMap;
use http::uri::Scheme;
use serde::Deserialize;

use crate::bounded;
use crate::reference::{self, InvalidReference, Reference};

/// No configuration written by people is larger.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Everything the files said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistriesConf {
    search: Vec<String>,
    short_names: ShortNames,
    aliases: BTreeMap<String, String>,
    registries: Vec<Rule>,
}

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
}

impl Default for Access {
    fn default() -> Access {
        let base = "/v2".to_owned();
        Access { scheme: None, base, tls: None, headers: HeaderMap::new(), namespace: None }
    }
}

/// Roots and keys in files, read when a connection is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    pub ca: Vec<PathBuf>,
    /// Certificates with their keys; the first that can be read is shown.
    pub client: Vec<(PathBuf, PathBuf)>,
    pub skip_verify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Mirror,
    /// Where the registry itself is, by its own name or by the `location` that the operator gave.
    Primary,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not valid TOML")]
    Toml { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: {why}")]
    Rule { path: PathBuf, why: String },
    #[error("registry {registry} is blocked by registries.conf")]
    Blocked { registry: String },
    #[error("{0} has no registry, several may be meant, and short-name-mode is enforcing: write it in full")]
    AmbiguousShortName(String),
    #[error("registries.conf sends {reference} to {location}, which is no valid name")]
    Rewrite { reference: String, location: String, source: InvalidReference },
    #[error(transparent)]
    Reference(#[from] InvalidReference),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ShortNames {
    Enforcing,
    #[default]
    Permissive,
    Disabled,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    prefix: String,
    /// Empty for a wildcard prefix that rewrites nothing.
    location: String,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    serves: Serves,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Serves {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

impl RegistriesConf {
    /// Reads the file and then its drop-in directory (`*.conf`, by name). What is not there says nothing.
    pub fn load(file: &Path, drop_ins: &Path) -> Result<RegistriesConf, Error> {
        let mut conf = RegistriesConf::default();
        for path in std::iter::once(file.to_owned()).chain(list_drop_ins(drop_ins)?) {
            if let Some(text) = read(&path)? {
                conf.add(&text, &path)?;
            }
        }
        Ok(conf)
    }

    /// Lays the text of one more file over what is known; `path` is for messages.
    pub fn add(&mut self, text: &str, path: &Path) -> Result<(), Error> {
        let file: File = toml::from_str(text)
            .map_err(|source| Error::Toml { path: path.to_owned(), source: Box::new(source) })?;
        self.overlay(file).map_err(|why| Error::Rule { path: path.to_owned(), why })
    }

    /// Where to ask for a reference: mirrors in their order, then the registry.
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, Error> {
        let name = reference.repository();
        let Some((rule, matched)) = self.rule_for(&name) else {
            return Ok(vec![Endpoint::of(reference, false, Role::Primary)]);
        };
        if rule.blocked {
            return Err(Error::Blocked { registry: rule.prefix.clone() });
        }
        let rest = &name[matched..];
        let rewrite = |location: &str, insecure, role| rewrite(reference, location, rest, insecure, role);
        let mut endpoints = rule
            .mirrors
            .iter()
            .filter(|mirror| mirror.serves.serves(reference))
            .map(|mirror| rewrite(&mirror.location, mirror.insecure, Role::Mirror))
            .collect::<Result<Vec<_>, _>>()?;
        endpoints.push(match rule.location.as_str() {
            "" => Endpoint::of(reference, rule.insecure, Role::Primary),
            location => rewrite(location, rule.insecure, Role::Primary)?,
        });
        Ok(endpoints)
    }

    /// The prefix of the rule that speaks of the reference, if one does.
    pub fn rule_of(&self, reference: &Reference) -> Option<&str> {
        self.rule_for(&reference.repository()).map(|(rule, _)| rule.prefix.as_str())
    }

    /// Whether the operator said of this very host (not of one that points to it) that its certificate
    /// need not be good. For a server that a registry names: it inherits nothing.
    pub fn is_insecure_host(&self, host: &str) -> bool {
        let spoken_of = |location: &str| location.split('/').next() == Some(host);
        self.registries.iter().any(|rule| {
            (rule.insecure && spoken_of(&rule.location))
                || rule.mirrors.iter().any(|mirror| mirror.insecure && spoken_of(&mirror.location))
        })
    }

    /// The full references that a name as written may mean, in the order to try them. A name without a
    /// registry is looked up among the aliases, then in the search registries; where neither is
    /// configured it means docker.io, as every manifest written for Kubernetes assumes.
    pub fn candidates(&self, text: &str) -> Result<Vec<Reference>, Error> {
        let plain = Reference::parse(text)?;
        if !reference::is_short(text) {
            return Ok(vec![plain]);
        }
        let name = &text[..name_length(text)];
        if let Some(target) = self.aliases.get(name).filter(|_| self.short_names != ShortNames::Disabled) {
            return Ok(vec![Reference::parse(&format!("{target}{}", &text[name.len()..]))?]);
        }
        match self.search.as_slice() {
            [] => Ok(vec![plain]),
            [_, _, ..] if self.short_names == ShortNames::Enforcing => {
                Err(Error::AmbiguousShortName(text.to_owned()))
            }
            search => search.iter().map(|host| Ok(Reference::parse(&format!("{host}/{text}"))?)).collect(),
        }
    }

    fn rule_for(&self, name: &str) -> Option<(&Rule, usize)> {
        self.registries
            .iter()
            .filter_map(|rule| matched_length(name, &rule.prefix).map(|length| (rule, length)))
            .max_by_key(|(rule, _)| rule.prefix.len())
    }

    fn overlay(&mut self, file: File) -> Result<(), String> {
        if file.registries.is_some() {
            return Err("[registries.*] is the format of version 1; write [[registry]] tables".to_owned());
        }
        let mut rules: Vec<Rule> = Vec::new();
        for table in file.registry {
            let rule = table.check()?;
            match rules.iter().find(|other| other.prefix == rule.prefix) {
                Some(other) if *other != rule => {
                    return Err(format!("two different rules for {}", rule.prefix));
                }
                Some(_) => {}
                None => rules.push(rule),
            }
        }
        self.registries.retain(|old| !rules.iter().any(|new| new.prefix == old.prefix));
        self.registries.extend(rules);
        if let Some(search) = file.unqualified_search_registries {
            self.search = search.iter().map(|host| location(host)).collect::<Result<_, _>>()?;
        }
        self.short_names = file.short_name_mode.unwrap_or(self.short_names);
        for (name, target) in file.aliases {
            check_alias(&name, &target)?;
            match target.as_str() {
                // An empty target takes an alias of an earlier file away.
                "" => drop(self.aliases.remove(&name)),
                _ => drop(self.aliases.insert(name, target)),
            }
        }
        Ok(())
    }
}

impl Endpoint {
    fn of(reference: &Reference, insecure: bool, role: Role) -> Endpoint {
        let (host, path) = (reference.domain().to_owned(), reference.path().to_owned());
        Endpoint { host, path, insecure, role, access: Access::default() }
    }
}

impl Serves {
    fn serves(self, reference: &Reference) -> bool {
        match self {
            Serves::All => true,
            Serves::DigestOnly => reference.digest().is_some(),
            Serves::TagOnly => reference.digest().is_none(),
        }
    }
}

/// One file as it is written.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    short_name_mode: Option<ShortNames>,
    registry: Vec<RegistryTable>,
    aliases: BTreeMap<String, String>,
    registries: Option<toml::Table>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct RegistryTable {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<MirrorTable>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct MirrorTable {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<Serves>,
}

impl RegistryTable {
    fn check(self) -> Result<Rule, String> {
        let wildcard = self.prefix.starts_with("*.");
        let prefix = if self.prefix.is_empty() { location(&self.location)? } else { location(&self.prefix)? };
        if prefix.contains('*') && (!wildcard || prefix[1..].contains('*')) {
            return Err(format!("prefix {prefix}: a wildcard can only stand in front, as in *.example.com"));
        }
        let own = match (self.location.as_str(), wildcard) {
            ("", true) => String::new(),
            ("", false) => prefix.clone(),
            (given, _) => location(given)?,
        };
        if own.contains('*') {
            return Err(format!("location {own} can't have a wildcard"));
        }
        let by_digest = self.mirror_by_digest_only;
        let mirrors =
            self.mirror.into_iter().map(|mirror| mirror.check(by_digest)).collect::<Result<_, _>>()?;
        Ok(Rule { prefix, location: own, insecure: self.insecure, blocked: self.blocked, mirrors })
    }
}

impl MirrorTable {
    fn check(self, by_digest_only: bool) -> Result<Mirror, String> {
        let location = location(&self.location)?;
        let serves = match (self.pull_from_mirror, by_digest_only) {
            (Some(_), true) => {
                return Err(format!(
                    "mirror {location}: pull-from-mirror and mirror-by-digest-only contradict"
                ));
            }
            (None, true) => Serves::DigestOnly,
            (given, false) => given.unwrap_or_default(),
        };
        Ok(Mirror { location, insecure: self.insecure, serves })
    }
}

/// A location as containers/image takes it: no scheme, a trailing slash is dropped.
fn location(text: &str) -> Result<String, String> {
    let plain = text.trim_end_matches('/');
    if plain.is_empty() {
        return Err("a registry or mirror has neither prefix nor location".to_owned());
    }
    if plain.contains("://") {
        return Err(format!("{plain}: write the location without a scheme"));
    }
    if plain.contains(['@', '?', '#', ' ']) {
        return Err(format!("{plain} is no location"));
    }
    Ok(plain.to_owned())
}

fn check_alias(name: &str, target: &str) -> Result<(), String> {
    if !reference::is_short(name) || name_length(name) != name.len() {
        return Err(format!("alias {name:?} must be a name without registry, tag and digest"));
    }
    let full =
        !reference::is_short(target) && Reference::parse(target).is_ok_and(|r| r.repository() == target);
    if target.is_empty() || full {
        return Ok(());
    }
    Err(format!("alias {name} must lead to a full name without tag and digest, not to {target:?}"))
}

/// How much of a short reference is its name.
fn name_length(text: &str) -> usize {
    text.find([':', '@']).unwrap_or(text.len())
}

/// How much of the name the prefix covers, if it does: whole parts only.
fn matched_length(name: &str, prefix: &str) -> Option<usize> {
    let length = match prefix.strip_prefix('*') {
        None => name.starts_with(prefix).then_some(prefix.len())?,
        Some(suffix) => {
            let start = name.find(suffix)?;
            (!name[..start].contains('/')).then_some(start + suffix.len())?
        }
    };
    matches!(name.as_bytes().get(length), None | Some(b'/' | b':' | b'@')).then_some(length)
}

fn rewrite(
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

fn list_drop_ins(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read { path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "conf"));
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match bounded::read_text(path, MAX_FILE_BYTES) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
