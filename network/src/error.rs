//! What can fail here, named by what a caller could do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why an attachment could not be made, taken away or checked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("network is not ready")]
    NotReady(#[source] NotReady),
    #[error("{field} {value:?} is not valid: {rule}")]
    Invalid { field: &'static str, value: String, rule: &'static str },
    #[error("CNI plugin {plugin:?} is in none of {}", list(.bin_dirs))]
    PluginNotFound { plugin: String, bin_dirs: Vec<PathBuf> },
    #[error("CNI plugin {plugin} refused {verb} of network {network}: {refusal}")]
    Refused { plugin: String, verb: &'static str, network: String, refusal: Refusal },
    #[error(
        "network {network} has no free address: a pod must end first, or its range be widened \
         (CNI plugin {plugin}: {refusal})"
    )]
    NoFreeAddress { network: String, plugin: String, refusal: Refusal },
    #[error("CNI plugin {plugin} did not finish {verb} of network {network} within {limit:?} and was killed")]
    TimedOut { plugin: String, verb: &'static str, network: String, limit: Duration },
    #[error(
        "CNI plugin {plugin} failed {verb} of network {network} without saying why (exit {exit}): {said}"
    )]
    Crashed { plugin: String, verb: &'static str, network: String, exit: String, said: String },
    #[error(
        "CNI plugin {plugin} answered {verb} of network {network} with something that is not a result: {said}"
    )]
    Garbage { plugin: String, verb: &'static str, network: String, said: String },
    #[error("running CNI plugin {plugin}")]
    Spawn { plugin: String, source: io::Error },
    #[error("{doing} {}", .path.display())]
    Record { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{doing} {}", .path.display())]
    Watch { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("pod_cidr {value:?}: {reason}")]
    BadRanges { value: String, reason: String },
    #[error("network template {}: {reason}", .template.display())]
    Template { template: PathBuf, reason: String },
    #[error("sandbox {sandbox_id} has no attachment")]
    Unknown { sandbox_id: String },
    #[error("network {network} gave sandbox {sandbox_id} no address")]
    NoAddress { network: String, sandbox_id: String },
    /// Taking away went on past these.
    #[error("{} plugins failed, the first: {}", .0.len(), first(.0))]
    Several(Vec<Error>),
}

/// The error object of the CNI specification.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Refusal {
    pub code: u32,
    #[serde(default)]
    pub msg: String,
    #[serde(default)]
    pub details: String,
}

/// Why no pod can be attached now, in words for the node's condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    #[error("no CNI configuration in {}: put a .conflist file there", .conf_dir.display())]
    NoConfiguration { conf_dir: PathBuf },
    #[error("no CNI network {name:?} in {}", .conf_dir.display())]
    NoSuchNetwork { name: String, conf_dir: PathBuf },
    #[error("CNI configuration {} is not usable: {reason}", .file.display())]
    BadConfiguration { file: PathBuf, reason: String },
    #[error("CNI plugin {plugin:?} of network {network} is in none of {}", list(.bin_dirs))]
    PluginNotFound { plugin: String, network: String, bin_dirs: Vec<PathBuf> },
    #[error("CNI plugin {plugin} speaks versions {spoken}; network {network} is written for {offered}")]
    Version { plugin: String, network: String, offered: String, spoken: String },
    #[error("CNI plugin {plugin} of network {network} says it is not ready: {reason}")]
    Status { plugin: String, network: String, reason: String },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (code {})", self.msg, self.code)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl Refusal {
    /// Whether every address is taken. The specification has no code for it, so the words decide of the address
    /// managers that are met most: host-local, whereabouts, Calico.
    pub(crate) fn is_exhaustion(&self) -> bool {
        const WORDS: [&str; 4] = [
            "no ip addresses available in range set",
            "could not allocate ip in range",
            "no ips available in pools",
            "no more free affine blocks",
        ];
        let said = format!("{} {}", self.msg, self.details).to_lowercase();
        WORDS.iter().any(|words| said.contains(words))
    }
}

fn list(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn first(errors: &[Error]) -> String {
    errors.first().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_address_managers_that_have_none_left_are_known() {
        let said = |msg: &str, details: &str| Refusal { code: 999, msg: msg.into(), details: details.into() };
        let host_local =
            "failed to allocate for range 0: no IP addresses available in range set: 10.1.0.2-10.1.0.3";
        assert!(said(host_local, "").is_exhaustion());
        assert!(said("add", "Could not allocate IP in range: ip: 10.1.0.2 / - 10.1.0.3").is_exhaustion());
        let calico = "failed to request IPv4 addresses: Assigned 0 out of 1 requested IPv4 addresses; ";
        assert!(said(&format!("{calico}No IPs available in pools: [10.99.9.0/29]"), "").is_exhaustion());
        assert!(said(&format!("{calico}No more free affine blocks"), "").is_exhaustion());
        let static_address = "requested IP address 10.1.0.9 is not available in range set 10.1.0.2-10.1.0.3";
        assert!(!said(static_address, "").is_exhaustion());
        assert!(!said("no such bridge", "").is_exhaustion());
    }
}
