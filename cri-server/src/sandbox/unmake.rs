//! Takes a sandbox away: for a making that failed, for Stop and Remove, and after a restart. Safe from any
//! point and safe twice. It goes on past what fails and tells of it at the end.
//!
//! [`still`] is the first half, and all that StopPodSandbox does: no process, no network, no monitor.

use std::sync::Arc;

use conmon_protocol::Ask;

use crate::container;
use crate::error::{Error, chain};
use crate::monitor::{self, Monitor};
use crate::node::Node;
use crate::step::traced;
use crate::store::Record;

/// What a network plugin's refusal to give back an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A failure: whoever asked asks again, and sees why.
    Failure,
    /// A debt: the record stays, the sweep tries again, and nothing else waits for it.
    Debt,
}

/// Ends the pod's processes and gives back its network, namespaces and memory. Its files stay.
///
/// # Errors
/// Tells what is still there.
pub async fn still(
    node: &Node,
    sandbox_id: &str,
    monitor: Option<Monitor>,
    refusal: Refusal,
) -> Result<(), Error> {
    // The plugins want to see the namespace, so the pins go last.
    let network = traced(sandbox_id, "sandbox.detach", detach(node, sandbox_id, refusal)).await;
    let pod = traced(sandbox_id, "sandbox.unmake", unmake_pod(node, sandbox_id, monitor)).await;
    Error::of_leftovers([network, pod].into_iter().filter_map(Result::err).collect())
}

/// Takes all of it away. A network that a plugin will not give back holds up nothing else: its record is the
/// network's own, and [`crate::recover::sweep`] tries again.
///
/// # Errors
/// Tells what is still there.
pub async fn unmake(node: &Node, sandbox_id: &str, monitor: Option<Monitor>) -> Result<(), Error> {
    let network = traced(sandbox_id, "sandbox.detach", detach(node, sandbox_id, Refusal::Debt)).await;
    let rest = unmake_rest(node, sandbox_id, monitor).await;
    Error::of_leftovers([rest, network].into_iter().filter_map(Result::err).collect())
}

async fn unmake_rest(node: &Node, sandbox_id: &str, monitor: Option<Monitor>) -> Result<(), Error> {
    unmake_pod(node, sandbox_id, monitor).await?;
    let record = node.store.sandbox(sandbox_id);
    let mut errors: Vec<Error> = Vec::new();
    for container_id in record.containers() {
        errors.extend(container::unmake::unmake(node, sandbox_id, &container_id, None).await.err());
    }
    if errors.is_empty() {
        errors.extend(record.unmake().err().map(Error::from));
    }
    Error::of_leftovers(errors)
}

async fn detach(node: &Node, sandbox_id: &str, refusal: Refusal) -> Result<(), Error> {
    let Err(error) = node.network.detach(sandbox_id).await else { return Ok(()) };
    let error = Error::Network { id: sandbox_id.into(), source: Arc::new(error) };
    match refusal {
        Refusal::Failure => Err(error),
        Refusal::Debt => {
            tracing::error!(
                sandbox = sandbox_id,
                error = chain(&error),
                "its network is not given back yet; it is tried again every few minutes"
            );
            Ok(())
        }
    }
}

/// Has the monitor end everything and then itself. Where it is not there, one is started for the purpose,
/// since only a monitor knows what a monitor has made.
async fn unmake_pod(node: &Node, sandbox_id: &str, monitor: Option<Monitor>) -> Result<(), Error> {
    let record = node.store.sandbox(sandbox_id);
    // Without a lock there never was a monitor, or the last one has taken everything away.
    if !record.dir().join("monitor.lock").exists() {
        return Ok(());
    }
    if let Some(monitor) = monitor {
        match monitor.order(Ask::UnmakePod).await {
            Ok(()) => return forget_monitor(node, &record),
            Err(monitor::Error::Gone) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let monitor = node.monitors.reach(record.dir()).await?.monitor;
    monitor.order(Ask::UnmakePod).await?;
    forget_monitor(node, &record)
}

/// No lock is the mark that all a monitor made is gone.
fn forget_monitor(node: &Node, record: &Record) -> Result<(), Error> {
    node.monitors.forget(record.dir());
    let lock = record.dir().join("monitor.lock");
    match std::fs::remove_file(&lock) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", lock.display()), error))
        }
        _ => Ok(()),
    }
}
