//! What the process may not see or do: seccomp, AppArmor, SELinux, masked and read-only paths.

use std::path::{Path, PathBuf};

use conmon_protocol::{PidSharing, Sharing};
use oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp};
use proto::v1::security_profile::ProfileType;
use proto::v1::{ContainerConfig, LinuxContainerSecurityContext};

use super::invalid::require;
use super::{Inputs, Invalid, args};
use crate::seccomp as profiles;
use crate::selinux::{self, Labels, Trust};

/// What the kubelet asks to hide; a client that lists nothing gets the same.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// Energy counters tell one tenant what another computes (GHSA-7ww5-4wqc-m92c). The kubelet does not list it.
const POWERCAP: &str = "/sys/devices/virtual/powercap";
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The container's security context; an absent one has no wishes.
pub(super) fn context(config: &ContainerConfig) -> LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
}

/// Which system calls are filtered, as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seccomp {
    Unconfined,
    RuntimeDefault,
    Localhost(PathBuf),
}

/// The interface: no profile at all is unconfined, a profile without a type is RuntimeDefault, and a
/// privileged container has none whatever it asks.
pub(super) fn seccomp(security: &LinuxContainerSecurityContext) -> Result<Seccomp, Invalid> {
    if security.privileged {
        return Ok(Seccomp::Unconfined);
    }
    let field = "security_context.seccomp";
    match &security.seccomp {
        None => deprecated_seccomp(security),
        Some(profile) => match profile_type(field, profile.profile_type)? {
            ProfileType::RuntimeDefault => Ok(Seccomp::RuntimeDefault),
            ProfileType::Unconfined => Ok(Seccomp::Unconfined),
            ProfileType::Localhost => {
                localhost("security_context.seccomp.localhost_ref", &profile.localhost_ref)
            }
        },
    }
}

#[allow(deprecated, reason = "older clients still say it so")]
fn deprecated_seccomp(security: &LinuxContainerSecurityContext) -> Result<Seccomp, Invalid> {
    let field = "security_context.seccomp_profile_path";
    match security.seccomp_profile_path.as_str() {
        "" | "unconfined" => Ok(Seccomp::Unconfined),
        "runtime/default" | "docker/default" => Ok(Seccomp::RuntimeDefault),
        path => match path.strip_prefix("localhost/") {
            Some(path) => localhost(field, path),
            None => Err(Invalid::wrong(field, format!("{path} names no kind of profile"))),
        },
    }
}

fn profile_type(field: &str, number: i32) -> Result<ProfileType, Invalid> {
    let unknown = |_| Invalid::wrong(field, format!("there is no profile type {number}"));
    ProfileType::try_from(number).map_err(unknown)
}

fn localhost(field: &str, path: &str) -> Result<Seccomp, Invalid> {
    let path = Path::new(path);
    require(path.is_absolute(), field, || format!("{} is not an absolute path", path.display()))?;
    Ok(Seccomp::Localhost(path.to_owned()))
}

/// The operator's part of the settings, where a profile of his cannot be read.
pub(super) const HANDLERS_PROFILE: &str = "runtime.handlers.NAME.seccomp_profile";

/// The filter for the container. The default one depends on the capabilities that are granted.
pub(super) fn filter(
    inputs: &Inputs<'_>,
    security: &LinuxContainerSecurityContext,
    granted: &LinuxCapabilities,
) -> Result<Option<LinuxSeccomp>, Invalid> {
    let capabilities: Vec<_> = granted.bounding().iter().flatten().copied().collect();
    let (field, path) = match seccomp(security)? {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::Localhost(path) => ("security_context.seccomp.localhost_ref", path),
        Seccomp::RuntimeDefault => match inputs.handler.and_then(|handler| handler.seccomp_profile.clone()) {
            Some(path) => (HANDLERS_PROFILE, path),
            None => return Ok(Some(profiles::runtime_default(&capabilities))),
        },
    };
    let text = inputs.host.seccomp_profile.as_deref().unwrap_or_default();
    let parsed = profiles::parse(text, &capabilities);
    parsed.map(Some).map_err(|e| Invalid::wrong(field, format!("{}: {e}", path.display())))
}

/// The name of the AppArmor profile, when one is to be set.
pub(super) fn apparmor(
    inputs: &Inputs<'_>,
    security: &LinuxContainerSecurityContext,
) -> Result<Option<String>, Invalid> {
    let field = "security_context.apparmor";
    let on = inputs.host.machine.apparmor;
    match asked_apparmor(security)? {
        (_, _) if security.privileged => Ok(None),
        (ProfileType::Unconfined, _) => Ok(on.then(|| "unconfined".to_owned())),
        (ProfileType::RuntimeDefault, _) => Ok(on.then(|| inputs.settings.apparmor_profile.clone())),
        (ProfileType::Localhost, _) if !on => {
            Err(Invalid::wrong(field, "AppArmor is not enabled on this host"))
        }
        (ProfileType::Localhost, Explicit::Profile(name)) => {
            require(inputs.host.apparmor_loaded, field, || {
                format!("the profile {name} is not loaded on this host; apparmor_parser loads it")
            })?;
            Ok(Some(name))
        }
        (ProfileType::Localhost, _) => Err(Invalid::wrong(field, "localhost_ref is empty")),
    }
}

/// The profile of this host that is asked for by its name.
pub(super) fn localhost_apparmor(
    security: &LinuxContainerSecurityContext,
) -> Result<Option<String>, Invalid> {
    match asked_apparmor(security)? {
        (ProfileType::Localhost, Explicit::Profile(name)) if !security.privileged => Ok(Some(name)),
        _ => Ok(None),
    }
}

/// Whether a wish was spoken, and with which profile's name.
#[derive(Debug)]
enum Explicit {
    No,
    Yes,
    Profile(String),
}

#[allow(deprecated, reason = "older clients still say it so")]
fn asked_apparmor(security: &LinuxContainerSecurityContext) -> Result<(ProfileType, Explicit), Invalid> {
    let named = |name: &str| if name.is_empty() { Explicit::Yes } else { Explicit::Profile(name.to_owned()) };
    if let Some(profile) = &security.apparmor {
        let kind = profile_type("security_context.apparmor", profile.profile_type)?;
        let name = profile.localhost_ref.strip_prefix("localhost/").unwrap_or(&profile.localhost_ref);
        return Ok((kind, if kind == ProfileType::Localhost { named(name) } else { Explicit::Yes }));
    }
    match security.apparmor_profile.as_str() {
        "" => Ok((ProfileType::RuntimeDefault, Explicit::No)),
        "runtime/default" => Ok((ProfileType::RuntimeDefault, Explicit::Yes)),
        "unconfined" => Ok((ProfileType::Unconfined, Explicit::Yes)),
        other => match other.strip_prefix("localhost/") {
            Some(name) => Ok((ProfileType::Localhost, named(name))),
            None => Err(Invalid::wrong(
                "security_context.apparmor_profile",
                format!("{other} names no kind of profile"),
            )),
        },
    }
}

/// Labels mean nothing where SELinux is off, and the peers take them there as no wish. Where it is on and the pod has
/// none, the operator does not want them.
pub(super) fn labels(
    inputs: &Inputs<'_>,
    security: &LinuxContainerSecurityContext,
) -> Result<Option<Labels>, Invalid> {
    let Some(pod) = inputs.sandbox.labels else {
        let asked = selinux::is_asked(security.selinux_options.as_ref()) && inputs.host.machine.selinux;
        require(!asked, "security_context.selinux_options", || {
            "container.selinux in berth.toml was \"off\" when the pod was made".to_owned()
        })?;
        return Ok(None);
    };
    let is_host = inputs.sandbox.pod.pid == PidSharing::Host || inputs.sandbox.pod.ipc == Sharing::Host;
    let trust = if security.privileged || is_host { Trust::Host } else { Trust::Confined };
    let args = args::args(inputs.config, &inputs.image)?;
    let command = args.first().map(String::as_str).unwrap_or_default();
    let asked = security.selinux_options.clone().unwrap_or_default();
    let labels = selinux::of_container(pod, &asked, trust, command);
    labels.map(Some).map_err(|wrong| Invalid::wrong("security_context", wrong.to_string()))
}

/// What is masked and what is read-only.
#[derive(Debug, Default)]
pub(super) struct Paths {
    pub(super) masked: Vec<String>,
    pub(super) readonly: Vec<String>,
}

/// Empty lists are what `procMount: Unmasked` becomes on the wire, and also what a client sends that knows
/// nothing of them. The first is only allowed in a pod with a user namespace of its own, which tells them apart.
pub(super) fn paths(inputs: &Inputs<'_>, security: &LinuxContainerSecurityContext) -> Result<Paths, Invalid> {
    let says_nothing = security.masked_paths.is_empty() && security.readonly_paths.is_empty();
    if security.privileged || (says_nothing && inputs.sandbox.pod.user.is_some()) {
        return Ok(Paths::default());
    }
    let or = |asked: &[String], default: &[&str]| match asked {
        [] => default.iter().map(ToString::to_string).collect(),
        asked => asked.to_vec(),
    };
    let mut paths = Paths {
        masked: or(&security.masked_paths, &MASKED),
        readonly: or(&security.readonly_paths, &READONLY),
    };
    if !paths.masked.iter().any(|path| path == POWERCAP) {
        paths.masked.push(POWERCAP.to_owned());
    }
    for path in paths.masked.iter().chain(&paths.readonly) {
        require(Path::new(path).is_absolute(), "security_context.masked_paths", || {
            format!("{path} is not absolute")
        })?;
    }
    Ok(paths)
}
