//! What plugins want of a container's devices, namespaces, limits and classes.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDevice as OciDevice, LinuxDeviceCgroup, LinuxNamespace as OciNamespace, LinuxNamespaceType,
    LinuxNetDevice as OciNetDevice,
};
use proto::nri::{LinuxContainerAdjustment, LinuxDevice, LinuxNamespace, LinuxRdt, LinuxResources};

use super::super::overlay::removed;
use super::super::{resources, words};
use super::Unfit;
use crate::blockio;

pub(super) fn change_linux(linux: &mut Linux, wished: &LinuxContainerAdjustment) -> Result<(), Unfit> {
    for device in &wished.devices {
        change_device(linux, device)?;
    }
    if !wished.cgroups_path.is_empty() {
        linux.set_cgroups_path(Some(PathBuf::from(&wished.cgroups_path)));
    }
    if let Some(policy) = &wished.seccomp_policy {
        linux.set_seccomp(Some(words::seccomp(policy)?));
    }
    if let Some(policy) = &wished.memory_policy {
        linux.set_memory_policy(Some(words::memory_policy(policy)?));
    }
    for wished in &wished.namespaces {
        change_namespace(linux, wished)?;
    }
    if !wished.sysctl.is_empty() {
        let mut all = linux.sysctl().clone().unwrap_or_default();
        wished.sysctl.keys().filter_map(|key| removed(key)).for_each(|key| drop(all.remove(key)));
        let added = wished.sysctl.iter().filter(|(key, _)| removed(key).is_none());
        all.extend(added.map(|(key, value)| (key.clone(), value.clone())));
        linux.set_sysctl(Some(all));
    }
    if !wished.net_devices.is_empty() {
        let mut all = linux.net_devices().clone().unwrap_or_default();
        wished.net_devices.keys().filter_map(|key| removed(key)).for_each(|key| drop(all.remove(key)));
        for (key, device) in wished.net_devices.iter().filter(|(key, _)| removed(key).is_none()) {
            let mut named = OciNetDevice::default();
            named.set_name(Some(device.name.clone()).filter(|name| !name.is_empty()));
            all.insert(key.clone(), named);
        }
        linux.set_net_devices(Some(all));
    }
    if let Some(class) = wished.resources.as_ref().and_then(|resources| resources.rdt_class.as_ref()) {
        let remove = class.value.is_empty();
        let clos_id = Some(class.clone()).filter(|_| !remove);
        change_rdt(linux, &LinuxRdt { clos_id, remove, ..Default::default() });
    }
    if let Some(wished) = &wished.rdt {
        change_rdt(linux, wished);
    }
    if let Some(wished) = &wished.resources
        && let Some(rest) = resources::rest(wished)?
    {
        let mut told = linux.resources().clone().unwrap_or_default();
        resources::lay_over(&mut told, &rest);
        linux.set_resources(Some(told));
    }
    Ok(())
}

/// The node, and the right to use it.
fn change_device(linux: &mut Linux, wished: &LinuxDevice) -> Result<(), Unfit> {
    let path = removed(&wished.path).unwrap_or(&wished.path);
    let mut nodes = linux.devices().clone().unwrap_or_default();
    nodes.retain(|node| node.path() != Path::new(path));
    if removed(&wished.path).is_none() {
        if !Path::new(path).is_absolute() {
            return Err(Unfit::new("devices", format!("{path:?} is not an absolute path")));
        }
        let kind = resources::device_type(&wished.r#type)?;
        let mut node = OciDevice::default();
        node.set_path(PathBuf::from(path))
            .set_typ(kind)
            .set_major(wished.major)
            .set_minor(wished.minor)
            .set_file_mode(wished.file_mode.map(|mode| mode.value))
            .set_uid(wished.uid.map(|uid| uid.value))
            .set_gid(wished.gid.map(|gid| gid.value));
        nodes.push(node);
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true)
            .set_typ(Some(kind))
            .set_major(Some(wished.major))
            .set_minor(Some(wished.minor))
            .set_access(Some("rwm".to_owned()));
        let mut told = linux.resources().clone().unwrap_or_default();
        let mut rules = told.devices().clone().unwrap_or_default();
        rules.push(rule);
        told.set_devices(Some(rules));
        linux.set_resources(Some(told));
    }
    linux.set_devices(Some(nodes));
    Ok(())
}

fn change_namespace(linux: &mut Linux, wished: &LinuxNamespace) -> Result<(), Unfit> {
    let name = removed(&wished.r#type).unwrap_or(&wished.r#type);
    let kind = LinuxNamespaceType::try_from(name)
        .map_err(|_| Unfit::new("namespaces", format!("there is no kind {name:?}")))?;
    let mut all = linux.namespaces().clone().unwrap_or_default();
    all.retain(|namespace| namespace.typ() != kind);
    if removed(&wished.r#type).is_none() {
        let mut namespace = OciNamespace::default();
        let path = Some(PathBuf::from(&wished.path)).filter(|path| !path.as_os_str().is_empty());
        namespace.set_typ(kind).set_path(path);
        all.push(namespace);
    }
    linux.set_namespaces(Some(all));
    Ok(())
}

/// An empty class takes away what the pod's annotations named.
pub(super) fn change_block_io(linux: &mut Linux, wished: &LinuxResources, file: &Path) -> Result<(), Unfit> {
    let Some(class) = &wished.blockio_class else { return Ok(()) };
    let limits = Some(&class.value).filter(|class| !class.is_empty());
    let limits = limits.map(|class| blockio::class(file, class)).transpose();
    let limits = limits.map_err(|error| Unfit::new("blockio_class", error.to_string()))?;
    let mut resources = linux.resources().clone().unwrap_or_default();
    resources.set_block_io(limits);
    linux.set_resources(Some(resources));
    Ok(())
}

fn change_rdt(linux: &mut Linux, wished: &LinuxRdt) {
    let before = if wished.remove { None } else { linux.intel_rdt().clone() };
    if wished.clos_id.is_none() && wished.schemata.is_none() && wished.enable_monitoring.is_none() {
        linux.set_intel_rdt(before);
        return;
    }
    let mut rdt = before.unwrap_or_default();
    if let Some(class) = &wished.clos_id {
        rdt.set_clos_id(Some(class.value.clone()));
    }
    if let Some(schemata) = &wished.schemata {
        rdt.set_schemata(Some(schemata.value.clone()));
    }
    if let Some(monitoring) = &wished.enable_monitoring {
        rdt.set_enable_monitoring(Some(monitoring.value));
    }
    linux.set_intel_rdt(Some(rdt));
}
