//! What a runtime says by its `features` command: the part of features.md and features-linux.md that matters here.

use proto::v1::RuntimeHandlerFeatures;
use serde::Deserialize;

/// The version of the runtime specification whose words plans use.
pub(crate) const OCI_VERSION: &str = "1.2.0";
/// What runtimes take that do not say that they know ours. All that plans use of later versions is properties, which
/// they ignore or know as runc did; but some (crun 1.8) refuse a version that they have not heard of.
const OLD_OCI_VERSION: &str = "1.0.2";

/// What a handler is known by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Said {
    pub(super) features: RuntimeHandlerFeatures,
    pub(super) oci_version: &'static str,
}

impl Said {
    /// One that says nothing.
    pub(super) const NOTHING: Said = Said {
        features: RuntimeHandlerFeatures { recursive_read_only_mounts: false, user_namespaces: false },
        oci_version: OLD_OCI_VERSION,
    };
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Told {
    oci_version_max: String,
    mount_options: Vec<String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Linux {
    namespaces: Vec<String>,
    mount_extensions: MountExtensions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MountExtensions {
    idmap: Idmap,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Idmap {
    enabled: Option<bool>,
}

/// A pod with users of its own needs its volumes mapped too.
///
/// # Errors
/// When it is no such answer.
pub(super) fn read(text: &[u8]) -> Result<Said, String> {
    let told: Told = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let has_users = told.linux.namespaces.iter().any(|namespace| namespace == "user");
    let features = RuntimeHandlerFeatures {
        recursive_read_only_mounts: told.mount_options.iter().any(|option| option == "rro"),
        user_namespaces: has_users && told.linux.mount_extensions.idmap.enabled == Some(true),
    };
    let knows_ours = minor(&told.oci_version_max) >= minor(OCI_VERSION);
    Ok(Said { features, oci_version: if knows_ours { OCI_VERSION } else { OLD_OCI_VERSION } })
}

/// `1.2` of `1.2.0-dev`; none is less than all.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtimes_answer_is_read() {
        let check = |text: &str, rro: bool, users: bool| {
            let read = read(text.as_bytes()).unwrap().features;
            assert_eq!((read.recursive_read_only_mounts, read.user_namespaces), (rro, users), "{text}");
        };
        let idmap = r#""mountExtensions": {"idmap": {"enabled": true}}"#;
        check("{}", false, false);
        check(r#"{"mountOptions": ["ro", "rro"]}"#, true, false);
        check(&format!(r#"{{"linux": {{"namespaces": ["user"], {idmap}}}}}"#), false, true);
        check(&format!(r#"{{"linux": {{"namespaces": ["net"], {idmap}}}}}"#), false, false);
        check(r#"{"linux": {"namespaces": ["user"]}}"#, false, false);
        assert!(read(b"runc version 1").is_err());
    }

    #[test]
    fn a_runtime_is_told_no_version_that_it_does_not_know() {
        let check = |max: &str, told: &str| {
            let text = format!(r#"{{"ociVersionMin": "1.0.0", "ociVersionMax": "{max}"}}"#);
            assert_eq!(read(text.as_bytes()).unwrap().oci_version, told, "{max}");
        };
        check("1.0.2-dev", "1.0.2");
        check("1.1.0", "1.0.2");
        check("1.2.0", "1.2.0");
        check("1.3.0+dev", "1.2.0");
        check("2.0.0", "1.2.0");
        check("", "1.0.2");
        assert_eq!(read(b"{}").unwrap().oci_version, "1.0.2");
    }
}
