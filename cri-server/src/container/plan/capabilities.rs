//! Which capabilities the process holds.
//!
//! The inheritable set is empty but for what is also ambient, which the kernel demands: a set that outlives
//! an exec gives powers to files that were never meant to have them (CVE-2022-24769 and its kin).

use std::collections::HashSet;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use proto::v1::LinuxContainerSecurityContext;

use super::invalid::require;
use super::{Inputs, Invalid};

/// In the order of the kernel's numbers (linux/capability.h).
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// A mask of /proc/PID/status as a set.
pub(super) fn from_mask(mask: u64) -> Vec<Capability> {
    ALL.iter()
        .enumerate()
        .filter(|(bit, _)| mask >> bit & 1 == 1)
        .map(|(_, capability)| *capability)
        .collect()
}

pub(super) fn capabilities(
    inputs: &Inputs<'_>,
    security: &LinuxContainerSecurityContext,
) -> Result<LinuxCapabilities, Invalid> {
    let held: Capabilities = inputs.host.machine.capabilities.iter().copied().collect();
    let (granted, ambient) =
        if security.privileged { (held, HashSet::new()) } else { asked(inputs, security, &held)? };
    let mut set = LinuxCapabilities::default();
    set.set_bounding(Some(granted.clone()))
        .set_effective(Some(granted.clone()))
        .set_permitted(Some(granted))
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    Ok(set)
}

/// `ALL` first, so that a single capability can be taken from all or added to none.
fn asked(
    inputs: &Inputs<'_>,
    security: &LinuxContainerSecurityContext,
    held: &Capabilities,
) -> Result<(Capabilities, Capabilities), Invalid> {
    let asked = security.capabilities.clone().unwrap_or_default();
    let add = parse("capabilities.add_capabilities", &asked.add_capabilities)?;
    let drop = parse("capabilities.drop_capabilities", &asked.drop_capabilities)?;
    let ambient = parse("capabilities.add_ambient_capabilities", &asked.add_ambient_capabilities)?;
    let mut granted = match (add.all, drop.all) {
        (true, false) => held.clone(),
        (_, true) => HashSet::new(),
        (false, false) => defaults(inputs, held)?,
    };
    for capability in add.named.iter().chain(&ambient.named) {
        require(held.contains(capability), "capabilities.add_capabilities", || {
            format!("berthd does not hold CAP_{capability} itself, so it cannot give it")
        })?;
        granted.insert(*capability);
    }
    granted.retain(|capability| !drop.named.contains(capability));
    let raised = granted.iter().filter(|capability| ambient.all || ambient.named.contains(capability));
    let raised = raised.copied().collect();
    Ok((granted, raised))
}

/// The operator's default set, as far as we hold it ourselves.
fn defaults(inputs: &Inputs<'_>, held: &Capabilities) -> Result<Capabilities, Invalid> {
    let set = parse("default_capabilities", &inputs.settings.default_capabilities)?;
    Ok(set.named.into_iter().filter(|capability| held.contains(capability)).collect())
}

#[derive(Debug)]
pub(super) struct Asked {
    all: bool,
    named: Vec<Capability>,
}

/// Names with or without `CAP_`, in either case, and `ALL`.
pub(super) fn parse(field: &str, names: &[String]) -> Result<Asked, Invalid> {
    let upper = names.iter().map(|name| name.to_ascii_uppercase());
    let mut asked = Asked { all: false, named: Vec::new() };
    for name in upper {
        match name.strip_prefix("CAP_").unwrap_or(&name) {
            "ALL" => asked.all = true,
            bare => asked.named.push(known(bare).ok_or_else(|| unknown(field, &name))?),
        }
    }
    Ok(asked)
}

fn known(bare: &str) -> Option<Capability> {
    ALL.into_iter().find(|capability| capability.to_string() == bare)
}

fn unknown(field: &str, name: &str) -> Invalid {
    Invalid::wrong(field, format!("there is no capability {name}"))
}
