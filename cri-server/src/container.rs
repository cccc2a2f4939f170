//! Containers: what one is to be (plan), how far it is (life), and how it is made and taken away (make,
//! unmake). The task of its sandbox owns it.

use std::sync::Arc;

use proto::v1;
use serde::{Deserialize, Serialize};

pub mod life;
pub mod make;
pub mod plan;
mod target;
mod trust;
pub mod unmake;
pub mod update;
pub mod volume;

pub use life::Life;

/// A container as readers see it.
#[derive(Debug, Clone)]
pub struct Container {
    pub facts: Arc<Facts>,
    pub life: Life,
    /// Changed since it was made; `None`: as asked for then.
    pub limits: Option<Arc<v1::LinuxContainerResources>>,
}

/// What never changes about a container.
#[derive(Debug)]
pub struct Facts {
    pub id: Arc<str>,
    pub sandbox_id: Arc<str>,
    pub config: v1::ContainerConfig,
    pub made: Made,
}

/// What was decided when it was made. Stored as the container's `plan`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Made {
    /// `sha256:…` of the image, whatever name it was asked by.
    pub image_id: String,
    /// The same of the volumes that are images, by the index of the mount.
    #[serde(default)]
    pub volume_image_ids: Vec<Option<String>>,
    pub created_at_ns: i64,
    /// Without what is in the bundle's config.json alone; see [`slim`].
    pub plan: plan::ContainerPlan,
}

/// Where changed limits are kept.
pub const LIMITS: &str = "limits";

impl Container {
    /// What it may use now.
    pub fn resources(&self) -> v1::LinuxContainerResources {
        self.limits.as_deref().cloned().unwrap_or_else(|| self.facts.asked_resources())
    }
}

impl Facts {
    /// What it might use when it was made.
    pub fn asked_resources(&self) -> v1::LinuxContainerResources {
        self.config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default()
    }
}

/// Name and attempt: what makes it the same container of its sandbox when it is asked for again.
pub type Name = (String, u32);

pub fn name(config: &v1::ContainerConfig) -> Name {
    let metadata = config.metadata.clone().unwrap_or_default();
    (metadata.name, metadata.attempt)
}

/// A plan with the process and nothing else of its specification: all that is asked for once the container
/// is made. The whole one, with hundreds of system calls in its filter, is tens of KiB a container.
pub fn slim(mut plan: plan::ContainerPlan) -> plan::ContainerPlan {
    plan.spec.set_linux(None).set_mounts(None).set_hooks(None).set_annotations(None);
    plan
}
