//! `config.json`: the OCI runtime specification 1.3 for Linux as serde structs, and nothing else.
//!
//! Unknown fields are ignored, as the specification asks; `null` reads as absent. What the values mean is
//! decided in `plan`.

mod hooks;
mod linux;
mod locate;
mod process;
mod resources;
mod seccomp;

pub use hooks::{Hook, Hooks};
pub use linux::{
    Device, IdMapping, IntelRdt, Linux, MemoryPolicy, Namespace, NamespaceKind, NetDevice, Personality,
    TimeOffset,
};
pub use process::{Capabilities, ConsoleSize, ExecCpuAffinity, IoPriority, Process, Rlimit, Scheduler, User};
pub use resources::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, InterfacePriority, Memory, Network, Pids, Rdma, Resources,
    ThrottleDevice, WeightDevice,
};
pub use seccomp::{Action, Condition, Operator, Seccomp, SyscallRule};

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// The version of the specification that these structs follow.
pub const OCI_VERSION: &str = "1.3.0";

/// The whole of `config.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub oci_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
}

/// `root`: where the container's file system is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Root {
    pub path: PathBuf,
    pub readonly: bool,
}

/// One entry of `mounts`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    pub destination: PathBuf,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
}

/// A text that is not what it should be, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}{source}{}", place(path), crate::error::section::cite(path))]
pub struct Malformed {
    /// Such as `linux.namespaces[0].type`; empty where the text is no JSON from the start.
    pub path: String,
    pub source: serde_json::Error,
}

fn place(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

/// Reads `config.json`, or a part of it.
///
/// # Errors
/// It is no JSON, or not what the specification says; with the path of the value that is wrong.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Malformed> {
    serde_json::from_slice(text)
        .map_err(|source| Malformed { path: locate::path(text, source.line(), source.column()), source })
}

/// Go writes `null` for an empty list; it means the same as an absent one.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_specification_is_read() {
        let spec: Spec = serde_json::from_str(include_str!("spec/example.json")).unwrap();
        let process = spec.process.unwrap();
        assert_eq!(process.console_size, Some(ConsoleSize { height: 25, width: 80 }));
        assert_eq!(process.user.additional_gids, [5, 6]);
        assert_eq!(process.exec_cpu_affinity.unwrap().last.as_deref(), Some("0-1"));
        assert_eq!(spec.hooks.unwrap().create_runtime[0].timeout, Some(7));
        let linux = spec.linux.unwrap();
        assert_eq!(linux.uid_mappings, [IdMapping { container_id: 0, host_id: 1000, size: 10 }]);
        assert_eq!(linux.namespaces[1].kind, NamespaceKind::Time);
        assert_eq!(linux.time_offsets["monotonic"].nanosecs, 3);
        assert_eq!(linux.net_devices["eth0"].name.as_deref(), Some("inside"));
        assert_eq!(linux.intel_rdt.unwrap().clos_id.as_deref(), Some("guaranteed"));
        let resources = linux.resources.unwrap();
        assert_eq!(resources.memory.unwrap().kernel_tcp, Some(9));
        assert_eq!(resources.block_io.unwrap().throttle_write_iops_device[0].rate, 300);
        assert_eq!(resources.network.unwrap().class_id, Some(1_048_577));
        assert_eq!(resources.rdma["mlx5_1"].hca_handles, Some(3));
        let seccomp = linux.seccomp.unwrap();
        assert_eq!(seccomp.syscalls[0].args[0].op, Operator::MaskedEqual);
    }

    #[test]
    fn null_and_unknown_fields_are_as_if_absent() {
        let text = r#"{"ociVersion": "1.0.2", "mounts": null, "hooks": null, "linux": {"namespaces": null, "devices": null,
            "sysctl": null, "resources": {"devices": null}}, "vm": {"x": 1}, "future": true}"#;
        let spec: Spec = serde_json::from_str(text).unwrap();
        assert!(spec.mounts.is_empty() && spec.linux.unwrap().namespaces.is_empty());
    }

    #[test]
    fn a_word_that_the_specification_does_not_have_is_an_error() {
        for text in [
            r#"{"linux": {"namespaces": [{"type": "nosuch"}]}}"#,
            r#"{"linux": {"seccomp": {"defaultAction": "SCMP_ACT_NOSUCH"}}}"#,
            r#"{"process": {"user": {"uid": -1}}}"#,
            r#"{"process": {"user": {"uid": 4294967296}}}"#,
            r#"{"process": {"user": {"uid": "root"}}}"#,
        ] {
            assert!(serde_json::from_str::<Spec>(text).is_err(), "{text}");
        }
    }
}
