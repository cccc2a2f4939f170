//! What a sandbox is to be: the request in; namespaces, network wishes and files out. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use conmon_protocol::{CgroupDriver, IdMap, IdMaps, MonitorCgroup, PidSharing, PodPlan, Sharing};
use network::{Dns, PortMapping, Protocol};
use proto::v1::{self, NamespaceMode};
use serde::{Deserialize, Serialize};

use crate::selinux::{self, Trust};

#[cfg(test)]
mod tests;

/// Everything that the plan of a sandbox depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub sandbox_id: &'a str,
    pub request: &'a v1::RunPodSandboxRequest,
    pub pod_dir: &'a std::path::Path,
    pub handlers: &'a crate::config::RuntimeSection,
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
/// What the kernel takes in one map file line by line is more; the kubelet sends one.
const ID_MAPS_MAX: usize = 32;

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

/// The pod in the words of the network.
pub fn network_pod(plan: &Plan, config: &v1::PodSandboxConfig) -> network::Pod {
    let metadata = config.metadata.clone().unwrap_or_default();
    network::Pod {
        sandbox_id: plan.pod.sandbox_id.clone(),
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        netns: plan.pod.pod_dir.join("ns/net"),
        port_mappings: plan.port_mappings.clone(),
        dns: config.dns_config.as_ref().map(|dns| Dns {
            nameservers: dns.servers.clone(),
            domain: None,
            search: dns.searches.clone(),
            options: dns.options.clone(),
        }),
        cgroup_parent: Some(plan.pod.cgroup_parent.clone()).filter(|parent| !parent.is_empty()),
        annotations: config.annotations.clone().into_iter().collect::<BTreeMap<_, _>>(),
        ..network::Pod::default()
    }
}

/// Which namespaces the pod owns.
struct Spaces {
    network: Sharing,
    ipc: Sharing,
    uts: Sharing,
    pid: PidSharing,
    user: Option<IdMaps>,
}

impl Spaces {
    fn of(options: &v1::NamespaceOption) -> Result<Self, Invalid> {
        let network = sharing("namespace_options.network", options.network)?;
        let user = user("namespace_options.userns_options", options.userns_options.as_ref())?;
        if user.is_some() && network == Sharing::Host {
            let what = "a user namespace in a pod of the host's network".into();
            return Err(Invalid::Unsupported { field: "namespace_options.userns_options", what });
        }
        Ok(Self {
            network,
            ipc: sharing("namespace_options.ipc", options.ipc)?,
            // The host's name belongs to the host's network (CRI: hostname is for pods with their own).
            uts: network,
            pid: pid("namespace_options.pid", options.pid)?,
            user,
        })
    }
}

fn mode(field: &'static str, mode: i32) -> Result<NamespaceMode, Invalid> {
    NamespaceMode::try_from(mode).map_err(|_| wrong(field, format!("{mode} is not a namespace mode")))
}

fn sharing(field: &'static str, number: i32) -> Result<Sharing, Invalid> {
    match mode(field, number)? {
        NamespaceMode::Pod => Ok(Sharing::Own),
        NamespaceMode::Node => Ok(Sharing::Host),
        NamespaceMode::Container | NamespaceMode::Target => Err(wrong(field, "a sandbox takes POD or NODE")),
    }
}

fn pid(field: &'static str, number: i32) -> Result<PidSharing, Invalid> {
    match mode(field, number)? {
        NamespaceMode::Pod => Ok(PidSharing::Pod),
        NamespaceMode::Container => Ok(PidSharing::Container),
        NamespaceMode::Node => Ok(PidSharing::Host),
        NamespaceMode::Target => Err(wrong(field, "a sandbox takes POD, CONTAINER or NODE")),
    }
}

fn user(field: &'static str, options: Option<&v1::UserNamespace>) -> Result<Option<IdMaps>, Invalid> {
    let Some(options) = options else { return Ok(None) };
    match mode(field, options.mode)? {
        NamespaceMode::Node if options.uids.is_empty() && options.gids.is_empty() => Ok(None),
        NamespaceMode::Node => Err(wrong(field, "the host's user namespace takes no mappings")),
        NamespaceMode::Pod => {
            Ok(Some(IdMaps { uids: maps(field, &options.uids)?, gids: maps(field, &options.gids)? }))
        }
        NamespaceMode::Container | NamespaceMode::Target => Err(wrong(field, "a sandbox takes POD or NODE")),
    }
}

fn maps(field: &'static str, asked: &[v1::IdMapping]) -> Result<Vec<IdMap>, Invalid> {
    if asked.is_empty() || asked.len() > ID_MAPS_MAX {
        return Err(wrong(
            field,
            format!("{} mappings, and a user namespace takes 1 to {ID_MAPS_MAX}", asked.len()),
        ));
    }
    let map = |m: &v1::IdMapping| {
        let fits = |start: u32| start.checked_add(m.length).is_some();
        if m.length == 0 || !fits(m.host_id) || !fits(m.container_id) {
            let reason = format!("{}:{}:{} is not a range of IDs", m.container_id, m.host_id, m.length);
            return Err(wrong(field, reason));
        }
        Ok(IdMap { container_id: m.container_id, host_id: m.host_id, length: m.length })
    };
    let maps = asked.iter().map(map).collect::<Result<Vec<_>, _>>()?;
    if overlap(&maps, |m| m.container_id) || overlap(&maps, |m| m.host_id) {
        return Err(wrong(field, "two mappings overlap"));
    }
    if !maps.iter().any(|m| m.container_id == 0) {
        return Err(wrong(field, "no mapping has the container's ID 0, which makes the container"));
    }
    Ok(maps)
}

fn overlap(maps: &[IdMap], start: impl Fn(&IdMap) -> u32) -> bool {
    let mut ranges: Vec<(u32, u32)> = maps.iter().map(|m| (start(m), start(m) + m.length)).collect();
    ranges.sort_unstable();
    ranges.windows(2).any(|pair| pair[0].1 > pair[1].0)
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

fn port_mappings(asked: &[v1::PortMapping], network: Sharing) -> Result<Vec<PortMapping>, Invalid> {
    // Port 0 on the host means: only tells that the container listens (CRI). On the host's network the
    // container's port is the host's already.
    let wanted = asked.iter().filter(|mapping| mapping.host_port != 0 && network == Sharing::Own);
    wanted.map(port_mapping).collect()
}

fn port_mapping(asked: &v1::PortMapping) -> Result<PortMapping, Invalid> {
    const FIELD: &str = "config.port_mappings";
    let port = |number: i32| {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        port.ok_or_else(|| wrong(FIELD, format!("{number} is not a port")))
    };
    let protocol = match v1::Protocol::try_from(asked.protocol) {
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(v1::Protocol::Udp) => Protocol::Udp,
        Ok(v1::Protocol::Sctp) => Protocol::Sctp,
        Err(_) => return Err(wrong(FIELD, format!("{} is not a protocol", asked.protocol))),
    };
    let host_ip = match asked.host_ip.as_str() {
        "" => None,
        ip => Some(ip.parse::<IpAddr>().map_err(|_| wrong(FIELD, format!("{ip:?} is not an IP address")))?),
    };
    Ok(PortMapping {
        protocol,
        container_port: port(asked.container_port)?,
        host_port: port(asked.host_port)?,
        host_ip,
    })
}

/// No wishes at all: as the host does.
fn resolv_conf(dns: Option<&v1::DnsConfig>, host: &str) -> Result<String, Invalid> {
    let Some(dns) = dns.filter(|dns| **dns != v1::DnsConfig::default()) else { return Ok(host.to_string()) };
    let words = dns.servers.iter().chain(&dns.searches).chain(&dns.options);
    if let Some(word) = words.into_iter().find(|word| word.contains(|c: char| c.is_control())) {
        return Err(wrong("config.dns_config", format!("{word:?} would break the lines of resolv.conf")));
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(text)
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
