//! The making of a container, with plugins: they are told of the plan, and the plan becomes what they want.

use proto::nri::Event;
use proto::v1::{ContainerConfig, LinuxContainerResources};
use tokio::sync::oneshot;

use super::actor::Job;
use super::describe::{self, About};
use super::{Birth, Created, Error, apply, update};
use crate::container::plan::{self, ContainerPlan};
use crate::error::Error as NodeError;
use crate::node::Node;
use crate::sandbox;
use proto::nri::ContainerAdjustment;

/// What plugins want of a container that is about to be made.
#[derive(Debug)]
pub(crate) struct Adjusted {
    adjust: ContainerAdjustment,
    /// The request with what of it the CRI has words for.
    pub(crate) config: ContainerConfig,
}

/// Asks the plugins about a plan. None of them wants anything: none.
///
/// # Errors
/// When a plugin says no, two want the same, or something they want cannot be done.
pub(crate) async fn adjusted(
    node: &Node,
    sandbox: &sandbox::Facts,
    about: &About<'_>,
) -> Result<(Birth, Option<Adjusted>), NodeError> {
    let known = node.world.now().sandboxes.get(&sandbox.id).cloned();
    let pod = match &known {
        Some(known) => describe::known_pod(known),
        None => describe::pod(sandbox, Vec::new(), None),
    };
    let container = describe::container(about);
    let birth = node.nri.birth(about.id.into(), pod.clone(), Some(container.clone()));
    let always = node.config().nri.default_validator.enable;
    let Some(shared) = node.nri.shared.as_ref().filter(|shared| {
        always || shared.wants(Event::CreateContainer) || shared.wants(Event::ValidateContainerAdjustment)
    }) else {
        return Ok((birth, None));
    };
    let (reply, answer) = oneshot::channel();
    shared.send(Job::Create { pod: Box::new(pod), container: Box::new(container), reply });
    let Created { adjust, updates } = answer.await.map_err(|_| NodeError::Stopping)??;
    update::all_or_error(node, "the making of a container", updates).await?;
    if adjust == ContainerAdjustment::default() {
        return Ok((birth, None));
    }
    let config = apply::request(about.config, &adjust, plan::machine())?;
    Ok((birth, Some(Adjusted { adjust, config })))
}

impl Adjusted {
    /// The rest of it, in a plan that was made of the changed request.
    ///
    /// # Errors
    /// Names what cannot be done.
    pub(crate) fn apply(&self, node: &Node, plan: &mut ContainerPlan) -> Result<(), NodeError> {
        let config = node.config();
        let here = apply::Here {
            driver: config.runtime.cgroup_driver,
            machine: plan::machine(),
            blockio_config_file: &config.container.blockio_config_file,
        };
        apply::plan(plan, &self.adjust, &here).map_err(|unfit| Error::from(unfit).into())
    }

    /// The limits, when they are not those of the request any more.
    pub(crate) fn limits(&self, before: &ContainerConfig) -> Option<LinuxContainerResources> {
        let of = |config: &ContainerConfig| config.linux.as_ref().and_then(|linux| linux.resources.clone());
        of(&self.config).filter(|limits| of(before).as_ref() != Some(limits))
    }

    /// Where on the host the mounts come from that plugins add.
    pub(crate) fn sources(&self) -> impl Iterator<Item = std::path::PathBuf> + '_ {
        let bound = self.adjust.mounts.iter().filter(|mount| !mount.destination.starts_with('-'));
        bound.map(|mount| std::path::PathBuf::from(&mount.source)).filter(|source| source.is_absolute())
    }
}
