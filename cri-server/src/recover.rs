//! After a start of the daemon: finds every pod again, and gives back what belongs to none.
//!
//! First all records are read and published, which takes no waiting, so that lists are whole from the first
//! answer on. Then each sandbox's task reaches its monitor and brings its state up to date; meanwhile
//! nothing may be made or taken away.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::container;
use crate::error::{Error, chain};
use crate::node::Node;
use crate::nri;
use crate::sandbox::task::{self, Found};
use crate::sandbox::{self, Life, unmake};
use crate::store::Record;

/// A plugin that refused is seldom better within a minute, and an address is scarce within an hour.
const SWEEP_PAUSE: Duration = Duration::from_secs(300);

/// Requests wait for it, and no longer than that for all of the recovery.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Tasks that bring their sandboxes up to date.
#[derive(Debug, Default)]
pub struct Recovery {
    tasks: Vec<oneshot::Receiver<()>>,
    unreadable: Vec<String>,
}

/// Forgets what was kept before the last boot: none of its processes lives. On a tmpfs nothing is there.
///
/// # Errors
/// When the directory cannot be used.
pub fn forget_last_boot(run: &Path) -> Result<(), Error> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mark = run.join("boot-id");
    if std::fs::read_to_string(&mark).is_ok_and(|before| before == boot_id) {
        return Ok(());
    }
    for name in ["sandboxes", "runtime"] {
        match std::fs::remove_dir_all(run.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(
                    format!("removing {name} of the last boot in {}", run.display()),
                    error,
                ));
            }
            _ => {}
        }
    }
    std::fs::write(&mark, boot_id).map_err(|error| Error::io(format!("writing {}", mark.display()), error))
}

/// Reads and publishes what the daemon before knew.
pub fn load(node: &Arc<Node>) -> Recovery {
    let mut recovery = Recovery::default();
    for id in node.store.list() {
        match load_sandbox(node, &id) {
            Ok(task) => recovery.tasks.push(task),
            Err(error) => {
                tracing::info!(sandbox = id, error = chain(&error), "a half-made sandbox; taking it away");
                recovery.unreadable.push(id);
            }
        }
    }
    recovery
}

/// Waits until every state is true, takes away what was half made, and opens the door.
pub async fn finish(node: Arc<Node>, recovery: Recovery) {
    for id in recovery.unreadable {
        if let Err(error) = unmake::unmake(&node, &id, None).await {
            tracing::error!(sandbox = id, error = chain(&error), "a half-made sandbox stays");
        }
    }
    for task in recovery.tasks {
        let _ = task.await;
    }
    release_orphans(&node).await;
    collect_network(&node).await;
    // What plugins are told of is true now, and nothing is made without them.
    nri::start(&node).await;
    node.set_recovered();
    sweep(&node).await;
}

/// Now and then asks again for what a network plugin would not give back.
pub async fn sweep(node: &Node) {
    loop {
        tokio::time::sleep(SWEEP_PAUSE).await;
        release_attachments(node).await;
    }
}

fn load_sandbox(node: &Arc<Node>, id: &str) -> Result<oneshot::Receiver<()>, Error> {
    let record = node.store.sandbox(id);
    let life: Life = record.read_json("life")?;
    let facts =
        sandbox::Facts { id: id.into(), request: record.read_request()?, plan: record.read_json("plan")? };
    if facts.request.config.is_none() {
        return Err(Error::Request("a sandbox without a config".into()));
    }
    if let Some(labels) = &facts.plan.labels {
        node.levels.take(facts.id.clone(), labels);
    }
    let ips = if life.is_ready() {
        node.network.attachment(id).map(|a| a.ips).unwrap_or_default()
    } else {
        Vec::new()
    };
    let containers = record.containers().iter().filter_map(|c| load_container(&facts, &record, c)).collect();
    let limits = record.read_message(sandbox::LIMITS).ok();
    Ok(task::resume(node.clone(), facts, life, ips, limits, containers))
}

/// A container whose record is not whole, or that was never made, is known to nobody; it is taken away
/// with the orphans.
fn load_container(sandbox: &sandbox::Facts, record: &Record, id: &str) -> Option<Found> {
    let record = record.container(id);
    let life: container::Life = record.read_json("life").ok()?;
    if life.is_making() {
        return None;
    }
    let facts = container::Facts {
        id: id.into(),
        sandbox_id: sandbox.id.clone(),
        config: record.read_request().ok()?,
        made: record.read_json("plan").ok()?,
    };
    let limits = record.read_message(container::LIMITS).ok();
    Some(Found { facts, life, limits })
}

/// Gives back containers, writable layers and network attachments that belong to nothing that is there.
async fn release_orphans(node: &Arc<Node>) {
    let world = node.world.now();
    for (sandbox_id, sandbox) in &world.sandboxes {
        for id in node.store.sandbox(sandbox_id).containers() {
            if !world.containers.contains_key(id.as_str()) {
                let unmade = container::unmake::unmake(node, sandbox_id, &id, sandbox.monitor.as_ref()).await;
                tell("a half-made container", &id, unmade);
            }
        }
    }
    for id in node.images.writables() {
        if !world.containers.contains_key(container::volume::owner(&id)) {
            let released = node.images.unmake_writable(&id).await;
            tell("a writable layer", &id, released.map_err(Error::from));
        }
    }
    release_attachments(node).await;
}

async fn release_attachments(node: &Node) {
    for id in node.network.attachments() {
        if !node.knows(&id) {
            let detached = node.network.detach(&id).await;
            let released =
                detached.map_err(|error| Error::Network { id: id.clone(), source: Arc::new(error) });
            tell("a network attachment", &id, released);
        }
    }
}

/// Tells the plugins which attachments are valid (CNI 1.1, GC), so that they give back what a crash made everybody
/// forget. Before anything new may be attached: it would not be among the valid ones.
async fn collect_network(node: &Node) {
    let known: Vec<String> = node.network.attachments();
    match tokio::time::timeout(COLLECT_TIMEOUT, node.network.gc(&known)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = chain(&error), "the network's plugins did not collect all"),
        Err(_) => tracing::warn!("the network's plugins took longer than {COLLECT_TIMEOUT:?} to collect"),
    }
}

fn tell(what: &str, id: &str, released: Result<(), Error>) {
    match released {
        Ok(()) => tracing::info!(id, "gave back {what} that belonged to nothing"),
        Err(error) => tracing::error!(id, error = chain(&error), "{what} that belongs to nothing stays"),
    }
}
