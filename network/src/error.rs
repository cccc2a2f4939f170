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

fn list(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn first(errors: &[Error]) -> String {
    errors.first().map(ToString::to_string).unwrap_or_default()
}
