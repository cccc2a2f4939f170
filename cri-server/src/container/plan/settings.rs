//! What the operator decides about every container: the `[container]` table of `berth.toml`.

use crate::config::section::section;

section! {
    /// What every container gets.
    pub struct Settings {
        /// Capabilities of a container that asks for nothing, without the `CAP_` prefix.
        default_capabilities: Vec<String> = DEFAULT_CAPABILITIES.map(String::from).to_vec(),
        /// `NAME=value` for every container, before the image's and the pod's own.
        default_env: Vec<String> = Vec::new(),
        /// Processes and threads a container may have; 0 leaves it to the pod's cgroup.
        pids_limit: i64 = 0,
        /// Gives privileged containers the default devices only, not all of the host's.
        privileged_without_host_devices: bool = false,
    }
}

/// What Docker, containerd and the Kubernetes documentation count on.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];
