//! What containers use, for the stats calls. Blocking; the callers give it a thread.

use std::sync::Arc;

use network::counters::{self, Counters};
use proto::v1;

use crate::container::Container;
use crate::error::{Error, Noun};
use crate::node::Node;
use crate::sandbox::Sandbox;
use crate::stats::{self, CgroupStats};

mod layers;

pub use layers::Layers;

/// How new what is told of the disk must be: lists say what was found last (see [`Layers`]).
#[derive(Debug, Clone, Copy)]
pub enum Disk {
    Now,
    Last,
}

/// # Errors
/// When the kernel cannot be asked.
pub fn of_containers(node: &Node, containers: &[Arc<Container>]) -> Result<Vec<v1::ContainerStats>, Error> {
    containers.iter().map(|container| of_container(node, container, Disk::Last)).collect()
}

/// Finds out anew what the layers take that lists have told of; behind an answer.
pub fn renew_layers(node: &Node) {
    let world = node.world.now();
    node.layers.renew(|id| world.containers.contains_key(id), node.now_ns(), |id| layer(node, id));
}

/// What a container's writable layer takes, as far as a list may wait for it.
pub fn last_layer(node: &Node, id: &Arc<str>) -> v1::FilesystemUsage {
    node.layers.last(id, node.now_ns(), |id| layer(node, id))
}

/// A container that has ended has used what its disk says, no more.
fn of_container(node: &Node, container: &Container, disk: Disk) -> Result<v1::ContainerStats, Error> {
    let facts = &container.facts;
    let read = match node.stats.read(&facts.made.plan.cgroup_path) {
        Err(stats::Error::Gone { .. }) => CgroupStats::default(),
        read => read.map_err(|error| Error::Stats { id: facts.id.to_string(), source: Arc::new(error) })?,
    };
    let layer = match disk {
        Disk::Now => node.layers.read(&facts.id, |id| layer(node, id)),
        Disk::Last => last_layer(node, &facts.id),
    };
    let attributes = v1::ContainerAttributes {
        id: facts.id.to_string(),
        metadata: facts.config.metadata.clone(),
        labels: facts.config.labels.clone(),
        annotations: facts.config.annotations.clone(),
    };
    Ok(stats::container_stats(attributes, &read, Some(layer)))
}

fn layer(node: &Node, id: &str) -> v1::FilesystemUsage {
    let disk = node.images.writable_usage(id);
    stats::filesystem_usage(node.now_ns(), &disk.path.display().to_string(), disk.bytes, disk.inodes)
}

/// # Errors
/// When the kernel cannot be asked.
pub fn of_sandboxes(
    node: &Node,
    sandboxes: &[Arc<Sandbox>],
    disk: Disk,
) -> Result<Vec<v1::PodSandboxStats>, Error> {
    let namespaces = sandboxes.iter().filter_map(|sandbox| sandbox.facts.plan.netns()).collect();
    let counted = counters::of_namespaces(namespaces)
        .map_err(|error| Error::io("counting what went through the pods' interfaces", error))?;
    let mut counted = counted.into_iter();
    let mut of = |sandbox: &Arc<Sandbox>| {
        let own = sandbox.facts.plan.netns().and_then(|_| counted.next());
        of_sandbox(node, sandbox, &own.unwrap_or_default(), disk)
    };
    sandboxes.iter().map(&mut of).collect()
}

fn of_sandbox(
    node: &Node,
    sandbox: &Sandbox,
    interfaces: &[Counters],
    disk: Disk,
) -> Result<v1::PodSandboxStats, Error> {
    let facts = &sandbox.facts;
    let parent = &facts.plan.pod.cgroup_parent;
    // Without a cgroup of its own there is nothing that is the pod's alone.
    let read = match parent.as_str() {
        "" => CgroupStats::default(),
        parent => node.stats.read_pod(parent).unwrap_or_default(),
    };
    let world = node.world.now();
    let running = world.containers_of(&facts.id).filter(|container| container.life.is_running());
    let containers =
        running.map(|container| of_container(node, container, disk)).collect::<Result<_, _>>()?;
    let attributes = v1::PodSandboxAttributes {
        id: facts.id.to_string(),
        metadata: facts.config().metadata.clone(),
        labels: facts.config().labels.clone(),
        annotations: facts.config().annotations.clone(),
    };
    let network = stats::network_usage(node.now_ns(), interfaces, network::INTERFACE);
    Ok(stats::sandbox_stats(attributes, &read, network, containers))
}

/// The one container, which must run.
///
/// # Errors
/// When there is no such container.
pub fn one(node: &Node, id: &str) -> Result<v1::ContainerStats, Error> {
    if id.is_empty() {
        return Err(Error::NotFound { noun: Noun::Container, id: id.into() });
    }
    of_container(node, &*node.world.now().container(id)?, Disk::Now)
}
