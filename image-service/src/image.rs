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
    /// `sha256:<digest of the configuration>`.
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
    /// The unpacked layers, from the bottom up.
    pub layers: Vec<Layer>,
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
