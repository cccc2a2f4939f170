//! What a caller says of the pod that it wants attached.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bandwidth::Bandwidth;

/// The pod to attach: who it is, where its namespace is, what it asks of the network.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// Becomes `CNI_CONTAINERID`; letters, digits, `_`, `.` and `-` only.
    pub sandbox_id: String,
    pub name: String,
    pub namespace: String,
    pub uid: String,
    /// Path of the pinned network namespace.
    pub netns: PathBuf,
    pub port_mappings: Vec<PortMapping>,
    pub dns: Option<Dns>,
    /// None: what the annotations ask for.
    pub bandwidth: Option<Bandwidth>,
    /// Address ranges for the IPAM plugin, as the `ipRanges` capability wants them. Empty: those of the node.
    pub ip_ranges: Vec<Vec<serde_json::Value>>,
    /// None: what the annotations ask for.
    pub mac: Option<String>,
    /// Names by which others on the network may find the pod.
    pub aliases: Vec<String>,
    pub cgroup_parent: Option<String>,
    pub annotations: BTreeMap<String, String>,
}

impl Pod {
    /// What the networks after the first hear: host ports lead to the pod's first address, the node's ranges are of the
    /// cluster's network, and no two interfaces should have one hardware address.
    pub(crate) fn beyond_first_network(&self) -> Pod {
        Pod { port_mappings: Vec::new(), ip_ranges: Vec::new(), mac: None, ..self.clone() }
    }
}

/// One port of the host that leads to one of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// The transport of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Resolver settings, both as asked of a plugin and as it answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    #[serde(alias = "servers", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(alias = "searches", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}
