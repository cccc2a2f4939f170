//! What pods of one namespace have for themselves: credentials, and a policy.

use std::path::{Path, PathBuf};

use super::Settings;
use crate::policy::{Policy, Refusal};

/// A namespace's own file with credentials.
pub(crate) fn namespace_auth_file(settings: &Settings, namespace: Option<&str>) -> Option<PathBuf> {
    namespace_file(&settings.namespace_auth_dir, namespace)
}

/// The policy for pods of the namespace, and its file: the namespace's own if it has one, else the node's.
pub(crate) fn policy_in_force(
    settings: &Settings,
    namespace: Option<&str>,
) -> Result<(PathBuf, Policy), Refusal> {
    let own = namespace_file(&settings.policy_dir, namespace);
    // One that is there and can't be read decides, too: then nothing is pulled.
    let own = own.filter(|path| std::fs::symlink_metadata(path).is_ok());
    let path = own.unwrap_or_else(|| settings.policy.clone());
    let policy = Policy::in_force(&path)?;
    Ok((path, policy))
}

/// A namespace's own file. One that is no name as Kubernetes has them (RFC 1123) has none: it could be a path.
fn namespace_file(dir: &Path, namespace: Option<&str>) -> Option<PathBuf> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = |name: &&str| !name.is_empty() && name.len() <= 63 && name.bytes().all(plain);
    namespace.filter(good).map(|name| dir.join(format!("{name}.json")))
}
