//! The record of a container: `state.json` in its directory under the runtime's root, and what it is now.
//!
//! The record says what was made; whether it lives is asked of the kernel. The start FIFO is there until `start`.

mod dir;
mod fifo;
mod init;

pub(crate) use dir::StateDir;
pub use dir::read_whole;
pub(crate) use fifo::Outcome;
pub(crate) use init::Init;
#[cfg(feature = "fuzzing")]
pub(crate) use init::parse_stat;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Cgroup, Scope};
use crate::listener::Listener;
use crate::netdev;
use crate::plan::MemoryPolicy;
use crate::rdt;
use crate::shared_root::SharedRoot;
use crate::spec::{self, Hooks};

/// What `state` answers: the OCI specification's words.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub oci_version: String,
    pub id: String,
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    pub bundle: PathBuf,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Created,
    Running,
    /// Frozen by `pause`. Not one of the specification's words; runc's, and engines know it.
    Paused,
    Stopped,
}

impl Status {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// `state.json`: all that `start`, `exec`, `kill` and `delete` need, whichever process they run in.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// Of the configuration, which later changes are read by. None in records of before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config_version: Option<String>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    /// None until the init is cloned.
    pub(crate) init: Option<Init>,
    pub(crate) cgroup_path: String,
    /// systemd's unit that the cgroup is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<Scope>,
    /// Flags of the namespaces that are not the host's.
    pub(crate) namespaces: u64,
    /// Flags of the seccomp filter beside the record.
    pub(crate) seccomp_flags: Option<u32>,
    pub(crate) personality: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_policy: Option<MemoryPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) listener: Option<Listener>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shared_root: Option<SharedRoot>,
    /// What was lent to it, until it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) net_devices: Option<netdev::Loan>,
    /// The container's place in resctrl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rdt: Option<rdt::Groups>,
    /// What an exec from the command line takes over.
    pub(crate) process: spec::Process,
    pub(crate) hooks: Hooks,
    /// Seconds since the epoch.
    pub(crate) created_s: u64,
    /// Of the boot that it was made in, where the record may outlive that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot_id: Option<String>,
    /// Its processes, and whatever else was of that boot, are gone.
    #[serde(skip)]
    pub(crate) of_earlier_boot: bool,
}

impl Record {
    /// Its cgroup, opened for nothing yet.
    pub(crate) fn cgroup(&self) -> Result<Cgroup, cgroup::Error> {
        Ok(Cgroup::at(&self.cgroup_path)?.in_scope(self.scope.clone()))
    }

    pub(crate) fn state(&self, status: Status) -> State {
        State {
            oci_version: spec::OCI_VERSION.to_owned(),
            id: self.id.clone(),
            status,
            pid: self.init.filter(|_| status != Status::Stopped).map(|init| init.pid),
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }

    /// Without a PID namespace of its own the kernel ends nobody when the init ends.
    pub(crate) fn outlives_its_init(&self) -> bool {
        self.namespaces & kernel::clone_flags::NEWPID == 0 && !self.of_earlier_boot
    }

    pub(crate) fn status(&self, dir: &StateDir) -> Status {
        match &self.init {
            // Whoever made it did not live to tell.
            _ if self.of_earlier_boot => Status::Stopped,
            None => Status::Creating,
            Some(init) if !init.is_alive() => Status::Stopped,
            Some(_) if dir.waits_for_start() => Status::Created,
            Some(_) => Status::Running,
        }
    }
}
