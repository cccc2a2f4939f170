//! Changes of limits that the kubelet asks for, with plugins: they hear of them first, and may change what is asked of
//! a container.

use proto::nri::Event;
use proto::v1::{LinuxContainerResources, UpdatePodSandboxResourcesRequest};
use tokio::sync::oneshot;

use super::actor::Job;
use super::describe::Subject;
use super::{Error, Updated, resources, update};
use crate::error::{Error as NodeError, Noun};
use crate::node::Node;
use crate::sandbox::task::Message;

/// Changes a container's limits as asked and as plugins wish.
///
/// # Errors
/// When there is no such container, a plugin says no, or a limit cannot be honoured.
pub(crate) async fn change_limits(
    node: &Node,
    id: &str,
    asked: LinuxContainerResources,
) -> Result<(), NodeError> {
    let world = node.world.now();
    let container = world.container(id)?;
    let sandbox = world.sandbox(&container.facts.sandbox_id)?;
    let subject = Subject::container(sandbox.clone(), container.clone());
    let wanting = node.nri.shared.as_ref().filter(|shared| shared.wants(Event::UpdateContainer));
    // What has ended is refused by its task, and is no event.
    let (asked, rest) = match wanting.filter(|_| container.life.pid().is_some()) {
        None => (asked, None),
        Some(shared) => {
            let (reply, answer) = oneshot::channel();
            let asked = Box::new(resources::from_cri(&asked));
            shared.send(Job::Update { subject, asked, reply });
            let Updated { resources, others } = answer.await.map_err(|_| NodeError::Stopping)??;
            update::all_or_error(node, "a change of limits", others).await?;
            let rest = resources::rest_of_change(&resources).map_err(Error::from)?;
            (resources::to_cri(&resources), rest.map(Box::new))
        }
    };
    let (reply, heard) = oneshot::channel();
    let gone = || NodeError::NotFound { noun: Noun::Container, id: id.to_owned() };
    let message =
        Message::Update { container_id: container.facts.id.clone(), asked: Box::new(asked), rest, reply };
    sandbox.task.send(message).await.map_err(|_| gone())?;
    heard.await.map_err(|_| gone())??;
    let now = node.world.now();
    if let Some(container) = now.containers.get(&container.facts.id) {
        node.nri.tell(Event::PostUpdateContainer, Subject::container(sandbox, container.clone()));
    }
    Ok(())
}

/// Notes a pod's limits, unless a plugin is against it.
///
/// # Errors
/// When there is no such pod, it is not ready, or a plugin says no.
pub(crate) async fn change_pod_limits(
    node: &Node,
    limits: Box<UpdatePodSandboxResourcesRequest>,
) -> Result<(), NodeError> {
    let id = limits.pod_sandbox_id.clone();
    let sandbox = node.world.now().sandbox(&id)?;
    let gone = || NodeError::NotFound { noun: Noun::Sandbox, id: id.clone() };
    let wanting = node.nri.shared.as_ref().filter(|shared| shared.wants(Event::UpdatePodSandbox));
    // One that is not ready is refused by its task, and is no event.
    if let Some(shared) = wanting.filter(|_| sandbox.life.is_ready()) {
        let told = |asked: &Option<LinuxContainerResources>| {
            Box::new(asked.as_ref().map(resources::from_cri).unwrap_or_default())
        };
        let (reply, answer) = oneshot::channel();
        let (overhead, resources) = (told(&limits.overhead), told(&limits.resources));
        let subject = Subject::pod(sandbox.clone());
        shared.send(Job::UpdatePod { subject, overhead, resources, reply });
        answer.await.map_err(|_| NodeError::Stopping)??;
    }
    let (reply, heard) = oneshot::channel();
    sandbox.task.send(Message::UpdatePod { limits, reply }).await.map_err(|_| gone())?;
    heard.await.map_err(|_| gone())??;
    if let Some(sandbox) = node.world.now().sandboxes.get(&sandbox.facts.id) {
        node.nri.tell(Event::PostUpdatePodSandbox, Subject::pod(sandbox.clone()));
    }
    Ok(())
}
