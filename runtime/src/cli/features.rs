//! `features`: what this runtime can do, in the specification's own format (features.md, features-linux.md).
//!
//! The lists are those that the code itself decides by; a test holds the rest against what containers can have.

use runtime::seccomp::{ARCHITECTURE_NAMES, FLAG_NAMES};
use runtime::spec::{Action, NamespaceKind, Operator};
use runtime::{CAPABILITY_NAMES, MEMORY_FLAGS, MEMORY_MODES, MOUNT_OPTION_NAMES};
use serde_json::{Value, json};

use super::Error;
use super::args::Args;

pub(crate) fn features(args: Args) -> Result<u8, Error> {
    args.end()?;
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": runtime::spec::OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": MOUNT_OPTION_NAMES.as_slice(),
        "linux": linux(),
        "annotations": { "io.berth.runtime.version": env!("CARGO_PKG_VERSION") },
        // Of annotations that engines hand down for their users, these change what we do: a name that ends with a dot
        // stands for all that begin so.
        "potentiallyUnsafeConfigAnnotations": ["org.systemd.property."]
    });
    println!("{features:#}");
    Ok(0)
}

fn linux() -> Value {
    let names = |table: &[(&'static str, u32)]| table.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    json!({
        "namespaces": NamespaceKind::ALL,
        "capabilities": CAPABILITY_NAMES,
        "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true },
        "seccomp": {
            "enabled": true,
            "actions": Action::ALL,
            "operators": Operator::ALL,
            "archs": ARCHITECTURE_NAMES,
            "knownFlags": FLAG_NAMES,
            "supportedFlags": runtime::seccomp::supported_flags()
        },
        "apparmor": { "enabled": true },
        "selinux": { "enabled": true },
        "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
        "memoryPolicy": { "modes": names(MEMORY_MODES), "flags": names(MEMORY_FLAGS) },
        "mountExtensions": { "idmap": { "enabled": true } },
        "netDevices": { "enabled": true }
    })
}
