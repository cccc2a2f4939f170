//! Which plugin set which field of which container. No two may set the same one, unless one of them says that it
//! takes away the other's first.

use std::collections::BTreeMap;

use proto::nri::{CompoundFieldOwners, Field, FieldOwners, OwningPlugins};

/// Two plugins want the same field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugins {other} and {plugin} both set {} of container {container_id}", name(*.field, .key.as_deref()))]
pub struct Conflict {
    pub plugin: String,
    pub other: String,
    pub container_id: String,
    pub field: Field,
    pub key: Option<String>,
}

fn name(field: Field, key: Option<&str>) -> String {
    let field = field.as_str_name();
    key.map_or_else(|| field.to_owned(), |key| format!("{field} {key:?}"))
}

/// A field as a plugin names it: itself, or one entry of it.
pub(super) type Claim = (Field, Option<String>);

/// Of all containers that one event touches.
#[derive(Debug, Clone, Default)]
pub(super) struct Owners(BTreeMap<String, FieldOwners>);

/// What stands before the name of a plugin that took away what was there.
const CLEARED: &str = "-";

/// The plugin that has a field, or has taken away what was there.
pub(super) fn owner(told: &str) -> &str {
    told.strip_prefix(CLEARED).unwrap_or(told)
}

impl Owners {
    /// # Errors
    /// When another plugin has it.
    pub(super) fn claim(&mut self, container_id: &str, plugin: &str, claim: Claim) -> Result<(), Conflict> {
        let (field, key) = claim;
        let before = self.slot(container_id, field, key.as_deref()).get(&key_of(key.as_deref())).cloned();
        let other = before.as_deref().map(owner);
        if let Some(other) = other.filter(|other| *other != plugin) {
            let (plugin, other) = (plugin.to_owned(), other.to_owned());
            return Err(Conflict { plugin, other, container_id: container_id.to_owned(), field, key });
        }
        self.set(container_id, field, key.as_deref(), plugin.to_owned());
        Ok(())
    }

    /// What others set is gone; the plugin may set it anew, and nobody else.
    pub(super) fn clear(&mut self, container_id: &str, plugin: &str, (field, key): Claim) {
        self.set(container_id, field, key.as_deref(), format!("{CLEARED}{plugin}"));
    }

    /// A field to which each plugin adds.
    pub(super) fn share(&mut self, container_id: &str, plugin: &str, field: Field) {
        let before = self.slot(container_id, field, None).get("").cloned();
        let all = before.map_or_else(|| plugin.to_owned(), |before| format!("{before},{plugin}"));
        self.set(container_id, field, None, all);
    }

    /// As validators are told.
    pub(super) fn told(&self) -> OwningPlugins {
        OwningPlugins { owners: self.0.clone() }
    }

    fn slot(&self, container_id: &str, field: Field, key: Option<&str>) -> BTreeMap<String, String> {
        let Some(owners) = self.0.get(container_id) else { return BTreeMap::new() };
        match key {
            None => {
                let owner = owners.simple.get(&(field as i32));
                owner.map(|owner| (String::new(), owner.clone())).into_iter().collect()
            }
            Some(_) => owners.compound.get(&(field as i32)).map(|all| all.owners.clone()).unwrap_or_default(),
        }
    }

    fn set(&mut self, container_id: &str, field: Field, key: Option<&str>, owner: String) {
        let owners = self.0.entry(container_id.to_owned()).or_default();
        match key {
            None => drop(owners.simple.insert(field as i32, owner)),
            Some(key) => {
                let all: &mut CompoundFieldOwners = owners.compound.entry(field as i32).or_default();
                all.owners.insert(key.to_owned(), owner);
            }
        }
    }
}

fn key_of(key: Option<&str>) -> String {
    key.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Claim {
        (Field::Env, Some(name.to_owned()))
    }

    #[test]
    fn a_field_has_one_owner_until_somebody_takes_it_away() {
        let mut owners = Owners::default();
        owners.claim("c", "10-a", env("A")).unwrap();
        owners.claim("c", "10-a", env("A")).unwrap();
        owners.claim("c", "20-b", env("B")).unwrap();
        owners.claim("other", "20-b", env("A")).unwrap();
        owners.claim("c", "10-a", (Field::CpuShares, None)).unwrap();
        let error = owners.claim("c", "20-b", env("A")).unwrap_err().to_string();
        assert_eq!(error, "plugins 10-a and 20-b both set Env \"A\" of container c");
        let error = owners.claim("c", "20-b", (Field::CpuShares, None)).unwrap_err().to_string();
        assert_eq!(error, "plugins 10-a and 20-b both set CPUShares of container c");
        owners.clear("c", "20-b", env("A"));
        let error = owners.claim("c", "30-c", env("A")).unwrap_err().to_string();
        assert!(error.contains("20-b and 30-c"), "{error}");
        owners.claim("c", "20-b", env("A")).unwrap();
        owners.share("c", "10-a", Field::OciHooks);
        owners.share("c", "20-b", Field::OciHooks);
        let told = owners.told();
        assert_eq!(told.owners["c"].simple[&(Field::OciHooks as i32)], "10-a,20-b");
        assert_eq!(told.owners["c"].compound[&(Field::Env as i32)].owners["A"], "20-b");
    }
}
