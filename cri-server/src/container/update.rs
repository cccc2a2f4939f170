//! Changes what a made container may use: a list of steps.

use std::sync::Arc;

use conmon_protocol::Ask;
use oci_spec::runtime::LinuxResources;
use proto::v1::LinuxContainerResources;

use super::plan;
use crate::error::Error;
use crate::monitor::Monitor;
use crate::node::Node;
use crate::nri;

/// A container's limits as they are, and those asked for.
#[derive(Debug)]
pub struct Order {
    pub id: Arc<str>,
    pub sandbox_id: Arc<str>,
    pub before: Arc<LinuxContainerResources>,
    pub asked: LinuxContainerResources,
    /// What the interface has no words for, as the runtime is told.
    pub rest: Option<Box<LinuxResources>>,
    pub monitor: Monitor,
}

/// The limits as they are then. The next daemon finds them on disk.
///
/// # Errors
/// When a limit cannot be honoured, or the kernel would not take it; those before it may have been taken.
pub async fn update(node: &Node, order: Order) -> Result<Arc<LinuxContainerResources>, Error> {
    let plan::Update { after, change } = plan::update(&order.before, &order.asked, plan::machine())?;
    let change = match (change, &order.rest) {
        (None, None) => return Ok(order.before),
        (change, None) => change.unwrap_or_default(),
        (change, Some(rest)) => {
            let mut change = change.unwrap_or_else(no_change);
            nri::lay_over(&mut change, rest);
            change
        }
    };
    let resources = serde_json::to_value(&change).expect("limits are made of what JSON can hold");
    order.monitor.order(Ask::Update { container_id: order.id.to_string(), resources }).await?;
    let record = node.store.sandbox(&order.sandbox_id).container(&order.id);
    record.write_message(super::LIMITS, &after)?;
    Ok(Arc::new(after))
}

/// The default has rules for devices, which would be a change.
fn no_change() -> LinuxResources {
    let mut nothing = LinuxResources::default();
    nothing.set_devices(None);
    nothing
}
