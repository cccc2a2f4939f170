//! Looks at the machine before a container is planned: the only I/O of the plan.
//!
//! What never changes while berthd runs is read once ([`Machine`]); what the request names is read for
//! each request. Nothing here is decided, and nothing is read without a bound.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use conmon_protocol::Seen;
use oci_spec::runtime::{LinuxBlockIo, LinuxDeviceType};
use proto::v1;
use rustix::fs::OFlags;

use super::{Invalid, Settings, classes, security};
use crate::apparmor;
use crate::blockio;
use crate::cdi;
use crate::config::HandlerSection;
use crate::oci_hooks::{self, HookFile};
use crate::rdt;

mod devices;
mod machine;
mod mounts;

pub use machine::{CgroupVersion, Machine, hugepage_sizes, machine};
pub(super) use mounts::is_image;
pub use mounts::propagation;

use devices::{all_devices, cdi_node, requested_devices};
use mounts::mount_sources;

/// A profile larger than this is a mistake or an attack.
const PROFILE_MAX_BYTES: u64 = 1 << 20;
/// What the plan needs to know about the machine.
#[derive(Debug, Clone)]
pub struct HostFacts {
    pub machine: Machine,
    /// In the order of `config.devices`, a directory opened up into the nodes below it.
    pub devices: Vec<HostDevice>,
    /// Every device node of the host; only looked for when the container is privileged.
    pub all_devices: Vec<HostDevice>,
    /// What the CDI devices add; their nodes are among `devices`.
    pub cdi: cdi::Edits,
    /// All that the operator has in hook directories.
    pub hooks: Vec<HookFile>,
    /// One for each of `config.mounts`.
    pub mounts: Vec<MountSource>,
    /// The text of the localhost seccomp profile, when one is asked for, or of the handler's own default.
    pub seccomp_profile: Option<Vec<u8>>,
    /// Whether the AppArmor profile that is asked for by name, if one is, is there.
    pub apparmor_loaded: bool,
    /// The limits of the class of block I/O that is named, if one is.
    pub block_io: Option<LinuxBlockIo>,
}

/// A device node of the host, and where the container wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    pub host_path: PathBuf,
    pub path: PathBuf,
    pub kind: LinuxDeviceType,
    pub major: i64,
    pub minor: i64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// `config.devices[..].permissions`; all of them for a privileged container.
    pub permissions: String,
}

/// The host's side of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSource {
    /// With its symbolic links followed, as far as it exists.
    pub path: PathBuf,
    pub kind: SourceKind,
    /// Of the mount that the path lies on; only looked at when the request asks for propagation.
    pub propagation: Propagation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    Missing,
    Directory,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
}

/// Looks at what the request names, save its mounts, which may be of servers that are away: what is there was `seen`, one
/// for each. Blocking, for some tens of microseconds.
pub fn gather(
    config: &v1::ContainerConfig,
    pod: &v1::PodSandboxConfig,
    settings: &Settings,
    handler: Option<&HandlerSection>,
    seen: Vec<Seen>,
) -> Result<HostFacts, Invalid> {
    let security = security::context(config);
    let cdi = cdi_edits(config, settings)?;
    let mut devices = requested_devices(&config.devices)?;
    devices.extend(cdi.nodes.iter().map(cdi_node).collect::<Result<Vec<_>, _>>()?);
    let hooks = oci_hooks::read(&settings.hooks_dirs);
    check_rdt(config, pod, settings)?;
    Ok(HostFacts {
        cdi,
        hooks: hooks.map_err(|error| Invalid::wrong("hooks_dirs", error.to_string()))?,
        machine: machine().clone(),
        devices,
        all_devices: if security.privileged { all_devices() } else { Vec::new() },
        mounts: mount_sources(&config.mounts, seen)?,
        seccomp_profile: seccomp_profile(&security, handler)?,
        apparmor_loaded: apparmor_loaded(&security)?,
        block_io: block_io(config, pod, settings)?,
    })
}

fn block_io(
    config: &v1::ContainerConfig,
    pod: &v1::PodSandboxConfig,
    settings: &Settings,
) -> Result<Option<LinuxBlockIo>, Invalid> {
    let Some(class) = classes::block_io(config, pod) else { return Ok(None) };
    let limits = blockio::class(&settings.blockio_config_file, class);
    limits.map(Some).map_err(|error| Invalid::wrong("annotations", error.to_string()))
}

/// Before anything is made: the runtime would refuse it, too, and know nothing of the operator's file.
fn check_rdt(
    config: &v1::ContainerConfig,
    pod: &v1::PodSandboxConfig,
    settings: &Settings,
) -> Result<(), Invalid> {
    let Some((class, of)) = classes::rdt_asked(config, pod) else { return Ok(()) };
    let checked = rdt::root().and_then(|root| rdt::check(&root, &settings.rdt_config_file, class, of));
    checked.map_err(|error| Invalid::wrong("annotations", format!("the RDT class {class:?}: {error}")))
}

fn cdi_edits(config: &v1::ContainerConfig, settings: &Settings) -> Result<cdi::Edits, Invalid> {
    let names = cdi::asked(config).and_then(|names| cdi::edits(&settings.cdi_spec_dirs, &names));
    names.map_err(|error| Invalid::wrong("cdi_devices", error.to_string()))
}

fn unreachable(field: &str, path: &str, source: io::Error) -> Invalid {
    Invalid::Unreachable { field: field.to_owned(), path: PathBuf::from(path), source }
}

/// A kernel that cannot be asked has none loaded.
fn apparmor_loaded(security: &v1::LinuxContainerSecurityContext) -> Result<bool, Invalid> {
    let asked = security::localhost_apparmor(security)?;
    Ok(asked.is_none_or(|name| apparmor::is_loaded(&name).unwrap_or(false)))
}

fn seccomp_profile(
    security: &v1::LinuxContainerSecurityContext,
    handler: Option<&HandlerSection>,
) -> Result<Option<Vec<u8>>, Invalid> {
    let (field, path) = match security::seccomp(security)? {
        security::Seccomp::Unconfined => return Ok(None),
        security::Seccomp::Localhost(path) => ("security_context.seccomp.localhost_ref", path),
        security::Seccomp::RuntimeDefault => match handler.and_then(|it| it.seccomp_profile.clone()) {
            Some(path) => (security::HANDLERS_PROFILE, path),
            None => return Ok(None),
        },
    };
    let text = read_profile(&path).map_err(|e| unreachable(field, &path.display().to_string(), e))?;
    if text.len() as u64 > PROFILE_MAX_BYTES {
        return Err(Invalid::wrong(field, format!("{} is larger than 1 MiB", path.display())));
    }
    Ok(Some(text))
}

/// Neither waits for a FIFO nor reads a device.
fn read_profile(path: &Path) -> io::Result<Vec<u8>> {
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY).bits() as i32;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = Vec::new();
    file.take(PROFILE_MAX_BYTES + 1).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_that_is_no_regular_file_is_refused() {
        assert!(read_profile(Path::new("/dev/zero")).is_err());
        assert!(read_profile(Path::new("/proc")).is_err());
    }
}
