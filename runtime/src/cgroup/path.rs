//! Paths that can be a cgroup's, on whatever node.

use super::Error;

/// The kernel's bound on a name, and a path's with room for the mount point and a file.
const MAX_NAME_BYTES: usize = 255;
const MAX_PATH_BYTES: usize = 3500;

/// Whether a path can be a cgroup's, on whatever node.
pub(crate) fn check_path(path: &str) -> Result<(), Error> {
    checked(path).map(drop)
}

/// A path that stays below each root, without its first slash. The root itself is nobody's to limit.
pub(super) fn checked(path: &str) -> Result<String, Error> {
    let refuse = |reason| Err(Error::Path { path: path.to_owned(), reason });
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return refuse("is the root");
    }
    if path.len() > MAX_PATH_BYTES || parts.iter().any(|part| part.len() > MAX_NAME_BYTES) {
        return refuse("is too long");
    }
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return refuse("has a . or .. in it");
    }
    if path.contains(['\0', '\n']) {
        return refuse("has a byte that no name can have");
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(checked(path).ok().as_deref(), expected, "{path:?}");
        };
        check("/kubepods/pod1/c", Some("kubepods/pod1/c"));
        check("a//b/", Some("a/b"));
        check("/", None);
        check("", None);
        check("/a/../b", None);
        check("/a/./b", None);
        check("/a\0b", None);
        check(&format!("/{}", "a".repeat(256)), None);
        check(&"/a".repeat(3000), None);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_path_leads_out(path in "[a./\0\n ]{0,40}") {
            if let Ok(path) = checked(&path) {
                let parts = Path::new(&path).components();
                proptest::prop_assert!(parts.clone().count() > 0);
                proptest::prop_assert!(parts.into_iter().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
