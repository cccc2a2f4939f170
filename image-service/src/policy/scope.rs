//! Which scopes speak of an image, the narrowest first.

use std::path::Path;

use super::json::Flaw;
use crate::reference::Reference;

/// The scopes of a reference from the narrowest to the widest: itself, its repository, each namespace,
/// the host, and `*.` with each of the host's own domains, where a port is no part of them.
pub(super) fn scopes(reference: &Reference) -> Vec<String> {
    let repository = reference.repository();
    let mut scopes = vec![reference.to_string()];
    // What has both a tag and a digest is pulled by digest alone.
    scopes.extend(reference.digest().map(|digest| format!("{repository}@{digest}")));
    scopes.push(repository.clone());
    let mut rest = repository;
    while let Some(slash) = rest.rfind('/') {
        rest.truncate(slash);
        scopes.push(rest.clone());
    }
    let mut domain = reference.domain().split(':').next().unwrap_or_default();
    while let Some((_, parent)) = domain.split_once('.') {
        scopes.push(format!("*.{parent}"));
        domain = parent;
    }
    scopes
}

/// The scopes of a layout: the image in it by its tag, itself, and the directories above it, where the root has
/// none. The path is the real one, since the policy's must be. A docker archive has but its transport's.
pub(super) fn file_scopes(transport: &str, path: &Path, tag: Option<&str>) -> Vec<String> {
    if transport == "docker-archive" {
        return Vec::new();
    }
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let tagged = tag.map(|tag| format!("{}:{tag}", text(&real)));
    let above = real.ancestors().filter(|path| path.parent().is_some());
    tagged.into_iter().chain(above.map(text)).collect()
}

/// A scope that can match nothing was meant to be another (containers-policy.json(5), "dir:", "oci:" and
/// "docker-archive:").
pub(super) fn check_scope(transport: &str, scope: &str, at: &str) -> Result<(), Flaw> {
    match transport {
        _ if scope.is_empty() => return Ok(()),
        "oci" | "oci-archive" | "dir" => {}
        "docker-archive" => return Err(Flaw::new(at, "no scope but \"\" can match a docker-archive")),
        _ => return Ok(()),
    }
    let parts: Vec<&str> = scope.split('/').collect();
    let clean = parts.len() > 1 && parts[0].is_empty();
    if clean && parts[1..].iter().all(|part| !matches!(*part, "" | "." | "..")) {
        return Ok(());
    }
    let why = "a path is wanted here that is absolute, is not / and has neither // nor . nor .. in it";
    Err(Flaw::new(at, why))
}
