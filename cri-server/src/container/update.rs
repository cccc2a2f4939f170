//! Changes what a made container may use: a list of steps.

use std::sync::Arc;

use conmon_protocol::Ask;
use proto::v1::LinuxContainerResources;

use super::plan;
use crate::error::Error;
use crate::monitor::Monitor;
use crate::node::Node;

/// A container's limits as they are, and those asked for.
#[derive(Debug)]
pub struct Order {
    pub id: Arc<str>,
    pub sandbox_id: Arc<str>,
    pub before: Arc<LinuxContainerResources>,
    pub asked: LinuxContainerResources,
    pub monitor: Monitor,
}

/// The limits as they are then. The next daemon finds them on disk.
///
/// # Errors
/// When a limit cannot be honoured, or the kernel would not take it; those before it may have been taken.
pub async fn update(node: &Node, order: Order) -> Result<Arc<LinuxContainerResources>, Error> {
    let plan::Update { after, change } = plan::update(&order.before, &order.asked, plan::machine())?;
    let Some(change) = change else { return Ok(order.before) };
    let resources = serde_json::to_value(&change).expect("limits are made of what JSON can hold");
    order.monitor.order(Ask::Update { container_id: order.id.to_string(), resources }).await?;
    let record = node.store.sandbox(&order.sandbox_id).container(&order.id);
    record.write_message(super::LIMITS, &after)?;
    Ok(Arc::new(after))
}
