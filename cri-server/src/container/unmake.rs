//! Takes a container away: for a making that failed, for Remove, and after a restart. Safe from any point
//! and safe twice. It goes on past what fails and tells of it at the end.

use conmon_protocol::Ask;

use super::volume;
use crate::error::Error;
use crate::monitor::Monitor;
use crate::node::Node;

/// `monitor` is the pod's; none when the pod has been stilled, since then nothing runs any more.
///
/// # Errors
/// Tells what is still there.
pub async fn unmake(
    node: &Node,
    sandbox_id: &str,
    container_id: &str,
    monitor: Option<&Monitor>,
) -> Result<(), Error> {
    let mut errors: Vec<Error> = Vec::new();
    if let Some(monitor) = monitor {
        let deleted = monitor.order(Ask::Delete { container_id: container_id.into() }).await;
        errors.extend(deleted.err().map(Error::from));
    }
    // A layer under a process that may still run is not to be taken away.
    if errors.is_empty() {
        errors.extend(node.images.unmake_writable(container_id).await.err().map(Error::from));
    }
    let record = node.store.sandbox(sandbox_id).container(container_id);
    if errors.is_empty() {
        errors.extend(volume::unmount_all(node, &record, container_id).await.err());
    }
    if errors.is_empty() {
        errors.extend(record.unmake().err().map(Error::from));
    }
    Error::of_leftovers(errors)
}
