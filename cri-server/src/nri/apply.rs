//! Does to a plan what all plugins together want of it.
//!
//! Where the CRI has a field for it (limits, CDI devices) the request is changed and planned anew, so that one place
//! knows how it is done. The rest is changed in the OCI configuration. What cannot be done is refused by name.

use std::path::{Path, PathBuf};

use conmon_protocol::CgroupDriver;
use oci_spec::runtime::{
    Hook as OciHook, Linux, LinuxDevice as OciDevice, LinuxDeviceCgroup, LinuxNamespace as OciNamespace,
    LinuxNamespaceType, LinuxNetDevice as OciNetDevice, Mount as OciMount, PosixRlimit as OciRlimit, Process,
    Spec,
};
use proto::nri::{
    ContainerAdjustment, Hook, Hooks, LinuxContainerAdjustment, LinuxDevice, LinuxNamespace, LinuxRdt,
    LinuxResources, Mount, PosixRlimit,
};
use proto::v1;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::overlay::removed;
use super::{resources, words};
use crate::blockio;
use crate::container::plan::{self, ContainerPlan, Invalid, Machine, Propagation};

/// What plugins want and nobody can do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what plugins want of {field} can't be done: {why}")]
pub struct Unfit {
    field: String,
    why: String,
}

impl Unfit {
    pub(super) fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { field: field.into(), why: why.into() }
    }
}

/// The request as it would have been with the devices and limits that plugins want.
///
/// # Errors
/// When a limit cannot be honoured.
pub(super) fn request(
    config: &v1::ContainerConfig,
    adjust: &ContainerAdjustment,
    machine: &Machine,
) -> Result<v1::ContainerConfig, Invalid> {
    let mut asked = config.clone();
    asked.cdi_devices.extend(adjust.cdi_devices.iter().map(|d| v1::CdiDevice { name: d.name.clone() }));
    let wished = adjust.linux.as_ref().and_then(|linux| linux.resources.as_ref()).map(resources::to_cri);
    if let Some(wished) = wished.filter(|wished| *wished != v1::LinuxContainerResources::default()) {
        let limits = asked.linux.get_or_insert_default().resources.get_or_insert_default();
        *limits = plan::update(limits, &wished, machine)?.after;
    }
    Ok(asked)
}

/// The node that a plan is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here<'a> {
    pub(super) driver: CgroupDriver,
    pub(super) machine: &'a Machine,
    /// What its operator has of classes of block I/O.
    pub(super) blockio_config_file: &'a Path,
}

/// Everything else, in the configuration that the runtime is given. Looks at the host's mounts when a mount is to
/// propagate.
///
/// # Errors
/// Names what cannot be done.
pub(super) fn plan(
    plan: &mut ContainerPlan,
    adjust: &ContainerAdjustment,
    here: &Here<'_>,
) -> Result<(), Unfit> {
    annotations(&mut plan.spec, adjust);
    add_hooks(&mut plan.spec, adjust.hooks.as_ref());
    mounts(&mut plan.spec, &adjust.mounts, plan.declared.bound())?;
    let mut process = plan.spec.process().clone().unwrap_or_default();
    change_process(&mut process, adjust, here.machine)?;
    plan.spec.set_process(Some(process));
    if let Some(wished) = &adjust.linux {
        let mut linux = plan.spec.linux().clone().unwrap_or_default();
        change_linux(&mut linux, wished)?;
        if let Some(wished) = &wished.resources {
            change_block_io(&mut linux, wished, here.blockio_config_file)?;
        }
        plan.spec.set_linux(Some(linux));
        if !wished.cgroups_path.is_empty() {
            plan.cgroup_path = counted(&wished.cgroups_path, here.driver)?;
        }
    }
    Ok(())
}

fn annotations(spec: &mut Spec, adjust: &ContainerAdjustment) {
    let mut all = spec.annotations().clone().unwrap_or_default();
    for name in adjust.annotations.keys().filter_map(|key| removed(key)) {
        all.remove(name);
    }
    let added = adjust.annotations.iter().filter(|(key, _)| removed(key).is_none());
    all.extend(added.map(|(key, value)| (key.clone(), value.clone())));
    spec.set_annotations(Some(all));
}

fn add_hooks(spec: &mut Spec, wished: Option<&Hooks>) {
    let Some(wished) = wished.filter(|wished| **wished != Hooks::default()) else { return };
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    let more = |before: &Option<Vec<OciHook>>, wished: &[Hook]| {
        let all: Vec<OciHook> = before.iter().flatten().cloned().chain(wished.iter().map(hook)).collect();
        Some(all).filter(|all| !all.is_empty())
    };
    #[allow(deprecated, reason = "plugins may still ask for it")]
    {
        let prestart = more(hooks.prestart(), &wished.prestart);
        hooks.set_prestart(prestart);
    }
    let create_runtime = more(hooks.create_runtime(), &wished.create_runtime);
    let create_container = more(hooks.create_container(), &wished.create_container);
    let start_container = more(hooks.start_container(), &wished.start_container);
    let poststart = more(hooks.poststart(), &wished.poststart);
    let poststop = more(hooks.poststop(), &wished.poststop);
    hooks
        .set_create_runtime(create_runtime)
        .set_create_container(create_container)
        .set_start_container(start_container)
        .set_poststart(poststart)
        .set_poststop(poststop);
    spec.set_hooks(Some(hooks));
}

fn hook(wished: &Hook) -> OciHook {
    let mut hook = OciHook::default();
    let args = if wished.args.is_empty() { vec![wished.path.clone()] } else { wished.args.clone() };
    hook.set_path(PathBuf::from(&wished.path))
        .set_args(Some(args))
        .set_env(Some(wished.env.clone()).filter(|env| !env.is_empty()))
        .set_timeout(wished.timeout.map(|seconds| seconds.value));
    hook
}

/// A mount stands for the one that was at its destination. The first of them, volumes that the image declares, stay so;
/// then parents come before what is below them.
fn mounts(spec: &mut Spec, wished: &[Mount], declared: usize) -> Result<(), Unfit> {
    if wished.is_empty() {
        return Ok(());
    }
    let mut all = spec.mounts().clone().unwrap_or_default();
    let first: Vec<OciMount> = all.iter().take(declared).cloned().collect();
    for mount in wished {
        let destination = removed(&mount.destination).unwrap_or(&mount.destination);
        all.retain(|other| other.destination() != Path::new(destination));
        if removed(&mount.destination).is_none() {
            all.push(oci_mount(mount)?);
            propagate(spec, mount)?;
        }
    }
    all.sort_by_key(|mount| (!first.contains(mount), mount.destination().components().count()));
    spec.set_mounts(Some(all));
    Ok(())
}

fn oci_mount(wished: &Mount) -> Result<OciMount, Unfit> {
    if !Path::new(&wished.destination).is_absolute() {
        return Err(Unfit::new("mounts", format!("{:?} is not an absolute path", wished.destination)));
    }
    let mut mount = OciMount::default();
    mount
        .set_destination(PathBuf::from(&wished.destination))
        .set_typ(Some(wished.r#type.clone()).filter(|kind| !kind.is_empty()))
        .set_source(Some(PathBuf::from(&wished.source)).filter(|source| !source.as_os_str().is_empty()))
        .set_options(Some(wished.options.clone()));
    Ok(mount)
}

/// What is to propagate needs a source that does, and a root that lets it.
fn propagate(spec: &mut Spec, wished: &Mount) -> Result<(), Unfit> {
    let has = |option: &str| wished.options.iter().any(|given| given == option);
    let (propagation, fits): (_, fn(Propagation) -> bool) = match () {
        () if has("rshared") || has("shared") => ("rshared", |source| source == Propagation::Shared),
        () if has("rslave") || has("slave") => ("rslave", |source| source != Propagation::Private),
        () => return Ok(()),
    };
    if !fits(plan::propagation(Path::new(&wished.source))) {
        let why = format!("{} is on a private mount, so nothing can be {propagation}", wished.source);
        return Err(Unfit::new("mounts", why));
    }
    let mut linux = spec.linux().clone().unwrap_or_default();
    let before = linux.rootfs_propagation().clone().unwrap_or_default();
    if before != "rshared" && before != propagation {
        linux.set_rootfs_propagation(Some(propagation.to_owned()));
        spec.set_linux(Some(linux));
    }
    Ok(())
}

fn change_process(
    process: &mut Process,
    adjust: &ContainerAdjustment,
    machine: &Machine,
) -> Result<(), Unfit> {
    if !adjust.env.is_empty() {
        process.set_env(Some(env(process.env().clone().unwrap_or_default(), adjust)?));
    }
    if !adjust.args.is_empty() {
        process.set_args(Some(adjust.args.clone()));
    }
    if !adjust.rlimits.is_empty() {
        process.set_rlimits(Some(rlimits(process.rlimits().clone().unwrap_or_default(), &adjust.rlimits)?));
    }
    let Some(linux) = &adjust.linux else { return Ok(()) };
    if let Some(score) = &linux.oom_score_adj {
        process.set_oom_score_adj(Some(oom_score_adj(score.value, machine)?));
    }
    if let Some(priority) = &linux.io_priority {
        process.set_io_priority(words::io_priority(priority)?);
    }
    if let Some(scheduler) = &linux.scheduler {
        process.set_scheduler(words::scheduler(scheduler)?);
    }
    Ok(())
}

/// A variable keeps its place; a new one is last.
fn env(before: Vec<String>, adjust: &ContainerAdjustment) -> Result<Vec<String>, Unfit> {
    let name = |entry: &str| entry.split_once('=').map_or(entry.to_owned(), |(name, _)| name.to_owned());
    let wished = |name: &str| adjust.env.iter().find(|new| new.key == name);
    let gone = |name: &str| adjust.env.iter().any(|new| removed(&new.key) == Some(name));
    if let Some(odd) = adjust.env.iter().find(|new| new.key.is_empty() || new.key.contains(['=', '\0'])) {
        return Err(Unfit::new("env", format!("{:?} is no name of a variable", odd.key)));
    }
    let known: Vec<String> = before.iter().map(|entry| name(entry)).collect();
    let kept = before.iter().filter_map(|entry| match wished(&name(entry)) {
        Some(new) => Some(format!("{}={}", new.key, new.value)),
        None if gone(&name(entry)) => None,
        None => Some(entry.clone()),
    });
    let added = adjust.env.iter().filter(|new| removed(&new.key).is_none() && !known.contains(&new.key));
    Ok(kept.chain(added.map(|new| format!("{}={}", new.key, new.value))).collect())
}

fn rlimits(mut all: Vec<OciRlimit>, wished: &[PosixRlimit]) -> Result<Vec<OciRlimit>, Unfit> {
    for limit in wished {
        let new: OciRlimit =
            typed("rlimits", json!({"type": limit.r#type, "hard": limit.hard, "soft": limit.soft}))?;
        all.retain(|old| old.typ() != new.typ());
        all.push(new);
    }
    Ok(all)
}

/// As for what the kubelet asks: a daemon that may not lower the score gives the lowest it may.
fn oom_score_adj(score: i64, machine: &Machine) -> Result<i32, Unfit> {
    let fitting = i32::try_from(score).ok().filter(|score| (-1000..=1000).contains(score));
    let fitting =
        fitting.ok_or_else(|| Unfit::new("oom_score_adj", format!("{score} is not from -1000 to 1000")))?;
    Ok(fitting.max(machine.oom_score_adj_floor))
}

fn change_linux(linux: &mut Linux, wished: &LinuxContainerAdjustment) -> Result<(), Unfit> {
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
fn change_block_io(linux: &mut Linux, wished: &LinuxResources, file: &Path) -> Result<(), Unfit> {
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

/// Where the container's processes will be counted. systemd's word is `slice:prefix:name`.
fn counted(cgroups_path: &str, driver: CgroupDriver) -> Result<String, Unfit> {
    match driver {
        CgroupDriver::Cgroupfs if cgroups_path.starts_with('/') => Ok(cgroups_path.to_owned()),
        CgroupDriver::Cgroupfs => {
            Err(Unfit::new("cgroups_path", format!("{cgroups_path:?} is not an absolute path")))
        }
        CgroupDriver::Systemd => {
            let parts: Vec<&str> = cgroups_path.split(':').collect();
            let [slice, prefix, name] = parts.as_slice() else {
                let why = format!("{cgroups_path:?} is not as SLICE:PREFIX:NAME, as systemd wants it");
                return Err(Unfit::new("cgroups_path", why));
            };
            Ok(format!("{}/{prefix}-{name}.scope", slice_dir(slice)))
        }
    }
}

/// `a-b.slice` is in `a.slice` (systemd.slice(5)).
fn slice_dir(slice: &str) -> String {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut dir = String::new();
    for (at, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
        dir.push_str(&format!("/{}.slice", &stem[..at]));
    }
    dir
}

/// What has the same words in the OCI configuration.
pub(super) fn typed<T: DeserializeOwned>(field: &str, value: serde_json::Value) -> Result<T, Unfit> {
    serde_json::from_value(value).map_err(|error| Unfit::new(field, error.to_string()))
}

#[cfg(test)]
mod tests;
