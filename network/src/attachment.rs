//! A pod's attachment: what the plugins gave it.

use std::net::IpAddr;

use crate::pod::Dns;

/// What the plugins gave a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Primary first.
    pub ips: Vec<IpAddr>,
    /// The interface inside the pod.
    pub interface: String,
    /// The network's name.
    pub network: String,
    /// Resolver settings that the plugins answered.
    pub dns: Dns,
}
