//! Answers that come in many messages: long lists, and the events of containers.

use std::sync::Arc;

use futures_util::stream::{self, BoxStream};
use proto::v1;
use tokio::sync::broadcast;
use tonic::Status;

use super::words;
use crate::node::Node;
use crate::world::Change;

/// Items in one message of a streamed list; far below the limit of 16 MiB.
const STREAM_ITEMS: usize = 1000;
/// A pod's metrics are some 20 KiB for each of its containers.
const STREAM_LARGE_ITEMS: usize = 50;

pub(super) type Streamed<T> = BoxStream<'static, Result<T, Status>>;

/// All that happens from now on, until the client goes away.
pub(super) fn events(node: Arc<Node>) -> Streamed<v1::ContainerEventResponse> {
    let changes = node.world.changes();
    Box::pin(stream::unfold((node, changes), |(node, mut changes)| async move {
        let change = next_change(&node, &mut changes).await?;
        let event = container_event(&node, &change);
        Some((Ok(event), (node, changes)))
    }))
}

/// A list in messages of bounded size; at least the end of the stream is always told.
pub(super) fn pieces<T: Send + 'static, M: Send + 'static>(
    items: Vec<T>,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Streamed<M> {
    pieces_of(STREAM_ITEMS, items, message)
}

/// The same for items that are large.
pub(super) fn small_pieces<T: Send + 'static, M: Send + 'static>(
    items: Vec<T>,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Streamed<M> {
    pieces_of(STREAM_LARGE_ITEMS, items, message)
}

fn pieces_of<T: Send + 'static, M: Send + 'static>(
    size: usize,
    items: Vec<T>,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Streamed<M> {
    let items = items.into_iter();
    let messages = stream::unfold((items, message), move |(mut items, message)| async move {
        let piece: Vec<T> = items.by_ref().take(size).collect();
        if piece.is_empty() { None } else { Some((Ok(message(piece)), (items, message))) }
    });
    Box::pin(messages)
}

/// The next change; one that was missed for slowness is made up for by the kubelet's relisting.
async fn next_change(node: &Node, changes: &mut broadcast::Receiver<Change>) -> Option<Change> {
    loop {
        match changes.recv().await {
            Ok(change) => return Some(change),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                node.metrics.dropped_events(missed);
                tracing::warn!(missed, "a watcher of container events is too slow");
            }
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}

/// With the states of the whole pod, as the evented kubelet wants it instead of asking.
fn container_event(node: &Node, change: &Change) -> v1::ContainerEventResponse {
    let world = node.world.now();
    let sandbox_id = change.sandbox.facts.id.clone();
    let sandbox = world.sandboxes.get(&sandbox_id).unwrap_or(&change.sandbox);
    v1::ContainerEventResponse {
        container_id: change.id.to_string(),
        container_event_type: change.kind.into(),
        created_at: change.at_ns,
        pod_sandbox_status: Some(words::pod_sandbox_status(sandbox)),
        containers_statuses: words::statuses_in(&world, &sandbox_id),
    }
}
