//! `berth status`: the daemon, its conditions, and what runs.

use std::collections::HashMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use proto::operator::operator_client::OperatorClient;
use proto::operator::{DaemonRequest, DaemonResponse};
use proto::v1;
use proto::v1::image_service_client::ImageServiceClient;
use proto::v1::runtime_service_client::RuntimeServiceClient;
use v1::{ContainerState, PodSandboxState};

use super::measure::{size, span};
use super::say::say;
use super::table::table;
use super::{Error, client};

pub(super) async fn status(socket: &Path) -> Result<(), Error> {
    let channel = client::connect(socket).await?;
    let mut runtime = RuntimeServiceClient::new(channel.clone());
    let daemon = OperatorClient::new(channel.clone()).daemon(DaemonRequest {}).await?.into_inner();
    let status = runtime.status(v1::StatusRequest::default()).await?.into_inner();
    let sandboxes = runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.into_inner().items;
    let containers = runtime.list_containers(v1::ListContainersRequest::default()).await?.into_inner().items;
    let usage = ImageServiceClient::new(channel).image_fs_info(v1::ImageFsInfoRequest {}).await?.into_inner();
    let now_ns = now_ns();
    let text = [
        about(&daemon, socket, now_ns),
        conditions(&status.status.unwrap_or_default()),
        disk(&usage),
        count(&sandboxes, &containers),
        pods(sandboxes, &containers, now_ns),
    ];
    say(&text.concat())
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn age(from_ns: i64, now_ns: i64) -> String {
    span(u64::try_from((now_ns - from_ns) / 1_000_000_000).unwrap_or_default())
}

fn about(daemon: &DaemonResponse, socket: &Path, now_ns: i64) -> String {
    let config = if daemon.config_file.is_empty() { "defaults" } else { &daemon.config_file };
    let lines = [
        format!(
            "berthd    {} (pid {}), up {}",
            daemon.version,
            daemon.pid,
            age(daemon.started_at_ns, now_ns)
        ),
        format!("settings  {config}"),
        format!("socket    {}", socket.display()),
        format!("root      {}", daemon.root),
        format!("run       {}", daemon.run),
    ];
    lines.map(|line| line + "\n").concat()
}

fn conditions(status: &v1::RuntimeStatus) -> String {
    let line = |condition: &v1::RuntimeCondition| {
        let why = [condition.reason.as_str(), condition.message.as_str()];
        let why: Vec<&str> = why.into_iter().filter(|text| !text.is_empty()).collect();
        let word = if condition.status { "yes" } else { "no" };
        let line = format!("{:<14}  {word}  {}", condition.r#type, why.join(": "));
        format!("{}\n", line.trim_end())
    };
    status.conditions.iter().map(line).collect()
}

fn disk(usage: &v1::ImageFsInfoResponse) -> String {
    let total = |systems: &[v1::FilesystemUsage]| {
        size(systems.iter().filter_map(|system| system.used_bytes.as_ref()).map(|used| used.value).sum())
    };
    let (images, layers) = (total(&usage.image_filesystems), total(&usage.container_filesystems));
    format!("disk      images {images}, writable layers {layers}\n\n")
}

fn count(sandboxes: &[v1::PodSandbox], containers: &[v1::Container]) -> String {
    let ready = sandboxes.iter().filter(|sandbox| sandbox.state() == PodSandboxState::SandboxReady).count();
    let running =
        containers.iter().filter(|container| container.state() == ContainerState::ContainerRunning).count();
    format!("{} pods ({ready} ready), {} containers ({running} running)\n", sandboxes.len(), containers.len())
}

fn pods(mut sandboxes: Vec<v1::PodSandbox>, containers: &[v1::Container], now_ns: i64) -> String {
    let mut by_pod: HashMap<&str, Vec<&v1::Container>> = HashMap::new();
    for container in containers {
        by_pod.entry(&container.pod_sandbox_id).or_default().push(container);
    }
    sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
    let mut rows = Vec::new();
    for sandbox in &sandboxes {
        let metadata = sandbox.metadata.clone().unwrap_or_default();
        let pod = format!("{}/{}", metadata.namespace, metadata.name);
        let state = if sandbox.state() == PodSandboxState::SandboxReady { "ready" } else { "not ready" };
        rows.push(row(&pod, "", state, sandbox.created_at, &sandbox.id, now_ns));
        for container in by_pod.get(sandbox.id.as_str()).into_iter().flatten() {
            let name = container.metadata.clone().unwrap_or_default().name;
            rows.push(row("", &name, word(container.state()), container.created_at, &container.id, now_ns));
        }
    }
    let text = table(&["POD", "CONTAINER", "STATE", "AGE", "ID"], &rows);
    if text.is_empty() { text } else { format!("\n{text}") }
}

fn row(pod: &str, container: &str, state: &str, created_at_ns: i64, id: &str, now_ns: i64) -> Vec<String> {
    let id = id.chars().take(13).collect();
    vec![pod.to_owned(), container.to_owned(), state.to_owned(), age(created_at_ns, now_ns), id]
}

fn word(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "created",
        ContainerState::ContainerRunning => "running",
        ContainerState::ContainerExited => "exited",
        ContainerState::ContainerUnknown => "unknown",
    }
}
