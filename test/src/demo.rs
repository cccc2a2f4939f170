//! `cargo xtask demo`: a tour of what berth does, on a private node that is gone afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::v1;

use crate::image::{Layer, Recipe};
use crate::node::{Client, Node, Options, container_config};
use crate::programs::Programs;
use crate::registry::EmbeddedRegistry;

const SCRIPT: &str = "i=0; while :; do i=$((i+1)); echo \"tick $i from $(hostname)\"; sleep 0.2; done";

/// Runs the tour inside this process's network namespace.
pub async fn run() -> Result<()> {
    let start = Instant::now();
    step("Build a small image and serve it from a registry in this process");
    let image = small_image()?.build();
    let registry = EmbeddedRegistry::serve("demo/hello", "1", &image).await?;
    let reference = format!("{}/demo/hello@{}", registry.address(), image.top.digest());
    tell(&format!("{reference}, {} blobs", image.blobs.len()));

    step("Start a private berthd: own root, own socket, own network namespace");
    let mirror = Some(registry.address().to_string());
    let mut node = Node::start(Options { mirror, ..Options::default() }).await?;
    tell(&format!("socket {}", node.socket().display()));
    let before = node.inventory();

    step("Pull the image by digest");
    pull_with_progress(&node, &reference).await?;

    step("Run a pod with a container on a CNI network");
    let mut client = node.client().await?;
    let log_dir = node.dir().join("logs");
    std::fs::create_dir_all(&log_dir)?;
    let began = Instant::now();
    let pod_config = node.pod_config("demo", &log_dir);
    let pod = client.run_pod(&pod_config).await?;
    let config = container_config("hello", &reference, &["/bin/sh", "-c", SCRIPT]);
    let container = client.create(&pod, &config, &pod_config).await?;
    client.start(&container).await?;
    tell(&format!("started in {:.1} ms", began.elapsed().as_secs_f64() * 1000.0));
    show(&mut client, &pod, &container).await?;

    step("Kill berthd with SIGKILL and start it again");
    node.kill_daemon();
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.start_daemon().await?;
    client = node.client().await?;
    let status = client.container(&container).await?;
    ensure!(
        status.state() == v1::ContainerState::ContainerRunning,
        "the container did not survive: {status:?}"
    );
    show(&mut client, &pod, &container).await?;
    show_log(&log_dir)?;

    step("Stop and remove everything");
    client.stop_pod(&pod).await?;
    client.remove_pod(&pod).await?;
    prove_clean(&node, &before)?;
    println!("\ndemo: done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn step(words: &str) {
    println!("\n==> {words}");
}

fn tell(words: &str) {
    println!("    {words}");
}

/// busybox from this machine, whole and static.
fn small_image() -> Result<Recipe> {
    let busybox = std::fs::read("/bin/busybox").context("reading /bin/busybox (package busybox-static)")?;
    let mut layer = Layer::new().dir("bin/", 0o755).dir("etc/", 0o755).dir("tmp/", 0o1777);
    layer = layer.file("bin/busybox", 0o755, &busybox);
    for applet in ["sh", "sleep", "hostname", "echo", "ip", "ps", "cat", "ls"] {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    let greeting = Layer::new().file("etc/greeting", 0o644, b"hello from berth\n").finish();
    Ok(Recipe::new(vec![layer.finish(), greeting], serde_json::json!({"Cmd": ["/bin/sh"]})))
}

/// Through `berth image pull`, which draws the bar.
async fn pull_with_progress(node: &Node, reference: &str) -> Result<()> {
    let mut command = tokio::process::Command::new(Programs::built().berth);
    command.args(["--socket"]).arg(node.socket()).args(["image", "pull", reference]);
    let status = command.status().await.context("running berth image pull")?;
    ensure!(status.success(), "berth image pull failed: {status}");
    Ok(())
}

async fn show(client: &mut Client, pod: &str, container: &str) -> Result<()> {
    let network = client.pod(pod).await?.network.context("the pod has a network")?;
    tell(&format!("IP {}", network.ip));
    let answer = client.exec(container, &["/bin/cat", "/etc/greeting"], 10).await?;
    tell(&format!("exec: {}", String::from_utf8_lossy(&answer.stdout).trim()));
    let request = v1::ContainerStatsRequest { container_id: container.to_owned() };
    let stats = client.runtime.container_stats(request).await?.into_inner().stats.unwrap_or_default();
    let memory = stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |bytes| bytes.value);
    let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |nanos| nanos.value);
    tell(&format!("stats: {} KiB memory, {:.1} ms CPU", memory / 1024, cpu as f64 / 1e6));
    Ok(())
}

fn show_log(log_dir: &std::path::Path) -> Result<()> {
    let log = std::fs::read_to_string(log_dir.join("hello.log"))?;
    let lines: Vec<&str> = log.lines().collect();
    tell(&format!("log: {} lines, none lost while berthd was dead; the last:", lines.len()));
    for line in lines.iter().rev().take(2).rev() {
        tell(&format!("  {line}"));
    }
    Ok(())
}

fn prove_clean(node: &Node, before: &crate::leaks::Inventory) -> Result<()> {
    let leaks = node.leaks_since(before);
    ensure!(leaks.is_empty(), "left behind:\n{}", leaks.join("\n"));
    let after = node.inventory();
    tell(&format!(
        "left: {} mounts, {} cgroups, {} monitors, {} veth links, {} addresses in use",
        after.mounts.len(),
        after.cgroups.len(),
        after.processes.len(),
        after.links.len(),
        after.addresses.len()
    ));
    Ok(())
}
