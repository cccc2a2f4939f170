//! The words of a checkpoint: what was written down, of which image, with which mounts. As CRI-O writes them, and
//! checkpointctl reads them.

use std::path::{Path, PathBuf};

use conmon_protocol::Seen;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::{BIND_MOUNTS, CONFIG_DUMP, DELETED_FILES, Error, SPEC_DUMP, archive};
use crate::container::{Container, plan};
use crate::node::Node;

/// `config.dump`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Description {
    pub(super) id: String,
    pub(super) name: String,
    /// As the container asked for it.
    pub(super) rootfs_image: String,
    /// What nobody can mean anything else by.
    pub(super) rootfs_image_ref: String,
    pub(super) rootfs_image_name: String,
    pub(super) runtime: String,
    pub(super) created_time: String,
    pub(super) checkpointed_time: String,
    pub(super) restored_time: String,
    pub(super) restored: bool,
}

/// One of `bind.mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct BindMount {
    source: PathBuf,
    destination: PathBuf,
    file_type: String,
    permissions: u32,
}

/// Go's zero time: never.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Writes all of them into a checkpoint's folder.
pub(super) fn write(node: &Node, container: &Container, gone: &[PathBuf], dir: &Path) -> Result<(), Error> {
    let facts = &container.facts;
    let record = node.store.sandbox(&facts.sandbox_id).container(&facts.id);
    let spec: Spec =
        record.read_json("bundle/config.json").map_err(|e| Error::State(crate::error::chain(&e)))?;
    put(dir, CONFIG_DUMP, &description(node, container))?;
    put(dir, SPEC_DUMP, &spec)?;
    put(dir, BIND_MOUNTS, &bind_mounts(&spec))?;
    if gone.is_empty() { Ok(()) } else { put(dir, DELETED_FILES, &gone) }
}

fn description(node: &Node, container: &Container) -> Description {
    let facts = &container.facts;
    let asked = facts.config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    let image = node.images.find(&facts.made.image_id);
    let first = |names: Option<&Vec<String>>| names.and_then(|names| names.first()).cloned();
    let digest = first(image.as_ref().map(|image| &image.repo_digests));
    let tag = first(image.as_ref().map(|image| &image.repo_tags));
    Description {
        id: facts.id.to_string(),
        name: crate::container::name(&facts.config).0,
        rootfs_image_ref: digest.clone().unwrap_or_else(|| facts.made.image_id.clone()),
        rootfs_image_name: tag.or(digest).unwrap_or_else(|| asked.clone()),
        rootfs_image: asked,
        runtime: crate::config::IN_TREE.into(),
        created_time: rfc3339(facts.made.created_at_ns),
        checkpointed_time: rfc3339(node.now_ns()),
        restored_time: NEVER.into(),
        restored: false,
    }
}

fn bind_mounts(spec: &Spec) -> Vec<BindMount> {
    let described = bind_mounts_of(spec).map(|mount| {
        let source = mount.source().clone().unwrap_or_default();
        // A volume whose server is away is not worth waiting for.
        let is_file = matches!(plan::glance(&source), Some(Seen::Other(_)));
        let (file_type, permissions) = if is_file { ("file", 0o644) } else { ("directory", 0o755) };
        let destination = mount.destination().clone();
        BindMount { source, destination, file_type: file_type.into(), permissions }
    });
    described.collect()
}

fn put(dir: &Path, name: &str, value: &impl Serialize) -> Result<(), Error> {
    let path = dir.join(name);
    let text = serde_json::to_vec_pretty(value).map_err(|error| Error::damaged(&path, error.to_string()))?;
    std::fs::write(&path, text).map_err(Error::io("writing", &path))
}

/// What a checkpoint's folder says that it is.
pub(super) fn read(dir: &Path) -> Result<Description, Error> {
    get(dir, CONFIG_DUMP)?.ok_or_else(|| Error::damaged(dir, format!("it has no {CONFIG_DUMP}")))
}

pub(super) fn gone(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(get(dir, DELETED_FILES)?.unwrap_or_default())
}

/// The places of the mounts that came from the node.
pub(super) fn mounted(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let spec: Option<Spec> = get(dir, SPEC_DUMP)?;
    let spec = spec.ok_or_else(|| Error::damaged(dir, format!("it has no {SPEC_DUMP}")))?;
    Ok(places(&spec))
}

/// Where an OCI configuration has mounts from the node.
pub(super) fn places(spec: &Spec) -> Vec<PathBuf> {
    bind_mounts_of(spec).map(|mount| mount.destination().clone()).collect()
}

fn bind_mounts_of(spec: &Spec) -> impl Iterator<Item = &oci_spec::runtime::Mount> {
    spec.mounts().iter().flatten().filter(|mount| mount.typ().as_deref() == Some("bind"))
}

fn get<T: serde::de::DeserializeOwned>(dir: &Path, name: &str) -> Result<Option<T>, Error> {
    let Some(bytes) = archive::read(&dir.join(name))? else { return Ok(None) };
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|error| Error::damaged(dir, format!("{name}: {error}")))
}

/// UTC, to the second.
fn rfc3339(at_ns: i64) -> String {
    let seconds = at_ns.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, so that a leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_everybody_reads_them() {
        let check = |seconds: i64, text: &str| assert_eq!(rfc3339(seconds * 1_000_000_000), text);
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(1_767_225_599, "2025-12-31T23:59:59Z");
        check(1_795_285_845, "2026-11-21T18:30:45Z");
    }

    #[test]
    fn a_description_of_another_engine_is_read_too() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"id":"c","name":"k8s_c","rootfsImage":"a","rootfsImageRef":"b","rootfsImageName":"busybox:1","runtime":"runc","createdTime":"2023-02-13T16:01:26.9Z","checkpointedTime":"2023-02-13T16:20:09Z","restoredTime":"0001-01-01T00:00:00Z","restored":false,"new":1}"#;
        std::fs::write(dir.path().join(CONFIG_DUMP), text).unwrap();
        let read = read(dir.path()).unwrap();
        assert_eq!((&*read.rootfs_image_ref, &*read.rootfs_image_name), ("b", "busybox:1"));
        assert!(gone(dir.path()).unwrap().is_empty());
        assert!(mounted(dir.path()).unwrap_err().to_string().contains("spec.dump"));
    }
}
