//! An image as the rest of the node sees it: names, identity, and what its maker configured.
//!
//! The configuration is what an image asks for, never an order: the container plan decides.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// One image on this node. Immutable; a change of names publishes another.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// `sha256:<digest of the configuration>`; of an artifact, of its manifest.
    pub id: String,
    /// `registry/repository:tag`, sorted.
    pub repo_tags: Vec<String>,
    /// `registry/repository@digest`, sorted; the digest is of what the reference named, often an index.
    pub repo_digests: Vec<String>,
    /// What it takes on disk, layers shared with others included.
    pub size_bytes: u64,
    pub pulled_at: SystemTime,
    /// Pinned images are not for the kubelet's garbage collection.
    pub pinned: bool,
    pub config: ImageConfig,
    pub accounts: Accounts,
    /// The unpacked layers, from the bottom up; perhaps one more than the archive's, see `mend`.
    pub layers: Vec<Layer>,
}

impl Image {
    /// Whether this is no image to run but an artifact, whose files are its one layer.
    pub fn is_artifact(&self) -> bool {
        matches!(&self.layers[..], [only] if only.diff_id.as_str() == self.id)
    }
}

/// One unpacked layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The digest of the uncompressed archive, which also names its directory.
    pub diff_id: Digest,
    pub bytes: u64,
    pub inodes: u64,
    /// Whether the archive says what `/` is like; if not, a layer below does.
    pub has_root: bool,
    /// Whether the archive hides everything below it.
    pub opaque_root: bool,
    /// Directories whose owner and mode are for a layer below to say, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undescribed: Vec<String>,
}

/// The part of the OCI image configuration that containers are made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub user: String,
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub stop_signal: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Paths inside the container, sorted.
    pub volumes: Vec<String>,
    /// `80/tcp`, sorted.
    pub exposed_ports: Vec<String>,
    pub architecture: String,
    pub os: String,
    pub created: Option<String>,
    pub author: Option<String>,
}

/// `/etc/passwd` and `/etc/group` as the image has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    pub passwd: Option<Vec<u8>>,
    pub group: Option<Vec<u8>>,
    /// Why a file that is there could not be taken (too large, not a file). To be told when a name has
    /// to be looked up; a numeric user never needs it.
    pub unusable: Option<String>,
}

/// The OCI image configuration (image-spec, config.md) and Docker's, as far as we listen to it. What
/// is missing or null is empty: builders differ.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    config: Option<Execution>,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, Option<String>>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    #[error("it is not the JSON of an image configuration")]
    Json(#[from] serde_json::Error),
    #[error("it is for the operating system {0:?}")]
    OperatingSystem(String),
}

impl ImageConfig {
    /// Reads a configuration: what containers are made from, and the diff IDs from the bottom up.
    pub fn parse(bytes: &[u8]) -> Result<(ImageConfig, Vec<Digest>), BadConfig> {
        let document: Document = serde_json::from_slice(bytes)?;
        let os = document.os.unwrap_or_default();
        if !matches!(os.as_str(), "" | "linux") {
            return Err(BadConfig::OperatingSystem(os));
        }
        let said = document.config.unwrap_or_default();
        let labels = said.labels.unwrap_or_default().into_iter();
        let config = ImageConfig {
            user: said.user.unwrap_or_default(),
            env: said.env.unwrap_or_default(),
            entrypoint: said.entrypoint.unwrap_or_default(),
            cmd: said.cmd.unwrap_or_default(),
            working_dir: said.working_dir.unwrap_or_default(),
            stop_signal: said.stop_signal.filter(|signal| !signal.is_empty()),
            labels: labels.map(|(key, value)| (key, value.unwrap_or_default())).collect(),
            volumes: said.volumes.unwrap_or_default().into_keys().collect(),
            exposed_ports: said.exposed_ports.unwrap_or_default().into_keys().collect(),
            architecture: document.architecture.unwrap_or_default(),
            os,
            created: document.created,
            author: document.author,
        };
        Ok((config, document.rootfs.diff_ids.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_may_leave_out_nearly_everything() {
        let (config, diff_ids) = ImageConfig::parse(br#"{"rootfs": {"type": "layers"}}"#).unwrap();
        assert_eq!((config, diff_ids.len()), (ImageConfig::default(), 0));
        let nulls = br#"{"os": "linux", "config": {"Env": null, "Labels": {"a": null}}, "rootfs": {"diff_ids": null}}"#;
        assert_eq!(ImageConfig::parse(nulls).unwrap().0.labels["a"], "");
    }

    #[test]
    fn what_containers_need_is_read() {
        let text = br#"{"os": "linux", "architecture": "amd64", "config": {"User": "1:2", "Cmd": ["sh"],
            "Entrypoint": ["/e"], "WorkingDir": "/w", "StopSignal": "SIGQUIT", "Volumes": {"/v": {}},
            "ExposedPorts": {"80/tcp": {}}}, "rootfs": {"diff_ids": []}}"#;
        let (config, _) = ImageConfig::parse(text).unwrap();
        assert_eq!((config.user.as_str(), config.cmd[0].as_str()), ("1:2", "sh"));
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!((config.volumes[0].as_str(), config.exposed_ports[0].as_str()), ("/v", "80/tcp"));
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let other = br#"{"os": "windows", "rootfs": {}}"#;
        assert!(matches!(ImageConfig::parse(other), Err(BadConfig::OperatingSystem(_))));
        for bad in [&b"{}"[..], b"[]", br#"{"rootfs": {"diff_ids": ["sha256:../../x"]}}"#] {
            assert!(ImageConfig::parse(bad).is_err());
        }
    }
}
