//! What devices (CDI) and the operator's hook files add to a plan.

use std::path::Path;

use oci_spec::runtime::{Hook, Hooks, Linux, LinuxIntelRdt, LinuxNetDevice, Mount};

use super::{Inputs, Invalid};
use crate::cdi;
use crate::oci_hooks::{Stage, Subject};

/// The groups of devices, besides the user's own.
pub(super) fn add_groups(inputs: &Inputs<'_>, groups: &mut Vec<u32>) {
    for gid in &inputs.host.cdi.additional_gids {
        if !groups.contains(gid) {
            groups.push(*gid);
        }
    }
}

/// Bind mounts unless the file says otherwise, and then private ones.
pub(super) fn mounts(inputs: &Inputs<'_>) -> impl Iterator<Item = Mount> {
    inputs.host.cdi.mounts.iter().map(|edit| {
        let kind = if edit.kind.is_empty() { "bind" } else { &edit.kind };
        let mut options = edit.options.clone();
        let binds = options.iter().any(|option| option == "bind" || option == "rbind");
        if kind == "bind" && !binds {
            options.push("rbind".to_owned());
        }
        let mut mount = Mount::default();
        mount
            .set_destination(edit.container_path.clone())
            .set_source(Some(edit.host_path.clone()))
            .set_typ(Some(kind.to_owned()))
            .set_options(Some(options));
        mount
    })
}

/// # Errors
/// When a device wants what the OCI configuration has no word for.
pub(super) fn add_to_linux(inputs: &Inputs<'_>, linux: &mut Linux) -> Result<(), Invalid> {
    let cdi = &inputs.host.cdi;
    if !cdi.net_devices.is_empty() {
        let devices = cdi.net_devices.iter().map(|device| {
            let mut named = LinuxNetDevice::default();
            named.set_name(Some(device.name.clone()));
            (device.host_interface_name.clone(), named)
        });
        linux.set_net_devices(Some(devices.collect()));
    }
    if let Some(rdt) = &cdi.rdt {
        if rdt.enable_cmt == Some(true) || rdt.enable_mbm == Some(true) {
            return Err(Invalid::unsupported(
                "cdi_devices",
                "monitoring by Intel RDT (enableCMT, enableMBM)",
            ));
        }
        let mut classes = LinuxIntelRdt::default();
        classes
            .set_clos_id(rdt.clos_id.clone())
            .set_l3_cache_schema(rdt.l3_cache_schema.clone())
            .set_mem_bw_schema(rdt.mem_bw_schema.clone())
            .set_schemata(rdt.schemata.clone());
        linux.set_intel_rdt(Some(classes));
    }
    if let Some(class) = super::classes::rdt(inputs)? {
        let mut classes = linux.intel_rdt().clone().unwrap_or_default();
        classes.set_clos_id(Some(class.to_owned()));
        linux.set_intel_rdt(Some(classes));
    }
    Ok(())
}

/// The operator's hooks that are for this container, by their files' names, then those of its devices.
pub(super) fn hooks(inputs: &Inputs<'_>, command: &str) -> Option<Hooks> {
    let mut annotations = inputs.sandbox.config.annotations.clone();
    annotations.extend(inputs.config.annotations.clone());
    let subject =
        Subject { command, annotations: &annotations, has_bind_mounts: !inputs.config.mounts.is_empty() };
    let fitting = inputs.host.hooks.iter().filter(|file| file.is_for(&subject));
    let mut staged: Vec<(Stage, Hook)> = Vec::new();
    for file in fitting {
        let run = &file.hook;
        let made = hook(&run.path, &run.args, &run.env, run.timeout);
        staged.extend(file.stages.iter().map(|stage| (*stage, made.clone())));
    }
    for edit in &inputs.host.cdi.hooks {
        staged
            .extend(stage(edit).map(|stage| (stage, hook(&edit.path, &edit.args, &edit.env, edit.timeout))));
    }
    (!staged.is_empty()).then(|| by_stage(staged))
}

fn stage(edit: &cdi::Hook) -> Option<Stage> {
    serde_json::from_value(edit.stage.clone().into()).ok()
}

fn hook(path: &Path, args: &[String], env: &[String], timeout_s: Option<i64>) -> Hook {
    let mut made = Hook::default();
    made.set_path(path.to_path_buf()).set_timeout(timeout_s);
    // Without arguments the program still is to have its name.
    let args = if args.is_empty() { vec![path.display().to_string()] } else { args.to_vec() };
    made.set_args(Some(args)).set_env(Some(env.to_vec()));
    made
}

fn by_stage(staged: Vec<(Stage, Hook)>) -> Hooks {
    let of = |wanted: Stage| {
        let hooks: Vec<Hook> =
            staged.iter().filter(|(stage, _)| *stage == wanted).map(|(_, hook)| hook.clone()).collect();
        Some(hooks).filter(|hooks| !hooks.is_empty())
    };
    let mut hooks = Hooks::default();
    #[allow(deprecated, reason = "files in the field still say prestart")]
    hooks.set_prestart(of(Stage::Prestart));
    hooks
        .set_create_runtime(of(Stage::CreateRuntime))
        .set_create_container(of(Stage::CreateContainer))
        .set_start_container(of(Stage::StartContainer))
        .set_poststart(of(Stage::Poststart))
        .set_poststop(of(Stage::Poststop));
    hooks
}
