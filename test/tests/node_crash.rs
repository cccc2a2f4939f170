//! Crash-only: daemons and monitors are killed, and nothing is lost or left.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::time::Duration;

use anyhow::{Context, Result};
use berth_test::fixture::Fixture;
use proto::v1;
use rustix::process::{Signal, kill_process};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_killed_daemon_finds_every_pod_again() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done";
    let (pod, container) = fixture.run("survivor", &["sh", "-c", script]).await?;
    let (short_pod, short) = fixture.run("short", &["sh", "-c", "sleep 1; exit 5"]).await?;
    let ip = fixture.client.pod(&pod).await?.network.context("a network")?.ip;

    fixture.node.kill_daemon();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    fixture.node.start_daemon().await?;
    fixture.reconnect().await?;

    let status = fixture.client.container(&container).await?;
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    assert_eq!(fixture.client.pod(&pod).await?.network.context("a network")?.ip, ip);
    let exited = fixture.client.wait_for_exit(&short).await?;
    assert_eq!(exited.exit_code, 5, "the exit code of a container that ended while the daemon was away");
    let answer = fixture.client.exec(&container, &["echo", "still here"], 10).await?;
    assert_eq!(answer.stdout, b"still here\n");
    assert_lines_are_whole(&fixture.log("survivor"));
    fixture.remove(&pod).await?;
    fixture.remove(&short_pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_killed_monitor_is_noticed_and_replaced() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done";
    let (pod, container) = fixture.run("watched", &["sh", "-c", script]).await?;
    kill_process(fixture.node.monitor_of(&pod)?, Signal::KILL)?;

    let mut answer = fixture.client.exec(&container, &["echo", "again"], 10).await;
    for _ in 0..50 {
        if answer.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        answer = fixture.client.exec(&container, &["echo", "again"], 10).await;
    }
    assert_eq!(answer?.stdout, b"again\n");
    let status = fixture.client.container(&container).await?;
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_lines_are_whole(&fixture.log("watched"));

    fixture.client.stop(&container, 0).await?;
    assert_eq!(fixture.client.container(&container).await?.exit_code, 137);
    let before = fixture.node.inventory();
    fixture.remove(&pod).await?;
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    let processes = fixture.node.inventory().processes;
    assert!(processes.is_empty(), "{processes:?}");
    Ok(())
}

/// Lines `line 0`, `line 1`, … in order, none missing.
fn assert_lines_are_whole(log: &str) {
    let numbers: Vec<u32> = log
        .lines()
        .filter_map(|line| line.rsplit_once("F line ").and_then(|(_, number)| number.parse().ok()))
        .collect();
    assert!(numbers.len() > 5, "log:\n{log}");
    let expected: Vec<u32> = (0..numbers.len() as u32).collect();
    assert_eq!(numbers, expected, "no line of the log is lost or repeated");
}

/// Every step of making a pod or a container (`cri-server/src/step.rs`), and whether a pod is whole before it.
const STEPS: [&str; 15] = [
    "sandbox.store",
    "sandbox.monitor",
    "sandbox.namespaces",
    "sandbox.files",
    "sandbox.network",
    "sandbox.plugins",
    "sandbox.ready",
    "container.plan",
    "container.plugins",
    "container.store",
    "container.rootfs",
    "container.create",
    "container.created",
    "container.start",
    "container.started",
];

#[test]
fn the_list_of_steps_is_the_daemons() {
    let source = include_str!("../../cri-server/src/step.rs");
    let named = source.matches("=> \"sandbox.").count() + source.matches("=> \"container.").count();
    assert_eq!(named, STEPS.len(), "a step was added to the daemon or taken away");
    for step in STEPS {
        assert!(source.contains(&format!("\"{step}\"")), "{step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_daemon_killed_at_any_step_leaves_a_whole_pod_or_nothing() -> Result<()> {
    for step in STEPS {
        dies_cleanly_at(step).await.with_context(|| format!("killed before {step}"))?;
    }
    Ok(())
}

async fn dies_cleanly_at(step: &str) -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let before = fixture.node.inventory();
    fixture.node.kill_daemon();
    fixture.node.start_with_failpoint(&format!("{step}=kill")).await?;
    fixture.reconnect().await?;
    fixture.run("doomed", &["sleep", "1000"]).await.err().context("the daemon lived")?;
    fixture.node.wait_for_death().await?;

    fixture.node.start_daemon().await?;
    fixture.reconnect().await?;
    wait_until_listed_pods_are_whole(&mut fixture).await?;
    // The kubelet asks again, and must get a working pod; what was half made is not in its way.
    let (pod, container) = fixture.run("doomed", &["sleep", "1000"]).await?;
    assert_eq!(fixture.client.exec(&container, &["echo", "up"], 10).await?.stdout, b"up\n");
    fixture.remove(&pod).await?;
    fixture.node.remove_all_pods().await?;
    let leaks = fixture.node.leaks_since(&before);
    assert_eq!(leaks, Vec::<String>::new());
    Ok(())
}

/// What was half made is shown as not ready while it is taken away, and then no more.
async fn wait_until_listed_pods_are_whole(fixture: &mut Fixture) -> Result<()> {
    let start = std::time::Instant::now();
    loop {
        let listed = fixture.client.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?;
        let items = listed.into_inner().items;
        if items.iter().all(|pod| pod.state() == v1::PodSandboxState::SandboxReady) {
            return Ok(());
        }
        anyhow::ensure!(start.elapsed() < Duration::from_secs(5), "half a pod is left: {items:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
