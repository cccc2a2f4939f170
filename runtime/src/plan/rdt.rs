//! `linux.intelRdt`: which class of service, and the lines of its schemata.

use crate::Error;
use crate::spec::IntelRdt;

/// What the container asks of resctrl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RdtPlan {
    pub(crate) class: Class,
    /// From `l3CacheSchema` and `memBwSchema`, written first.
    pub(crate) schemas: Vec<String>,
    /// From `schemata`, written last.
    pub(crate) schemata: Vec<String>,
    /// A monitoring group of the container's own.
    pub(crate) monitoring: bool,
}

/// config-linux.md, "IntelRdt", on `closID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Class {
    /// `/`: what everything on the node has that is in no other.
    Default,
    /// Shared with whoever names it too.
    Named(String),
    /// Of the container's id; it goes when the container goes.
    Own,
}

/// What the kernel keeps beside the classes.
const RESERVED: &[&str] = &["", ".", "..", "info", "mon_data", "mon_groups"];

pub(crate) fn plan(rdt: &IntelRdt) -> Result<RdtPlan, Error> {
    let class = match rdt.clos_id.as_deref() {
        None | Some("") => Class::Own,
        Some("/") => Class::Default,
        Some(name) if RESERVED.contains(&name) || name.contains(['/', '\n', '\0']) => {
            return Err(Error::invalid("linux.intelRdt.closID", format!("{name:?} is no name of a class")));
        }
        Some(name) => Class::Named(name.to_owned()),
    };
    if let Some(i) = rdt.schemata.iter().position(|line| line.contains(['\n', '\0'])) {
        return Err(Error::invalid(format!("linux.intelRdt.schemata[{i}]"), "is no single line"));
    }
    Ok(RdtPlan {
        class,
        schemas: schemas(rdt)?,
        schemata: rdt.schemata.clone(),
        monitoring: rdt.enable_monitoring,
    })
}

/// Where both speak of bandwidth, `memBwSchema` counts.
fn schemas(rdt: &IntelRdt) -> Result<Vec<String>, Error> {
    let given = |schema: &Option<String>| schema.clone().filter(|schema| !schema.is_empty());
    let bandwidth = given(&rdt.mem_bw_schema);
    if bandwidth.as_ref().is_some_and(|line| !line.starts_with("MB:") || line.contains(['\n', '\0'])) {
        return Err(Error::invalid(
            "linux.intelRdt.memBwSchema",
            "must be one line that starts with \"MB:\"",
        ));
    }
    let cache = given(&rdt.l3_cache_schema).unwrap_or_default();
    let kept =
        |line: &&str| !(line.is_empty() || bandwidth.is_some() && line.trim_start().starts_with("MB:"));
    let mut lines: Vec<String> = cache.lines().filter(kept).map(str::to_owned).collect();
    lines.extend(bandwidth);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<RdtPlan, String> {
        plan(&serde_json::from_str(json).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn schemas_are_combined_as_the_specification_says() {
        let lines = |json: &str| check(json).unwrap().schemas;
        assert_eq!(lines(r#"{"l3CacheSchema": "L3:0=f"}"#), ["L3:0=f"]);
        assert_eq!(lines(r#"{"memBwSchema": "MB:0=20"}"#), ["MB:0=20"]);
        let both = r#"{"l3CacheSchema": "L3:0=f\nMB:0=100\nL3CODE:0=f", "memBwSchema": "MB:0=20"}"#;
        assert_eq!(lines(both), ["L3:0=f", "L3CODE:0=f", "MB:0=20"]);
        assert_eq!(lines(r#"{"l3CacheSchema": "L3:0=f\nMB:0=100"}"#), ["L3:0=f", "MB:0=100"]);
        assert!(lines("{}").is_empty());
    }

    #[test]
    fn a_class_is_named_shared_or_the_containers_own() {
        let class = |json: &str| check(json).map(|plan| plan.class);
        assert_eq!(class("{}"), Ok(Class::Own));
        assert_eq!(class(r#"{"closID": "/"}"#), Ok(Class::Default));
        assert_eq!(class(r#"{"closID": "gold"}"#), Ok(Class::Named("gold".into())));
        for wrong in [
            r#"{"closID": ".."}"#,
            r#"{"closID": "a/b"}"#,
            r#"{"closID": "info"}"#,
            r#"{"closID": "mon_groups"}"#,
        ] {
            assert!(class(wrong).unwrap_err().starts_with("linux.intelRdt.closID: "), "{wrong}");
        }
        assert!(check(r#"{"memBwSchema": "L3:0=f"}"#).unwrap_err().contains("memBwSchema"));
        assert!(check(r#"{"memBwSchema": "MB:0=1\nMB:1=1"}"#).unwrap_err().contains("memBwSchema"));
        assert!(check(r#"{"schemata": ["L3:0=f", "a\nb"]}"#).unwrap_err().contains("schemata[1]"));
    }
}
