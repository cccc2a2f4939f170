//! Which device nodes the container has and which it may open.

use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use proto::v1::LinuxContainerSecurityContext;

use super::gather::HostDevice;
use super::invalid::require;
use super::{Inputs, Invalid};

/// The nodes that the OCI specification promises each container, which the runtime makes by itself.
const PROMISED: [(&str, i64, i64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];
/// Its console, the terminals of its own devpts, and their multiplexer.
const TERMINALS: [(i64, Option<i64>); 3] = [(5, Some(1)), (136, None), (5, Some(2))];

#[derive(Debug)]
pub(super) struct Devices {
    pub(super) nodes: Vec<LinuxDevice>,
    pub(super) rules: Vec<LinuxDeviceCgroup>,
}

pub(super) fn devices(
    inputs: &Inputs<'_>,
    security: &LinuxContainerSecurityContext,
) -> Result<Devices, Invalid> {
    check(inputs)?;
    let of_handler = inputs.handler.and_then(|handler| handler.privileged_without_host_devices);
    let few = of_handler.unwrap_or(inputs.settings.privileged_without_host_devices);
    let whole_host = security.privileged && !few;
    let host = if whole_host { inputs.host.all_devices.as_slice() } else { &[] };
    let asked = &inputs.host.devices;
    let mut nodes: Vec<LinuxDevice> = Vec::new();
    for device in asked.iter().chain(host) {
        let promised = PROMISED.iter().any(|(path, ..)| device.path == Path::new(path));
        if !promised && !is_bound(device, inputs) && !nodes.iter().any(|node| *node.path() == device.path) {
            nodes.push(node(device));
        }
    }
    let rules = if security.privileged {
        vec![rule(true, LinuxDeviceType::A, None, None, "rwm")]
    } else {
        rules(asked)
    };
    Ok(Devices { nodes, rules })
}

/// In a user namespace nobody makes nodes: the runtime binds the host's, which it looks for under the same name.
/// One that has another name in the container is a bind mount of ours.
fn is_bound(device: &HostDevice, inputs: &Inputs<'_>) -> bool {
    inputs.sandbox.pod.user.is_some() && device.host_path != device.path
}

pub(super) fn bound<'a>(inputs: &Inputs<'a>) -> impl Iterator<Item = &'a HostDevice> {
    let inputs = *inputs;
    inputs.host.devices.iter().filter(move |device| is_bound(device, &inputs))
}

fn check(inputs: &Inputs<'_>) -> Result<(), Invalid> {
    for (index, device) in inputs.config.devices.iter().enumerate() {
        let field = format!("devices[{index}]");
        let permissions = &device.permissions;
        let fits = !permissions.is_empty() && permissions.chars().all(|letter| "rwm".contains(letter));
        require(fits, &format!("{field}.permissions"), || {
            format!("{permissions:?} is not made of r, w and m")
        })?;
        let path = Path::new(if device.container_path.is_empty() {
            &device.host_path
        } else {
            &device.container_path
        });
        let below = path.is_absolute() && !path.components().any(|part| part.as_os_str() == "..");
        require(below, &format!("{field}.container_path"), || {
            format!("{} is not an absolute path", path.display())
        })?;
    }
    Ok(())
}

fn node(device: &HostDevice) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(device.path.clone())
        .set_typ(device.kind)
        .set_major(device.major)
        .set_minor(device.minor)
        .set_file_mode(Some(device.mode))
        .set_uid(Some(device.uid))
        .set_gid(Some(device.gid));
    node
}

/// Everything is forbidden but to make nodes, to use the promised ones, and what was asked for.
fn rules(asked: &[HostDevice]) -> Vec<LinuxDeviceCgroup> {
    let character = LinuxDeviceType::C;
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        rule(true, character, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    rules.extend(
        PROMISED.iter().map(|(_, major, minor)| rule(true, character, Some(*major), Some(*minor), "rwm")),
    );
    rules.extend(TERMINALS.iter().map(|(major, minor)| rule(true, character, Some(*major), *minor, "rwm")));
    rules.extend(asked.iter().map(|d| rule(true, d.kind, Some(d.major), Some(d.minor), &d.permissions)));
    rules
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(kind))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}
