//! Changes that plugins ask for of containers that are there: limits, and ends.

use std::sync::Arc;
use std::time::Duration;

use proto::nri::{ContainerEviction, ContainerUpdate, LinuxResources};
use tokio::sync::oneshot;

use super::{Error, resources};
use crate::container::life::Ask;
use crate::error::{Error as NodeError, Noun, chain};
use crate::node::Node;
use crate::sandbox::task::Message;

/// A container that a plugin evicts gets as long to end as a pod that says nothing about it (Kubernetes,
/// terminationGracePeriodSeconds).
const EVICTION_GRACE: Duration = Duration::from_secs(30);

/// Makes them one after the other.
///
/// # Errors
/// The first that cannot be made; the others are made all the same.
pub(super) async fn all_or_error(
    node: &Node,
    by: &str,
    updates: Vec<ContainerUpdate>,
) -> Result<(), NodeError> {
    match all(node, by, updates).await.into_iter().next() {
        None => Ok(()),
        Some((update, source)) => {
            let (container_id, source) = (update.container_id, Box::new(source));
            Err(Error::Other { container_id, source }.into())
        }
    }
}

/// Makes them one after the other. What could not be made, save what may fail in silence, comes back with why.
pub(super) async fn all(
    node: &Node,
    by: &str,
    updates: Vec<ContainerUpdate>,
) -> Vec<(ContainerUpdate, NodeError)> {
    let mut failed = Vec::new();
    for update in updates {
        let Err(error) = one(node, &update).await else { continue };
        tracing::warn!(
            container = update.container_id,
            error = chain(&error),
            "an update that {by} asks for cannot be made"
        );
        if !update.ignore_failure {
            failed.push((update, error));
        }
    }
    failed
}

async fn one(node: &Node, update: &ContainerUpdate) -> Result<(), NodeError> {
    let Some(wished) = update.linux.as_ref().and_then(|linux| linux.resources.as_ref()) else {
        return Ok(());
    };
    limits(node, &update.container_id, wished).await
}

/// Changes the limits of a container to what is wished.
///
/// # Errors
/// When there is no such container, or a limit cannot be honoured.
pub(super) async fn limits(node: &Node, id: &str, wished: &LinuxResources) -> Result<(), NodeError> {
    let rest = resources::rest_of_change(wished).map_err(Error::from)?;
    let asked = Box::new(resources::to_cri(wished));
    let gone = || NodeError::NotFound { noun: Noun::Container, id: id.to_owned() };
    let world = node.world.now();
    let container = world.containers.get(id).ok_or_else(gone)?;
    let sandbox = world.sandbox(&container.facts.sandbox_id)?;
    let (reply, heard) = oneshot::channel();
    let message =
        Message::Update { container_id: container.facts.id.clone(), asked, rest: rest.map(Box::new), reply };
    sandbox.task.send(message).await.map_err(|_| gone())?;
    heard.await.map_err(|_| gone())?
}

/// Ends a container in its own time; nobody waits for it.
pub(super) fn evict(node: &Arc<Node>, by: &str, eviction: ContainerEviction) {
    let ContainerEviction { container_id, reason } = eviction;
    tracing::warn!(container = container_id, reason, "{by} evicts a container");
    let node = node.clone();
    tokio::spawn(async move {
        let world = node.world.now();
        let Some(container) = world.containers.get(container_id.as_str()) else { return };
        let Ok(sandbox) = world.sandbox(&container.facts.sandbox_id) else { return };
        let now_ms = node.now_ms();
        let kill_at_ms = now_ms + EVICTION_GRACE.as_millis() as u64;
        let (reply, heard) = oneshot::channel();
        let (container_id, ask) = (container.facts.id.clone(), Ask::Stop { kill_at_ms, now_ms });
        // A task that is gone has taken its containers with it.
        if sandbox.task.send(Message::Container { container_id, ask, reply }).await.is_ok()
            && let Ok(Err(error)) = heard.await
        {
            tracing::error!(error = chain(&error), "an eviction failed");
        }
    });
}
