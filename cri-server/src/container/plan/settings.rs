//! What the operator decides about every container: the `[container]` table of `berth.toml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ImageVolumes, Invalid, capabilities};
use crate::config::section::section;

section! {
    /// What every container gets. (reload)
    pub struct Settings {
        /// Capabilities of a container that asks for nothing, without the `CAP_` prefix.
        default_capabilities: Vec<String> = DEFAULT_CAPABILITIES.map(String::from).to_vec(),
        /// `NAME=value` for every container, before the image's and the pod's own.
        default_env: Vec<String> = Vec::new(),
        /// Processes and threads a container may have; 0 leaves it to the pod's cgroup.
        pids_limit: i64 = 0,
        /// The AppArmor profile of containers that ask for the runtime's default or for none, where AppArmor is on:
        /// berthd loads `berth-default`; any other must be loaded already, but for `unconfined`.
        apparmor_profile: String = crate::apparmor::DEFAULT.into(),
        /// SELinux labels for pods: `auto` where the kernel has SELinux, `on` everywhere or no pod starts, `off` nowhere.
        selinux: SelinuxUse = SelinuxUse::Auto,
        /// Where vendors describe devices (CDI, JSON and YAML); a later directory wins.
        cdi_spec_dirs: Vec<PathBuf> = vec!["/etc/cdi".into(), "/var/run/cdi".into()],
        /// Where hooks for all containers that fit are (oci-hooks(5) 1.0.0); a later directory wins. Each file that is
        /// there counts: a broken one keeps containers from being made.
        hooks_dirs: Vec<PathBuf> = vec!["/usr/share/containers/oci/hooks.d".into(), "/etc/containers/oci/hooks.d".into()],
        /// What becomes of the volumes that an image declares (VOLUME) and no mount of the pod covers: `mkdir`, directories
        /// of the container's root file system, counted and checkpointed with it, and read-only where that is; `bind`, as
        /// containerd has them, directories beside it with a copy of what the image has there, always writable and never
        /// on an overlay; `ignore`, nothing. Where the image has no such directory it belongs to the container's user.
        image_volumes: ImageVolumes = ImageVolumes::Mkdir,
        /// Classes of block I/O that annotations name (`blockio.resources.beta.kubernetes.io/pod` and the like), in the
        /// format that containerd and CRI-O read. Empty: none. Read for each container that names one.
        blockio_config_file: PathBuf = PathBuf::new(),
        /// Classes of Intel RDT that annotations name (`rdt.resources.beta.kubernetes.io/pod` and the like), in the format
        /// that containerd and CRI-O read; they are set up in resctrl when the daemon begins and when settings are read
        /// anew. Empty: classes are the directories that are in resctrl.
        rdt_config_file: PathBuf = PathBuf::new(),
        /// Gives privileged containers the default devices only, not all of the host's.
        privileged_without_host_devices: bool = false,
        /// Seconds that a volume gets to answer while a container is made, from 1 to 90: one whose server is away fails the
        /// making by then, and not the node.
        volume_timeout_s: u64 = 30,
    }
}

/// Whether pods are labelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelinuxUse {
    #[default]
    Auto,
    On,
    Off,
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

impl Settings {
    /// Whether every container could be planned with them.
    ///
    /// # Errors
    /// Names the first key that none could.
    pub fn check(&self) -> Result<(), Invalid> {
        capabilities::parse("default_capabilities", &self.default_capabilities)?;
        // Less than the monitor's own deadline, so that its words are heard.
        if !(1..=90).contains(&self.volume_timeout_s) {
            return Err(Invalid::wrong(
                "volume_timeout_s",
                format!("{} is not from 1 to 90", self.volume_timeout_s),
            ));
        }
        let names_itself = |entry: &&String| entry.split_once('=').is_none_or(|(name, _)| name.is_empty());
        match self.default_env.iter().find(names_itself) {
            Some(entry) => Err(Invalid::wrong("default_env", format!("{entry:?} is not NAME=value"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_no_container_could_have_are_refused() {
        let check = |settings: Settings, words: &str| {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        assert!(Settings::default().check().is_ok());
        check(
            Settings { default_capabilities: vec!["FLY".into()], ..Settings::default() },
            "no capability FLY",
        );
        check(Settings { default_env: vec!["=x".into()], ..Settings::default() }, "not NAME=value");
        check(Settings { default_env: vec!["x".into()], ..Settings::default() }, "not NAME=value");
    }
}
