//! The pods' network: one handle, cheap to clone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{Attachment, Error, NotReady, Pod};

/// Where things are, and how patient to be.
#[derive(Debug, Clone)]
pub struct Settings {
    pub conf_dir: PathBuf,
    /// Searched in order.
    pub bin_dirs: Vec<PathBuf>,
    /// Attachment records; must outlive a reboot.
    pub state_dir: PathBuf,
    /// Name of the network to use; without it the first file by name decides.
    pub default_network: Option<String>,
    /// How long one run of one plugin may take.
    pub plugin_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            state_dir: "/var/lib/berth/cni".into(),
            default_network: None,
            plugin_timeout: Duration::from_secs(30),
        }
    }
}

/// The pods' network. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    settings: Arc<Settings>,
}

impl Network {
    /// Opens the records and starts watching the configuration directory and its parent.
    /// Call it inside a tokio runtime.
    pub fn open(settings: Settings) -> Result<Network, Error> {
        Ok(Network { settings: Arc::new(settings) })
    }

    /// Whether a pod could be attached now. Never blocks.
    pub fn ready(&self) -> Result<(), NotReady> {
        let _ = &self.settings;
        todo!()
    }

    /// ADD. The record is written first; what a failed ADD left is taken away again.
    pub async fn attach(&self, pod: &Pod) -> Result<Attachment, Error> {
        let _ = pod;
        todo!()
    }

    /// DEL with the configuration that was used. An unknown sandbox is already detached.
    pub async fn detach(&self, sandbox_id: &str) -> Result<(), Error> {
        let _ = sandbox_id;
        todo!()
    }

    /// CHECK: whether the attachment is as ADD left it.
    pub async fn check(&self, sandbox_id: &str) -> Result<(), Error> {
        let _ = sandbox_id;
        todo!()
    }

    /// What the plugins gave this sandbox; none while ADD has not finished.
    pub fn attachment(&self, sandbox_id: &str) -> Option<Attachment> {
        let _ = sandbox_id;
        todo!()
    }

    /// Every sandbox that has a record, finished or not.
    pub fn attachments(&self) -> Vec<String> {
        todo!()
    }

    /// GC: tells the plugins which sandboxes are alive, so that they give back everything else. Records of
    /// others are detached first.
    pub async fn gc(&self, keep: &[String]) -> Result<(), Error> {
        let _ = keep;
        todo!()
    }
}
