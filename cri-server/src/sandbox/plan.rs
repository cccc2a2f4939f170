//! What a sandbox is to be: the request in; namespaces, network wishes and files out. Pure.

use std::path::PathBuf;

use conmon_protocol::{CgroupDriver, MonitorCgroup, PidSharing, PodPlan, Sharing};
use network::PortMapping;
use proto::v1;
use serde::{Deserialize, Serialize};

use crate::handlers::Handlers;
use crate::selinux::{self, Trust};

mod net;
mod spaces;
#[cfg(test)]
mod tests;

pub use net::network_pod;

use net::{port_mappings, resolv_conf};
use spaces::Spaces;

/// Everything that the plan of a sandbox depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub sandbox_id: &'a str,
    pub request: &'a v1::RunPodSandboxRequest,
    pub pod_dir: &'a std::path::Path,
    pub handlers: &'a crate::config::RuntimeSection,
    /// What they can do.
    pub known: &'a Handlers,
    pub host: &'a Host<'a>,
}

/// What matters of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    pub hostname: &'a str,
    /// The host's own `/etc/resolv.conf`.
    pub resolv_conf: &'a str,
    pub selinux: Selinux<'a>,
}

/// Whether pods are labelled here.
#[derive(Debug, Clone, Copy)]
pub enum Selinux<'a> {
    /// The kernel has none.
    Absent,
    /// The operator wants none.
    Unwanted,
    /// `free`: a level that no pod has.
    Used { policy: &'a selinux::Policy, free: &'a selinux::Level },
}

/// What is to be made. Stored as the sandbox's `plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub pod: PodPlan,
    /// The name of a runtime handler, never empty.
    pub handler: String,
    /// The name that `uname` gives inside.
    pub hostname: String,
    pub port_mappings: Vec<PortMapping>,
    /// Text of the pod's `resolv.conf`.
    pub resolv_conf: String,
    pub created_at_ns: i64,
    /// SELinux; none where it is off.
    #[serde(default)]
    pub labels: Option<selinux::PodLabels>,
}

/// Why a sandbox cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("{field}: {reason}")]
    Wrong { field: &'static str, reason: String },
    #[error("{field}: {what} is not supported by berth yet")]
    Unsupported { field: &'static str, what: String },
}

/// A kernel's hostname is no longer (`__NEW_UTS_LEN`).
const HOSTNAME_MAX: usize = 64;
/// Asks the kernel about a plan's labels: only its policy knows which user may have which role, and what there is.
///
/// # Errors
/// It does not know one.
pub fn check_labels(plan: &Plan) -> Result<(), Invalid> {
    let Some(labels) = &plan.labels else { return Ok(()) };
    let known = |label: &&selinux::Label| selinux::policy::is_known(&label.to_string());
    match [&labels.process, &labels.file].into_iter().find(|label| !known(label)) {
        None => Ok(()),
        Some(label) => Err(wrong(
            "config.linux.security_context.selinux_options",
            format!("the policy of this node knows no context {label}; seinfo(1) lists what it has"),
        )),
    }
}

/// Decides what to make. The time of making is the caller's to fill in.
pub fn plan(inputs: &Inputs<'_>) -> Result<Plan, Invalid> {
    let config = inputs.request.config.as_ref().ok_or_else(|| wrong("config", "is missing"))?;
    check_metadata(config)?;
    if config.windows.is_some() {
        return Err(unsupported("config.windows", "a Windows pod"));
    }
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    let spaces = Spaces::of(&security.namespace_options.clone().unwrap_or_default())?;
    let labels = labels(&security, &spaces, inputs.host)?;
    let sysctls = sysctls(&linux.sysctls, &spaces)?;
    let hostname = hostname(config, &spaces, inputs.host)?;
    let handler = handler(&inputs.request.runtime_handler, inputs.handlers)?;
    check_users(&spaces, &handler, inputs.known)?;
    let pod = PodPlan {
        sandbox_id: inputs.sandbox_id.into(),
        pod_dir: inputs.pod_dir.into(),
        hostname: (spaces.uts == Sharing::Own).then(|| hostname.clone()),
        network: spaces.network,
        ipc: spaces.ipc,
        uts: spaces.uts,
        pid: spaces.pid,
        user: spaces.user,
        sysctls,
        shm_size_bytes: None,
        cgroup_parent: cgroup_parent(&linux.cgroup_parent, inputs.handlers.cgroup_driver)?,
        cgroup_driver: inputs.handlers.cgroup_driver,
        monitor_cgroup: monitor_cgroup(&handler, inputs.handlers),
        process_label: labels.as_ref().map(|labels| labels.process.to_string()),
        file_label: labels.as_ref().map(|labels| labels.file.to_string()),
    };
    Ok(Plan {
        pod,
        handler,
        hostname,
        port_mappings: port_mappings(&config.port_mappings, spaces.network)?,
        resolv_conf: resolv_conf(config.dns_config.as_ref(), inputs.host.resolv_conf)?,
        created_at_ns: 0,
        labels,
    })
}

/// The kubelet asks so only where Status says that it may; others who ask are told, before volumes show as nobody's.
fn check_users(spaces: &Spaces, handler: &str, known: &Handlers) -> Result<(), Invalid> {
    if spaces.user.is_none() || known.features(handler).user_namespaces {
        return Ok(());
    }
    let reason = format!(
        "the runtime handler {handler} does not say by its command `features` that it can map the users of mounts; \
         use a newer runtime, or the handler {}",
        crate::config::IN_TREE
    );
    Err(wrong("config.linux.security_context.namespace_options.userns_options", reason))
}

fn check_metadata(config: &v1::PodSandboxConfig) -> Result<(), Invalid> {
    let metadata = config.metadata.as_ref().ok_or_else(|| wrong("config.metadata", "is missing"))?;
    if metadata.name.is_empty() || metadata.namespace.is_empty() {
        return Err(wrong("config.metadata", "name and namespace must not be empty"));
    }
    if metadata.name.len() + metadata.namespace.len() + metadata.uid.len() > 4096 {
        return Err(wrong("config.metadata", "names are too long"));
    }
    Ok(())
}

/// Labels mean nothing where the kernel has no SELinux, and the peers take them there as no wish.
fn labels(
    security: &v1::LinuxSandboxSecurityContext,
    spaces: &Spaces,
    host: &Host<'_>,
) -> Result<Option<selinux::PodLabels>, Invalid> {
    const FIELD: &str = "config.linux.security_context";
    let asked = security.selinux_options.as_ref();
    match host.selinux {
        Selinux::Unwanted if selinux::is_asked(asked) => {
            Err(wrong(FIELD, "selinux_options: container.selinux in berth.toml is \"off\""))
        }
        Selinux::Absent | Selinux::Unwanted => Ok(None),
        Selinux::Used { policy, free } => {
            let is_host = spaces.pid == PidSharing::Host || spaces.ipc == Sharing::Host;
            let trust = if is_host { Trust::Host } else { Trust::Confined };
            let labels = selinux::of_pod(policy, &asked.cloned().unwrap_or_default(), trust, free);
            labels.map(Some).map_err(|error| wrong(FIELD, error.to_string()))
        }
    }
}

/// Sysctls that belong to the IPC namespace; all of `net.` belongs to the network's, and two to UTS.
const IPC_SYSCTLS: [&str; 6] =
    ["kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax"];
const IPC_SYSCTLS_ALSO: [&str; 2] = ["kernel.shmmni", "kernel.shm_rmid_forced"];

fn sysctls(
    asked: &std::collections::HashMap<String, String>,
    spaces: &Spaces,
) -> Result<Vec<(String, String)>, Invalid> {
    let mut sorted: Vec<(String, String)> =
        asked.iter().map(|(name, value)| (name.replace('/', "."), value.clone())).collect();
    sorted.sort();
    for (name, _) in &sorted {
        check_sysctl(name, spaces)?;
    }
    Ok(sorted)
}

fn check_sysctl(name: &str, spaces: &Spaces) -> Result<(), Invalid> {
    let is_ipc =
        IPC_SYSCTLS.contains(&name) || IPC_SYSCTLS_ALSO.contains(&name) || name.starts_with("fs.mqueue.");
    let (known, sharing, space) = match name {
        _ if name.starts_with("net.") => (true, spaces.network, "network"),
        _ if is_ipc => (true, spaces.ipc, "IPC"),
        "kernel.domainname" => (true, spaces.uts, "UTS"),
        _ => (false, Sharing::Host, ""),
    };
    if !known || name.contains("..") {
        return Err(wrong("config.linux.sysctls", format!("{name} is not a sysctl of a namespace")));
    }
    if sharing == Sharing::Host {
        let reason = format!("{name} would change the host: the pod uses the host's {space} namespace");
        return Err(wrong("config.linux.sysctls", reason));
    }
    Ok(())
}

fn hostname(config: &v1::PodSandboxConfig, spaces: &Spaces, host: &Host<'_>) -> Result<String, Invalid> {
    if config.hostname.len() > HOSTNAME_MAX {
        return Err(wrong("config.hostname", format!("is longer than {HOSTNAME_MAX} bytes")));
    }
    if config.hostname.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(wrong("config.hostname", "has characters that a name cannot have"));
    }
    Ok(match spaces.uts {
        Sharing::Own if !config.hostname.is_empty() => config.hostname.clone(),
        Sharing::Own | Sharing::Host => host.hostname.to_string(),
    })
}

/// Where the pod's cgroup is. The kubelet has made it.
pub(crate) fn cgroup_parent(parent: &str, driver: CgroupDriver) -> Result<String, Invalid> {
    const FIELD: &str = "config.linux.cgroup_parent";
    if driver == CgroupDriver::Systemd {
        return if parent.is_empty() { Ok(String::new()) } else { slice_path(FIELD, parent) };
    }
    if parent.ends_with(".slice") {
        let reason = format!(
            "{parent} is a slice, and berth's cgroup driver is cgroupfs: set runtime.cgroup_driver = \"systemd\" \
             in berth.toml, or cgroupDriver: cgroupfs in the kubelet's configuration"
        );
        return Err(wrong(FIELD, reason));
    }
    if parent.split('/').any(|part| part == "..") || parent.contains('\0') {
        return Err(wrong(FIELD, "must not lead upwards"));
    }
    if !parent.is_empty() && !parent.starts_with('/') {
        return Ok(format!("/{parent}"));
    }
    Ok(parent.to_string())
}

/// The kubelet names a slice, with the slices above it or without: systemd.slice(5) says where it is.
fn slice_path(field: &'static str, parent: &str) -> Result<String, Invalid> {
    let slice = parent.rsplit('/').next().unwrap_or(parent);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:\\".contains(&byte);
    let parts: Vec<&str> = slice.strip_suffix(".slice").unwrap_or_default().split('-').collect();
    if parts.iter().any(|part| part.is_empty()) || !slice.bytes().all(plain) || slice.len() > 255 {
        let reason =
            format!("{parent:?} is no slice such as a-b.slice, which the systemd cgroup driver wants");
        return Err(wrong(field, reason));
    }
    Ok((1..=parts.len()).map(|count| format!("/{}.slice", parts[..count].join("-"))).collect())
}

fn monitor_cgroup(handler: &str, known: &crate::config::RuntimeSection) -> Option<MonitorCgroup> {
    match known.handlers.get(handler)?.monitor_cgroup.as_str() {
        "" => None,
        crate::config::IN_POD => Some(MonitorCgroup::Pod),
        path => Some(MonitorCgroup::Named(path.to_owned())),
    }
}

fn handler(name: &str, known: &crate::config::RuntimeSection) -> Result<String, Invalid> {
    let name = if name.is_empty() { &known.default_handler } else { name };
    if name != crate::config::IN_TREE && !known.handlers.contains_key(name) {
        let reason = format!("no handler is named {name:?}; berth.toml lists them under runtime.handlers");
        return Err(wrong("runtime_handler", reason));
    }
    Ok(name.to_string())
}

fn wrong(field: &'static str, reason: impl Into<String>) -> Invalid {
    Invalid::Wrong { field, reason: reason.into() }
}

fn unsupported(field: &'static str, what: &str) -> Invalid {
    Invalid::Unsupported { field, what: what.into() }
}

/// Where the pod's directory is, for those who only have the plan.
impl Plan {
    /// The pod's network namespace; `None` is the host's.
    pub fn netns(&self) -> Option<PathBuf> {
        (self.pod.network == Sharing::Own).then(|| self.pod.pod_dir.join("ns/net"))
    }
}
