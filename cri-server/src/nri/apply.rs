//! Does to a plan what all plugins together want of it.
//!
//! Where the CRI has a field for it (limits, CDI devices) the request is changed and planned anew, so that one place
//! knows how it is done. The rest is changed in the OCI configuration. What cannot be done is refused by name.

use std::path::{Path, PathBuf};

use conmon_protocol::CgroupDriver;
use oci_spec::runtime::{Hook as OciHook, Mount as OciMount, Spec};
use proto::nri::{ContainerAdjustment, Hook, Hooks, Mount};
use proto::v1;
use serde::de::DeserializeOwned;

use super::overlay::removed;
use super::resources;
use crate::container::plan::{self, ContainerPlan, Invalid, Machine, Propagation};

mod linux;
mod process;

use linux::{change_block_io, change_linux};
use process::change_process;

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
