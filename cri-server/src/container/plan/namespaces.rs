//! Which namespaces the container joins and which it gets of its own.

use std::path::{Path, PathBuf};

use conmon_protocol::{IdMap, PidSharing, Sharing};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType};
use proto::v1::{LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, UserNamespace};

use super::gather::CgroupVersion;
use super::invalid::require;
use super::{Inputs, Invalid};

const FIELD: &str = "security_context.namespace_options";

pub(super) fn namespaces(
    inputs: &Inputs<'_>,
    security: &LinuxContainerSecurityContext,
) -> Result<Vec<LinuxNamespace>, Invalid> {
    let pod = inputs.sandbox.pod;
    let options = security.namespace_options.clone().unwrap_or_default();
    agree("network", options.network, pod.network)?;
    agree("ipc", options.ipc, pod.ipc)?;
    agree_on_users(&options, inputs)?;
    let pins = pod.pod_dir.join("ns");
    let mut namespaces = vec![namespace(LinuxNamespaceType::Mount, None)];
    namespaces.extend(joined(pod.network, LinuxNamespaceType::Network, &pins, "net"));
    namespaces.extend(joined(pod.ipc, LinuxNamespaceType::Ipc, &pins, "ipc"));
    namespaces.extend(joined(pod.uts, LinuxNamespaceType::Uts, &pins, "uts"));
    namespaces.extend(pid(inputs, &security.namespace_options, &pins)?);
    if pod.user.is_some() {
        namespaces.push(namespace(LinuxNamespaceType::User, Some(pins.join("user"))));
    }
    if inputs.host.machine.cgroup == CgroupVersion::V2 && !security.privileged {
        namespaces.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    Ok(namespaces)
}

fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}

/// The pod's pinned namespace; the host's needs no entry.
fn joined(sharing: Sharing, kind: LinuxNamespaceType, pins: &Path, pin: &str) -> Option<LinuxNamespace> {
    match sharing {
        Sharing::Own => Some(namespace(kind, Some(pins.join(pin)))),
        Sharing::Host => None,
    }
}

fn mode(name: &str, number: i32) -> Result<NamespaceMode, Invalid> {
    let unknown = |_| Invalid::wrong(format!("{FIELD}.{name}"), format!("there is no mode {number}"));
    NamespaceMode::try_from(number).map_err(unknown)
}

/// Network and IPC are the sandbox's to decide. POD is also what a client sends that says nothing.
fn agree(name: &str, number: i32, pod: Sharing) -> Result<(), Invalid> {
    let agrees = match mode(name, number)? {
        NamespaceMode::Pod => true,
        NamespaceMode::Node => pod == Sharing::Host,
        NamespaceMode::Container | NamespaceMode::Target => false,
    };
    require(agrees, &format!("{FIELD}.{name}"), || {
        "the sandbox decides this namespace, and it decided otherwise".to_owned()
    })
}

/// A container that says nothing at all about namespaces lives as its pod does.
fn pid(
    inputs: &Inputs<'_>,
    options: &Option<NamespaceOption>,
    pins: &Path,
) -> Result<Option<LinuxNamespace>, Invalid> {
    let pod = inputs.sandbox.pod.pid;
    let field = format!("{FIELD}.pid");
    let wish = match options {
        None => pod,
        Some(options) => match mode("pid", options.pid)? {
            NamespaceMode::Container => PidSharing::Container,
            NamespaceMode::Pod => PidSharing::Pod,
            NamespaceMode::Node => PidSharing::Host,
            NamespaceMode::Target => return target(inputs, options, &field),
        },
    };
    match (wish, pod) {
        (PidSharing::Container, _) => Ok(Some(namespace(LinuxNamespaceType::Pid, None))),
        (PidSharing::Pod, PidSharing::Pod) => {
            Ok(Some(namespace(LinuxNamespaceType::Pid, Some(pins.join("pid")))))
        }
        (PidSharing::Host, PidSharing::Host) => Ok(None),
        (PidSharing::Pod, PidSharing::Container) => {
            Err(Invalid::wrong(field, "the sandbox has no PID namespace to share"))
        }
        (PidSharing::Pod, PidSharing::Host) => Ok(None),
        (PidSharing::Host, PidSharing::Container | PidSharing::Pod) => {
            Err(Invalid::wrong(field, "the sandbox is not in the host's PID namespace"))
        }
    }
}

/// An ephemeral container sees the processes of the one it is to look at, which must run.
fn target(
    inputs: &Inputs<'_>,
    options: &NamespaceOption,
    field: &str,
) -> Result<Option<LinuxNamespace>, Invalid> {
    let pid = inputs.sandbox.target_pid.ok_or_else(|| {
        Invalid::wrong(field, format!("the pod has no running container {:?} to be seen", options.target_id))
    })?;
    let path = PathBuf::from(format!("/proc/{pid}/ns/pid"));
    Ok(Some(namespace(LinuxNamespaceType::Pid, Some(path))))
}

/// Either the container says nothing about users or it says what its sandbox said.
fn agree_on_users(options: &NamespaceOption, inputs: &Inputs<'_>) -> Result<(), Invalid> {
    let Some(asked) = &options.userns_options else { return Ok(()) };
    let field = format!("{FIELD}.userns_options");
    let agrees = match (mode("userns_options.mode", asked.mode)?, &inputs.sandbox.pod.user) {
        (NamespaceMode::Node, None) => true,
        (NamespaceMode::Pod, Some(maps)) => same(&maps.uids, &asked.uids) && same(&maps.gids, &asked.gids),
        (NamespaceMode::Pod, None) => *asked == UserNamespace::default(),
        (NamespaceMode::Node, Some(_)) | (NamespaceMode::Container | NamespaceMode::Target, _) => false,
    };
    require(agrees, &field, || "the user namespace of the sandbox is another".to_owned())
}

fn same(ours: &[IdMap], asked: &[proto::v1::IdMapping]) -> bool {
    let asked = asked.iter().map(|map| (map.container_id, map.host_id, map.length));
    ours.iter().map(|map| (map.container_id, map.host_id, map.length)).eq(asked)
}

pub(super) fn id_mappings(maps: &[IdMap]) -> Vec<LinuxIdMapping> {
    maps.iter().map(|map| id_mapping(map.container_id, map.host_id, map.length)).collect()
}

pub(super) fn id_mapping(container_id: u32, host_id: u32, size: u32) -> LinuxIdMapping {
    let mapping = LinuxIdMappingBuilder::default().container_id(container_id).host_id(host_id).size(size);
    mapping.build().expect("every field is set")
}

/// The ID on the host that an ID of the container is; `None` when the pod does not map it.
pub(super) fn on_host(id: u32, maps: Option<&[IdMap]>) -> Option<u32> {
    let Some(maps) = maps else { return Some(id) };
    maps.iter().find_map(|map| {
        let offset = id.checked_sub(map.container_id).filter(|offset| *offset < map.length)?;
        map.host_id.checked_add(offset)
    })
}
