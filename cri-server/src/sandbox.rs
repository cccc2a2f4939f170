//! Sandboxes: what one is to be (plan), how far it is (life), how it is made and taken away (make,
//! unmake), and the task that owns it (task).

use std::net::IpAddr;
use std::sync::Arc;

use proto::v1;

use crate::monitor::Monitor;

pub mod life;
pub mod make;
pub mod plan;
pub mod task;
pub mod unmake;

pub use life::Life;
pub use plan::Plan;

/// What the whole pod may use, as the kubelet said it last: overhead and resources.
pub type PodLimits = v1::UpdatePodSandboxResourcesRequest;

/// Where changed limits are kept.
pub const LIMITS: &str = "limits";

/// A sandbox as readers see it.
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub facts: Arc<Facts>,
    pub life: Life,
    /// The primary one first. None when the pod uses the host's network, or has given them back.
    pub ips: Vec<IpAddr>,
    /// Changed since it was made; `None`: as asked for then.
    pub limits: Option<Arc<PodLimits>>,
    /// None when there is nothing left to watch, and while a dead one is being replaced.
    pub monitor: Option<Monitor>,
    /// Where its task hears.
    pub task: task::Mailbox,
}

/// What never changes about a sandbox.
#[derive(Debug)]
pub struct Facts {
    pub id: Arc<str>,
    pub request: v1::RunPodSandboxRequest,
    pub plan: Plan,
}

/// What makes a sandbox the same one when it is asked for again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub attempt: u32,
}

impl Sandbox {
    /// Overhead and resources of the whole pod, as the kubelet said them last.
    pub fn pod_limits(&self) -> (Option<v1::LinuxContainerResources>, Option<v1::LinuxContainerResources>) {
        match self.limits.as_deref() {
            Some(limits) => (limits.overhead.clone(), limits.resources.clone()),
            None => {
                let asked = self.facts.config().linux.clone().unwrap_or_default();
                (asked.overhead, asked.resources)
            }
        }
    }
}

impl Facts {
    /// What was asked for. A plan is only made of a request that has it.
    pub fn config(&self) -> &v1::PodSandboxConfig {
        self.request.config.as_ref().expect("a sandbox was planned from its config")
    }
}

impl Name {
    pub fn of(request: &v1::RunPodSandboxRequest) -> Self {
        let metadata = request.config.as_ref().and_then(|config| config.metadata.clone()).unwrap_or_default();
        Self {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            attempt: metadata.attempt,
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} (uid {}, attempt {})", self.namespace, self.name, self.uid, self.attempt)
    }
}
