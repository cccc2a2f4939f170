//! Our sandboxes and containers in the interface's words, and its filters in ours.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use proto::v1;

use crate::container::{self, Container, Life};
use crate::sandbox::{self, Sandbox};
use crate::world::Snapshot;

pub(super) fn pod_sandbox(sandbox: &Sandbox) -> v1::PodSandbox {
    let config = sandbox.facts.config();
    v1::PodSandbox {
        id: sandbox.facts.id.to_string(),
        metadata: config.metadata.clone(),
        state: sandbox_state(sandbox.life).into(),
        created_at: sandbox.facts.plan.created_at_ns,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: sandbox.facts.request.runtime_handler.clone(),
    }
}

pub(super) fn pod_sandbox_status(sandbox: &Sandbox) -> v1::PodSandboxStatus {
    let config = sandbox.facts.config();
    let ip = |address: &std::net::IpAddr| v1::PodIp { ip: address.to_string() };
    let network = v1::PodSandboxNetworkStatus {
        ip: sandbox.ips.first().map(ToString::to_string).unwrap_or_default(),
        additional_ips: sandbox.ips.iter().skip(1).map(ip).collect(),
    };
    let linux = config.linux.clone().unwrap_or_default();
    let options = linux.security_context.and_then(|context| context.namespace_options).unwrap_or_default();
    v1::PodSandboxStatus {
        id: sandbox.facts.id.to_string(),
        metadata: config.metadata.clone(),
        state: sandbox_state(sandbox.life).into(),
        created_at: sandbox.facts.plan.created_at_ns,
        network: Some(network),
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options: Some(options) }) }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: sandbox.facts.request.runtime_handler.clone(),
    }
}

fn sandbox_state(life: sandbox::Life) -> v1::PodSandboxState {
    if life.is_ready() { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready }
}

pub(super) fn container(container: &Container) -> v1::Container {
    let (facts, config) = (&container.facts, &container.facts.config);
    v1::Container {
        id: facts.id.to_string(),
        pod_sandbox_id: facts.sandbox_id.to_string(),
        metadata: config.metadata.clone(),
        image: Some(image_spec(facts)),
        image_ref: facts.made.image_id.clone(),
        state: container_state(&container.life).into(),
        created_at: facts.made.created_at_ns,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        image_id: facts.made.image_id.clone(),
    }
}

pub(super) fn container_status(container: &Container) -> v1::ContainerStatus {
    let (facts, config, plan) = (&container.facts, &container.facts.config, &container.facts.made.plan);
    let exit = container.life.exit();
    let asked = config.linux.as_ref().is_some_and(|linux| linux.resources.is_some());
    let resources = (asked || container.limits.is_some()).then(|| container.resources());
    v1::ContainerStatus {
        id: facts.id.to_string(),
        metadata: config.metadata.clone(),
        state: container_state(&container.life).into(),
        created_at: facts.made.created_at_ns,
        started_at: container.life.started_at_ns(),
        finished_at: exit.map(|exit| exit.finished_at_ns).unwrap_or_default(),
        exit_code: exit.map(exit_code).unwrap_or_default(),
        image: Some(image_spec(facts)),
        image_ref: facts.made.image_id.clone(),
        reason: exit.map(reason).unwrap_or_default().into(),
        message: exit.map(end_message).unwrap_or_default().into(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: mounts(facts),
        log_path: plan.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        resources: Some(v1::ContainerResources { linux: resources, windows: None }),
        image_id: facts.made.image_id.clone(),
        user: Some((&plan.user).into()),
        stop_signal: stop_signal(config, plan.stop_signal).into(),
    }
}

/// As they were asked for, and which images they are (KEP-5365).
fn mounts(facts: &container::Facts) -> Vec<v1::Mount> {
    let mut mounts = facts.config.mounts.clone();
    for (mount, id) in mounts.iter_mut().zip(&facts.made.volume_image_ids) {
        if let (Some(image), Some(id)) = (&mut mount.image, id) {
            image.image_ref.clone_from(id);
        }
    }
    mounts
}

fn container_state(life: &Life) -> v1::ContainerState {
    match life {
        Life::Making | Life::Created { .. } | Life::Starting { .. } => v1::ContainerState::ContainerCreated,
        Life::Running { .. } | Life::Stopping { .. } => v1::ContainerState::ContainerRunning,
        Life::Exited { .. } | Life::Removing { .. } => v1::ContainerState::ContainerExited,
        Life::Broken { exit: Some(_), .. } => v1::ContainerState::ContainerExited,
        Life::Broken { exit: None, .. } => v1::ContainerState::ContainerUnknown,
    }
}

/// The words that the kubelet and people know.
fn reason(exit: conmon_protocol::Exit) -> &'static str {
    match exit {
        conmon_protocol::Exit { oom_killed: true, .. } => "OOMKilled",
        exit if !exit.is_seen() => "Unknown",
        conmon_protocol::Exit { code: 0, .. } => "Completed",
        conmon_protocol::Exit { .. } => "Error",
    }
}

/// The code of a container whose end nobody saw, as containerd has it; 0 would be a success that nobody saw either.
const UNSEEN_CODE: i32 = 255;

fn exit_code(exit: conmon_protocol::Exit) -> i32 {
    if exit.is_seen() { exit.code } else { UNSEEN_CODE }
}

fn end_message(exit: conmon_protocol::Exit) -> &'static str {
    if exit.is_seen() {
        return "";
    }
    "it ended while neither the pod's monitor nor the daemon was there to see how"
}

/// The kubelet asks by id and says beside it what the user wrote.
fn image_spec(facts: &container::Facts) -> v1::ImageSpec {
    let asked = facts.config.image.clone().unwrap_or_default();
    let name = if asked.user_specified_image.is_empty() { &asked.image } else { &asked.user_specified_image };
    v1::ImageSpec { image: name.clone(), ..asked }
}

/// The one that is sent, whoever named it.
fn stop_signal(config: &v1::ContainerConfig, number: i32) -> v1::Signal {
    match v1::Signal::try_from(config.stop_signal) {
        Ok(v1::Signal::RuntimeDefault) | Err(_) => word(number),
        Ok(asked) => asked,
    }
}

/// What an image or we chose, in the interface's words; where it has several for a number, the first.
fn word(signal: i32) -> v1::Signal {
    static WORDS: LazyLock<HashMap<i32, v1::Signal>> = LazyLock::new(|| {
        let all = (1..).map_while(|value| v1::Signal::try_from(value).ok());
        let numbered =
            all.filter_map(|signal| Some((container::plan::signal_number(signal.as_str_name())?, signal)));
        let mut words = HashMap::new();
        for (number, signal) in numbered {
            words.entry(number).or_insert(signal);
        }
        words
    });
    WORDS.get(&signal).copied().unwrap_or(v1::Signal::RuntimeDefault)
}

/// Of all containers of a pod.
pub(super) fn statuses_in(world: &Snapshot, sandbox_id: &str) -> Vec<v1::ContainerStatus> {
    world.containers_of(sandbox_id).map(|container| container_status(container)).collect()
}

fn has_labels(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Those for which all parts of a filter hold, the newest first.
pub(super) fn sandboxes(world: &Snapshot, filter: Option<v1::PodSandboxFilter>) -> Vec<Arc<Sandbox>> {
    let filter = filter.unwrap_or_default();
    let matches = |sandbox: &Sandbox| {
        sandbox.facts.id.starts_with(&filter.id)
            && filter.state.is_none_or(|wanted| i32::from(sandbox_state(sandbox.life)) == wanted.state)
            && has_labels(&sandbox.facts.config().labels, &filter.label_selector)
    };
    let mut found: Vec<_> = world.sandboxes.values().filter(|sandbox| matches(sandbox)).cloned().collect();
    found.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.facts.plan.created_at_ns));
    found
}

/// The same of containers.
pub(super) fn containers(world: &Snapshot, filter: Option<v1::ContainerFilter>) -> Vec<Arc<Container>> {
    let filter = filter.unwrap_or_default();
    let matches = |container: &Container| {
        container.facts.id.starts_with(&filter.id)
            && container.facts.sandbox_id.starts_with(&filter.pod_sandbox_id)
            && filter.state.is_none_or(|wanted| i32::from(container_state(&container.life)) == wanted.state)
            && has_labels(&container.facts.config.labels, &filter.label_selector)
    };
    let mut found: Vec<_> =
        world.containers.values().filter(|container| matches(container)).cloned().collect();
    found.sort_by_key(|container| std::cmp::Reverse(container.facts.made.created_at_ns));
    found
}

/// Those that a stats filter asks for. Only what runs uses anything.
pub(super) fn running(world: &Snapshot, filter: Option<v1::ContainerStatsFilter>) -> Vec<Arc<Container>> {
    let filter = filter.unwrap_or_default();
    let matches = |container: &Container| {
        container.life.is_running()
            && container.facts.id.starts_with(&filter.id)
            && container.facts.sandbox_id.starts_with(&filter.pod_sandbox_id)
            && has_labels(&container.facts.config.labels, &filter.label_selector)
    };
    world.containers.values().filter(|container| matches(container)).cloned().collect()
}

/// Those that a pod stats filter asks for.
pub(super) fn ready(world: &Snapshot, filter: Option<v1::PodSandboxStatsFilter>) -> Vec<Arc<Sandbox>> {
    let filter = filter.unwrap_or_default();
    let matches = |sandbox: &Sandbox| {
        sandbox.life.is_ready()
            && sandbox.facts.id.starts_with(&filter.id)
            && has_labels(&sandbox.facts.config().labels, &filter.label_selector)
    };
    world.sandboxes.values().filter(|sandbox| matches(sandbox)).cloned().collect()
}

/// What `crictl inspectp` shows.
pub(super) fn sandbox_info(
    world: &Snapshot,
    sandbox: &Sandbox,
    networks: &[network::Attachment],
) -> HashMap<String, String> {
    let plan = &sandbox.facts.plan;
    let pids: HashMap<&str, i32> = world
        .containers_of(&sandbox.facts.id)
        .filter_map(|container| Some((&*container.facts.id, container.life.pid()?)))
        .collect();
    let info = serde_json::json!({
        "life": sandbox.life,
        // There is no process of the pod's own; the oldest container's stands for it.
        "pid": pids.values().min().copied().unwrap_or_default(),
        "containerPids": pids,
        "runtimeHandler": plan.handler,
        "podDir": plan.pod.pod_dir,
        "netns": plan.netns(),
        "ips": sandbox.ips,
        "networks": networks.iter().map(attachment).collect::<Vec<_>>(),
        "resources": pod_resources(sandbox),
        "overhead": in_interface_words(sandbox.pod_limits().0),
        "plan": plan,
    });
    HashMap::from([("info".to_string(), info.to_string())])
}

fn attachment(attachment: &network::Attachment) -> serde_json::Value {
    serde_json::json!({
        "network": attachment.network,
        "interface": attachment.interface,
        "ips": attachment.ips,
    })
}

/// What the whole pod may use, as it was said last.
fn pod_resources(sandbox: &Sandbox) -> serde_json::Value {
    let (overhead, resources) = sandbox.pod_limits();
    let linux = in_interface_words(resources.clone())["linux"].take();
    serde_json::json!({ "overhead": overhead.map(numbers), "resources": resources.map(numbers), "linux": linux })
}

/// By the interface's own names, as containerd has them and critest looks for them.
fn in_interface_words(limits: Option<v1::LinuxContainerResources>) -> serde_json::Value {
    let linux = limits.map(|limits| {
        serde_json::json!({
            "cpu_period": limits.cpu_period,
            "cpu_quota": limits.cpu_quota,
            "cpu_shares": limits.cpu_shares,
            "memory_limit_in_bytes": limits.memory_limit_in_bytes,
            "memory_swap_limit_in_bytes": limits.memory_swap_limit_in_bytes,
            "cpuset_cpus": limits.cpuset_cpus,
            "cpuset_mems": limits.cpuset_mems,
        })
    });
    serde_json::json!({ "linux": linux })
}

fn numbers(limits: v1::LinuxContainerResources) -> serde_json::Value {
    serde_json::json!({
        "cpuPeriod": limits.cpu_period,
        "cpuQuota": limits.cpu_quota,
        "cpuShares": limits.cpu_shares,
        "memoryLimitBytes": limits.memory_limit_in_bytes,
        "memorySwapLimitBytes": limits.memory_swap_limit_in_bytes,
        "cpusetCpus": limits.cpuset_cpus,
        "cpusetMems": limits.cpuset_mems,
    })
}

/// What `crictl inspect` shows.
pub(super) fn container_info(
    container: &Container,
    spec: Option<serde_json::Value>,
) -> HashMap<String, String> {
    let facts = &container.facts;
    let info = serde_json::json!({
        "life": container.life,
        "pid": container.life.pid().unwrap_or_default(),
        "sandboxID": &*facts.sandbox_id,
        "cgroupPath": facts.made.plan.cgroup_path,
        "imageId": facts.made.image_id,
        "runtimeSpec": spec,
    });
    HashMap::from([("info".to_string(), info.to_string())])
}

#[cfg(test)]
mod tests;
