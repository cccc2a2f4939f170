//! `registries.conf` (version 2): which endpoints are asked for a reference, in which order, and what
//! a name without a registry may mean. containers-registries.conf(5) is the rule; keys that it has and
//! we don't are ignored, as containers/image ignores those it doesn't know.
//!
//! [`RegistriesConf::endpoints`] is a pure function of the files and a reference.

mod endpoint;
mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::endpoint::rewrite;
pub use self::endpoint::{Access, Endpoint, Role, Tls};
use self::file::{File, check_alias, location};

use crate::auth::credential_helper;
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
    credential_helpers: Vec<String>,
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

    /// Who is asked for credentials, in this order; empty where nothing is said.
    pub fn credential_helpers(&self) -> &[String] {
        &self.credential_helpers
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
        if let Some(bad) = file.credential_helpers.iter().find(|name| !credential_helper::is_name(name)) {
            return Err(format!("credential-helpers: {bad:?} is no name of a credential helper"));
        }
        if !file.credential_helpers.is_empty() {
            self.credential_helpers = file.credential_helpers;
        }
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

impl Serves {
    fn serves(self, reference: &Reference) -> bool {
        match self {
            Serves::All => true,
            Serves::DigestOnly => reference.digest().is_some(),
            Serves::TagOnly => reference.digest().is_none(),
        }
    }
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
