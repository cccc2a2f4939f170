//! The metrics of pods and containers that cAdvisor used to give the kubelet: which there are
//! ([`descriptors`]), and their values, read from the same cgroups as the stats.
//!
//! Names, labels and types are those that CRI-O reports, since dashboards know them. The interface has whole
//! numbers only, so a time is in whole seconds. Blocking; the callers give it a thread.

use std::path::PathBuf;
use std::sync::Arc;

use proto::v1;

use crate::container::Container;
use crate::node::Node;
use crate::sandbox::Sandbox;
use crate::world::Snapshot;

mod cgroup;
mod descriptors;
mod process;
mod series;
mod spec;

pub use descriptors::descriptors;

use descriptors as names;
use series::Series;

/// Of each sandbox that is ready: its network, and its running containers.
pub fn sandboxes(node: &Node, world: &Snapshot) -> Vec<v1::PodSandboxMetrics> {
    let ready: Vec<&Arc<Sandbox>> = world.sandboxes.values().filter(|s| s.life.is_ready()).collect();
    let namespaces: Vec<PathBuf> = ready.iter().filter_map(|sandbox| sandbox.facts.plan.netns()).collect();
    let mut counted = network::counters::of_namespaces(namespaces).unwrap_or_default().into_iter();
    ready
        .into_iter()
        .map(|sandbox| {
            let own = sandbox.facts.plan.netns().and_then(|_| counted.next());
            of_sandbox(node, world, sandbox, own.unwrap_or_default())
        })
        .collect()
}

fn of_sandbox(
    node: &Node,
    world: &Snapshot,
    sandbox: &Sandbox,
    interfaces: Vec<network::counters::Counters>,
) -> v1::PodSandboxMetrics {
    let mut series = Series::of_sandbox(sandbox, node.now_ns());
    for counters in &interfaces {
        network(&mut series, counters);
    }
    let running = world.containers_of(&sandbox.facts.id).filter(|container| container.life.is_running());
    v1::PodSandboxMetrics {
        pod_sandbox_id: sandbox.facts.id.to_string(),
        metrics: series.done(),
        container_metrics: running.map(|container| of_container(node, sandbox, container)).collect(),
    }
}

fn network(series: &mut Series, counters: &network::counters::Counters) {
    let interface = [counters.interface.as_str()];
    let (received, sent) = (counters.received, counters.sent);
    series.add_of(&names::NETWORK_RECEIVE_BYTES, &interface, received.bytes);
    series.add_of(&names::NETWORK_RECEIVE_PACKETS, &interface, received.packets);
    series.add_of(&names::NETWORK_RECEIVE_DROPPED, &interface, received.dropped);
    series.add_of(&names::NETWORK_RECEIVE_ERRORS, &interface, received.errors);
    series.add_of(&names::NETWORK_TRANSMIT_BYTES, &interface, sent.bytes);
    series.add_of(&names::NETWORK_TRANSMIT_PACKETS, &interface, sent.packets);
    series.add_of(&names::NETWORK_TRANSMIT_DROPPED, &interface, sent.dropped);
    series.add_of(&names::NETWORK_TRANSMIT_ERRORS, &interface, sent.errors);
}

fn of_container(node: &Node, sandbox: &Sandbox, container: &Container) -> v1::ContainerMetrics {
    let mut series = Series::of_container(sandbox, container, node.now_ns());
    series.add(&names::LAST_SEEN, seconds(node.now_ns()));
    spec::add(&mut series, container);
    disk(&mut series, node, container);
    // A container that has just ended has no cgroup any more, and so no more to tell.
    if let Ok(detail) = node.stats.read_detail(&container.facts.made.plan.cgroup_path) {
        cgroup::add(&mut series, &detail);
        process::add(&mut series, &detail, container.life.pid());
    }
    v1::ContainerMetrics { container_id: container.facts.id.to_string(), metrics: series.done() }
}

/// The writable layer, and the file system that it is on.
fn disk(series: &mut Series, node: &Node, container: &Container) {
    let usage = crate::usage::last_layer(node, &container.facts.id);
    series.add(&names::FS_USAGE, usage.used_bytes.unwrap_or_default().value);
    let place = usage.fs_id.unwrap_or_default().mountpoint;
    if let Ok(whole) = rustix::fs::statvfs(place.as_str()) {
        series.add(&names::FS_LIMIT, whole.f_blocks.saturating_mul(whole.f_frsize));
        series.add(&names::FS_INODES, whole.f_files);
        series.add(&names::FS_INODES_FREE, whole.f_ffree);
    }
}

fn seconds(ns: i64) -> u64 {
    u64::try_from(ns).unwrap_or_default() / series::NS_PER_S
}

#[cfg(test)]
mod tests;
