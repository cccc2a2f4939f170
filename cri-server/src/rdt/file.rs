//! The operator's file of RDT classes: goresctrl's format, YAML or JSON. What of it is not done here is refused by name.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::bounded::read_text;

/// More than any list of classes.
const FILE_MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(default)]
    options: Options,
    #[serde(default)]
    pub(super) partitions: BTreeMap<String, Partition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    #[serde(default)]
    l2: Needed,
    #[serde(default)]
    l3: Needed,
    #[serde(default)]
    mb: Needed,
}

/// Whether a machine without this kind of allocation will do.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Needed {
    #[serde(default)]
    optional: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Partition {
    l2_allocation: Option<serde_json::Value>,
    pub(super) l3_allocation: Option<PerId<String>>,
    pub(super) mb_allocation: Option<PerId<Vec<String>>>,
    #[serde(default)]
    pub(super) classes: BTreeMap<String, Option<Class>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Class {
    l2_allocation: Option<serde_json::Value>,
    pub(super) l3_allocation: Option<PerId<String>>,
    pub(super) mb_allocation: Option<PerId<Vec<String>>>,
    #[serde(default)]
    pub(super) kubernetes: Kubernetes,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Kubernetes {
    #[serde(default)]
    pub(super) deny_pod_annotation: bool,
    #[serde(default)]
    pub(super) deny_container_annotation: bool,
}

/// The same for all caches, or `all` and exceptions by the numbers of caches, which may be lists and ranges.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum PerId<T> {
    Same(T),
    Each(BTreeMap<Ids, T>),
}

/// Which caches: a number, or a list; YAML has no need of quotes around the first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(untagged)]
pub(super) enum Ids {
    One(u32),
    List(String),
}

impl Ids {
    fn name(&self, id: u32) -> bool {
        match self {
            Ids::One(one) => *one == id,
            Ids::List(list) => numbers(list).is_some_and(|all| all.contains(&id)),
        }
    }

    fn are_all(&self) -> bool {
        matches!(self, Ids::List(list) if list == "all")
    }
}

impl<T> PerId<T> {
    pub(super) fn of(&self, id: u32) -> Option<&T> {
        match self {
            PerId::Same(value) => Some(value),
            PerId::Each(values) => {
                let named = values.iter().find(|(ids, _)| ids.name(id));
                named.or_else(|| values.iter().find(|(ids, _)| ids.are_all())).map(|(_, value)| value)
            }
        }
    }
}

/// `0,2-4` as numbers. No cache and no bit has a larger one.
pub(super) fn numbers(list: &str) -> Option<Vec<u32>> {
    const MOST: u32 = 1024;
    let mut all = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > MOST {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

pub(super) fn read(path: &Path) -> Result<Document, String> {
    parse(&read_text(path, FILE_MAX_BYTES).map_err(|error| error.to_string())?)
}

pub(super) fn parse(text: &str) -> Result<Document, String> {
    let document: Document = serde_norway::from_str(text).map_err(|error| error.to_string())?;
    let mut known = std::collections::BTreeSet::new();
    for (name, partition) in &document.partitions {
        let classes = partition.classes.iter().map(|(class, it)| (class, it.clone().unwrap_or_default()));
        let l2 =
            partition.l2_allocation.is_some() || classes.clone().any(|(_, it)| it.l2_allocation.is_some());
        if l2 && !document.options.l2.optional {
            return Err(format!(
                "partition {name:?}: l2Allocation is not supported by berth; take it out, or make it optional"
            ));
        }
        for (class, _) in classes {
            if !is_class(class) {
                return Err(format!("partition {name:?}: {class:?} is no name of a class"));
            }
            if !known.insert(class) {
                return Err(format!("class {class:?} is in two partitions"));
            }
        }
    }
    Ok(document)
}

/// A directory of resctrl, and none of the kernel's own; or the class of all who have none.
pub(crate) fn is_class(name: &str) -> bool {
    let kernels = [".", "..", "", "info", "mon_groups", "mon_data"];
    name == super::DEFAULT || (!name.contains('/') && !name.contains('\0') && !kernels.contains(&name))
}

impl Document {
    /// A class by its name.
    pub(super) fn class(&self, name: &str) -> Option<Class> {
        self.partitions.values().find_map(|it| it.classes.get(name)).map(|it| it.clone().unwrap_or_default())
    }

    pub(super) fn class_names(&self) -> Vec<String> {
        self.partitions.values().flat_map(|it| it.classes.keys().cloned()).collect()
    }

    pub(super) fn needs_l3(&self) -> bool {
        !self.options.l3.optional && self.partitions.values().any(|it| it.l3_allocation.is_some())
    }

    pub(super) fn needs_mb(&self) -> bool {
        !self.options.mb.optional && self.partitions.values().any(|it| it.mb_allocation.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_its_name() {
        let check = |text: &str, words: &str| {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        };
        check("partitions: {p: {classes: {a/b: {}}}}", "\"a/b\" is no name of a class");
        check("partitions: {p: {classes: {info: {}}}}", "\"info\"");
        check("partitions: {p: {classes: {a: {}}}, q: {classes: {a: {}}}}", "\"a\" is in two partitions");
        check("partitions: {p: {l2Allocation: 50%}}", "l2Allocation");
        check("partitions: {p: {speed: 50%}}", "speed");
        let fine =
            parse("options: {l2: {optional: true}}\npartitions: {p: {l2Allocation: 50%, classes: {a: }}}");
        assert_eq!(fine.unwrap().class_names(), ["a"]);
    }

    #[test]
    fn a_cache_has_its_own_value_or_everybodys() {
        let text = "partitions: {p: {l3Allocation: {all: 50%, 1: 100%, '3-4,7': 100%}}}";
        let partition = parse(text).unwrap().partitions.remove("p").unwrap();
        let allocation = partition.l3_allocation.unwrap();
        let of: Vec<&str> = (0..5).map(|id| allocation.of(id).unwrap().as_str()).collect();
        assert_eq!(of, ["50%", "100%", "50%", "100%", "100%"]);
        assert_eq!((numbers("3-1"), numbers("x"), numbers("0-99999")), (None, None, None));
    }
}
