//! What a device changes about a container.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The stages at which the OCI specification lets hooks run.
const STAGES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// `containerEdits` of a file or of one of its devices.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ContainerEdits {
    env: Vec<String>,
    device_nodes: Vec<NodeEdit>,
    net_devices: Vec<NetDevice>,
    mounts: Vec<MountEdit>,
    hooks: Vec<Hook>,
    additional_gids: Vec<u32>,
    intel_rdt: Option<Rdt>,
}

/// All edits of all devices that a container asks for, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edits {
    pub env: Vec<String>,
    pub nodes: Vec<NodeEdit>,
    pub net_devices: Vec<NetDevice>,
    pub mounts: Vec<MountEdit>,
    pub hooks: Vec<Hook>,
    pub additional_gids: Vec<u32>,
    pub rdt: Option<Rdt>,
}

/// A device node. What is not said is as the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeEdit {
    /// In the container.
    pub path: PathBuf,
    /// On the host; empty: the same.
    pub host_path: PathBuf,
    #[serde(rename = "type")]
    pub kind: String,
    pub major: Option<i64>,
    pub minor: Option<i64>,
    pub file_mode: Option<u32>,
    /// Empty: all.
    pub permissions: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// An interface of the host that moves into the container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetDevice {
    pub host_interface_name: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MountEdit {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    #[serde(default)]
    pub options: Vec<String>,
    #[serde(default, rename = "type")]
    pub kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    #[serde(rename = "hookName")]
    pub stage: String,
    pub path: PathBuf,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    pub timeout: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rdt {
    #[serde(rename = "closID")]
    pub clos_id: Option<String>,
    pub l3_cache_schema: Option<String>,
    pub mem_bw_schema: Option<String>,
    pub schemata: Option<Vec<String>>,
    #[serde(rename = "enableCMT")]
    pub enable_cmt: Option<bool>,
    #[serde(rename = "enableMBM")]
    pub enable_mbm: Option<bool>,
}

impl ContainerEdits {
    /// What every container with it would fail over.
    pub(super) fn check(&self) -> Result<(), String> {
        let named = |entry: &String| entry.split_once('=').is_some_and(|(name, _)| !name.is_empty());
        if let Some(entry) = self.env.iter().find(|entry| !named(entry)) {
            return Err(format!("env {entry:?} is not NAME=value"));
        }
        for node in &self.device_nodes {
            absolute("deviceNodes.path", &node.path)?;
            if !matches!(node.kind.as_str(), "" | "b" | "c" | "u") {
                return Err(format!("deviceNodes.type {:?} is none of b, c and u", node.kind));
            }
            if !node.permissions.chars().all(|letter| "rwm".contains(letter)) {
                return Err(format!(
                    "deviceNodes.permissions {:?} is not made of r, w and m",
                    node.permissions
                ));
            }
        }
        for mount in &self.mounts {
            absolute("mounts.containerPath", &mount.container_path)?;
            if mount.host_path.as_os_str().is_empty() {
                return Err("mounts.hostPath is empty".to_owned());
            }
        }
        for hook in &self.hooks {
            absolute("hooks.path", &hook.path)?;
            if !STAGES.contains(&hook.stage.as_str()) {
                return Err(format!("hooks.hookName {:?} is none of {STAGES:?}", hook.stage));
            }
        }
        for device in &self.net_devices {
            if device.host_interface_name.is_empty() || device.name.is_empty() {
                return Err("netDevices: hostInterfaceName and name must be given".to_owned());
            }
        }
        Ok(())
    }
}

fn absolute(field: &str, path: &Path) -> Result<(), String> {
    if path.is_absolute() { Ok(()) } else { Err(format!("{field} {:?} is not absolute", path.display())) }
}

impl Edits {
    pub(super) fn add(&mut self, more: &ContainerEdits) {
        self.env.extend(more.env.iter().cloned());
        self.nodes.extend(more.device_nodes.iter().cloned());
        self.net_devices.extend(more.net_devices.iter().cloned());
        self.mounts.extend(more.mounts.iter().cloned());
        self.hooks.extend(more.hooks.iter().cloned());
        self.additional_gids.extend(more.additional_gids.iter().filter(|gid| **gid != 0));
        // There is one class of service a container; the last word counts.
        self.rdt = more.intel_rdt.clone().or(self.rdt.take());
    }
}
