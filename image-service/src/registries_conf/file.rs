//! One file as it is written, and what of it is refused.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Mirror, Rule, Serves, ShortNames, name_length};
use crate::reference::{self, Reference};

/// One file as it is written.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct File {
    pub(super) unqualified_search_registries: Option<Vec<String>>,
    pub(super) short_name_mode: Option<ShortNames>,
    pub(super) registry: Vec<RegistryTable>,
    pub(super) aliases: BTreeMap<String, String>,
    pub(super) registries: Option<toml::Table>,
    pub(super) credential_helpers: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct RegistryTable {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<MirrorTable>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct MirrorTable {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<Serves>,
}

impl RegistryTable {
    pub(super) fn check(self) -> Result<Rule, String> {
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
pub(super) fn location(text: &str) -> Result<String, String> {
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

pub(super) fn check_alias(name: &str, target: &str) -> Result<(), String> {
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
