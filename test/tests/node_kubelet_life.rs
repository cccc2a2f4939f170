//! What a kubelet calls when containers crash, fail their probes, finish, and when pods are deleted; and what it does
//! when it or the daemon starts anew.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_test::fixture::Fixture;
use berth_test::kubelet::{Kubelet, Qos, Streamed};
use proto::v1;
use proto::v1::ContainerEventType as Kind;
use tonic::Code;

/// Runs until it is told to end, and then ends well.
const PATIENT: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
/// Runs until it is killed.
const STUBBORN: &str = "trap '' TERM; while :; do sleep 0.05; done";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_container_that_crashes_is_made_again_in_the_same_sandbox() -> Result<()> {
    let fixture = Fixture::new().await?;
    let mut kubelet = Kubelet::on(&fixture).await?;
    let pod = kubelet.pod("crashes", Qos::Burstable).runs("main", &["sh", "-c", "echo attempt; exit 3"]);
    let mut running = kubelet.start_pod(&pod).await?;
    let mut last = running.containers.pop().expect("a container");
    for attempt in 1..4 {
        let status = kubelet.wait_for(&last, v1::ContainerState::ContainerExited).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
        assert_eq!(status.metadata.map(|metadata| metadata.attempt), Some(attempt - 1));
        let next = kubelet.start_container(&pod, &running.sandbox, "main", attempt).await?;
        // One dead attempt is kept, the one before it goes.
        kubelet.wait_for(&next, v1::ContainerState::ContainerExited).await?;
        assert_eq!(kubelet.sync(&pod, &running).await?.len(), 2);
        kubelet.remove_container(&last).await?;
        last = next;
    }
    for attempt in 0..4 {
        let log = std::fs::read_to_string(pod.log_of("main", attempt))?;
        assert!(log.ends_with(" stdout F attempt\n"), "attempt {attempt}: {log:?}");
    }
    let status = kubelet.sandbox(&running.sandbox).await?;
    assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
    assert_eq!(status.network.map(|network| network.ip), Some(running.ip));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_container_that_fails_its_liveness_probe_is_stopped_and_made_again() -> Result<()> {
    let fixture = Fixture::new().await?;
    let mut kubelet = Kubelet::on(&fixture).await?;
    let pod = kubelet.pod("sick", Qos::Burstable).runs("main", &["sh", "-c", PATIENT]);
    let running = kubelet.start_pod(&pod).await?;
    let container = &running.containers[0];
    assert_eq!(kubelet.hook(container, &["sh", "-c", "echo started > /postStart"]).await?, 0);
    assert_eq!(kubelet.probe(container, &["cat", "/postStart"], 1).await?, 0);
    for _ in 0..3 {
        assert_eq!(kubelet.probe(container, &["cat", "/healthy"], 1).await?, 1);
    }
    // A probe that hangs is ended by us, and long before its call's own deadline.
    let begun = Instant::now();
    let late = kubelet.probe(container, &["sleep", "600"], 1).await.expect_err("a probe that hangs");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());

    assert_eq!(kubelet.hook(container, &["sh", "-c", "cat /postStart"]).await?, 0, "preStop");
    kubelet.stop(container, 30).await?;
    let status = kubelet.container(container).await?;
    assert_eq!((status.state(), status.exit_code), (v1::ContainerState::ContainerExited, 0));
    let next = kubelet.start_container(&pod, &running.sandbox, "main", 1).await?;
    assert_eq!(kubelet.probe(&next, &["cat", "/postStart"], 1).await?, 1, "a new attempt has a new root");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pod_that_finishes_is_stopped_at_once_and_stays_until_it_is_collected() -> Result<()> {
    let fixture = Fixture::new().await?;
    let before = fixture.node.inventory();
    let mut kubelet = Kubelet::on(&fixture).await?;
    let pod = kubelet.pod("job", Qos::BestEffort).runs("main", &["sh", "-c", "echo result"]);
    let running = kubelet.start_pod(&pod).await?;
    kubelet.wait_for(&running.containers[0], v1::ContainerState::ContainerExited).await?;
    kubelet.stop_sandbox(&running.sandbox).await?;
    let status = kubelet.sandbox(&running.sandbox).await?;
    assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
    let statuses = kubelet.sync(&pod, &running).await?;
    assert_eq!((statuses[0].exit_code, statuses[0].reason.as_str()), (0, "Completed"));
    assert!(std::fs::read_to_string(&statuses[0].log_path)?.ends_with(" result\n"));
    kubelet.remove_container(&running.containers[0]).await?;
    kubelet.collect_garbage(&pod, &running.sandbox).await?;
    // A collector that was interrupted begins again.
    kubelet.collect_garbage(&pod, &running.sandbox).await?;
    let gone = kubelet.sandbox(&running.sandbox).await.expect_err("a removed sandbox");
    assert_eq!(gone.code(), Code::NotFound, "{gone:?}");
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_deleted_pods_containers_share_their_grace_and_its_sidecar_goes_last() -> Result<()> {
    let fixture = Fixture::new().await?;
    let before = fixture.node.inventory();
    let mut kubelet = Kubelet::on(&fixture).await?;
    let pod = kubelet
        .pod("deleted", Qos::Burstable)
        .runs("sidecar", &["sh", "-c", PATIENT])
        .runs("well", &["sh", "-c", PATIENT])
        .runs("stubborn", &["sh", "-c", STUBBORN])
        .runs("other", &["sh", "-c", STUBBORN]);
    let running = kubelet.start_pod(&pod).await?;
    assert_eq!(kubelet.hook(&running.containers[1], &["true"]).await?, 0, "preStop");
    let begun = Instant::now();
    kubelet.stop_all(&running.containers[1..], 3).await?;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(3), "the grace was cut to {took:?}");
    assert!(took < Duration::from_secs(6), "graces follow one another: {took:?}");
    let codes = [0, 0, 137, 137];
    let states = [v1::ContainerState::ContainerRunning, v1::ContainerState::ContainerExited];
    for (place, (container, code)) in running.containers.iter().zip(codes).enumerate() {
        let status = kubelet.container(container).await?;
        assert_eq!((status.state(), status.exit_code), (states[usize::from(place > 0)], code), "{place}");
    }
    kubelet.delete_pod(&running, 1, 3).await?;
    assert!(kubelet.sync(&pod, &running).await?.is_empty());
    kubelet.collect_garbage(&pod, &running.sandbox).await?;
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_kubelet_or_a_daemon_that_starts_anew_finds_all_as_it_was() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let mut kubelet = Kubelet::on(&fixture).await?;
    let pod = kubelet.pod("stays", Qos::Guaranteed).runs("main", &["sleep", "1000"]).runs("done", &["true"]);
    let running = kubelet.start_pod(&pod).await?;
    kubelet.wait_for(&running.containers[1], v1::ContainerState::ContainerExited).await?;
    let (relisted, statuses) = (kubelet.relist().await?, kubelet.sync(&pod, &running).await?);

    let mut next = Kubelet::on(&fixture).await?;
    next.start_up().await?;
    assert_eq!(next.relist().await?, relisted);
    assert_eq!(next.sync(&pod, &running).await?, statuses);

    fixture.node.kill_daemon();
    let away = next.probe(&running.containers[0], &["true"], 1).await.expect_err("nobody answers");
    // Both are the client's own words: of a connection that is gone, and of one that goes under the call.
    assert!(matches!(away.code(), Code::Unavailable | Code::Unknown), "{away:?}");
    fixture.node.start_daemon().await?;
    // The connection is the old one: a kubelet dials again by itself.
    next.start_up().await?;
    assert_eq!(next.relist().await?, relisted);
    assert_eq!(next.sync(&pod, &running).await?, statuses);
    assert_eq!(next.probe(&running.containers[0], &["true"], 1).await?, 0);
    next.delete_pod(&running, 0, 0).await?;
    next.collect_garbage(&pod, &running.sandbox).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn events_tell_of_every_change_with_the_states_of_the_whole_pod() -> Result<()> {
    let fixture = Fixture::new().await?;
    let mut kubelet = Kubelet::on(&fixture).await?;
    let mut events = kubelet.events().await?;
    let pod = kubelet.pod("events", Qos::BestEffort).runs("main", &["sh", "-c", PATIENT]);
    let running = kubelet.start_pod(&pod).await?;
    let (sandbox, container) = (running.sandbox.as_str(), running.containers[0].as_str());
    let mut at_ns = 0;
    let due = [
        (Kind::ContainerCreatedEvent, sandbox, 0),
        (Kind::ContainerStartedEvent, sandbox, 0),
        (Kind::ContainerCreatedEvent, container, 1),
        (Kind::ContainerStartedEvent, container, 1),
    ];
    for (kind, id, containers) in due {
        let event = events.expect(kind, id).await?;
        assert!(event.created_at >= at_ns, "an event is older than the one before it");
        at_ns = event.created_at;
        let status = event.pod_sandbox_status.unwrap_or_default();
        assert_eq!((status.id.as_str(), status.state()), (sandbox, v1::PodSandboxState::SandboxReady));
        // A later state may be told early, never an earlier one late.
        assert!(event.containers_statuses.len() >= containers, "{kind:?}: {:?}", event.containers_statuses);
    }
    let status = kubelet.whole_status(sandbox).await?;
    let of_whom: Vec<&str> = status.containers_statuses.iter().map(|status| status.id.as_str()).collect();
    assert_eq!(of_whom, [container]);
    assert_eq!(status.containers_statuses[0].state(), v1::ContainerState::ContainerRunning);
    assert!(status.timestamp > at_ns, "the states are of now");
    kubelet.stop(container, 30).await?;
    let stopped = events.expect(Kind::ContainerStoppedEvent, container).await?;
    assert_eq!(stopped.containers_statuses[0].state(), v1::ContainerState::ContainerExited);
    kubelet.stop_sandbox(sandbox).await?;
    let stopped = events.expect(Kind::ContainerStoppedEvent, sandbox).await?;
    let state = stopped.pod_sandbox_status.unwrap_or_default().state();
    assert_eq!(state, v1::PodSandboxState::SandboxNotready);
    // Nobody has removed the container itself.
    kubelet.collect_garbage(&pod, sandbox).await?;
    events.expect(Kind::ContainerDeletedEvent, container).await?;
    events.expect(Kind::ContainerDeletedEvent, sandbox).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn streamed_lists_have_what_the_lists_have() -> Result<()> {
    let fixture = Fixture::new().await?;
    let mut kubelet = Kubelet::on(&fixture).await?;
    let nothing = kubelet.streamed().await?;
    assert_eq!(nothing, Streamed { images: nothing.images.clone(), ..Streamed::default() });
    assert_eq!(nothing.images.len(), 1);
    let mut expected = Streamed { images: nothing.images, ..Streamed::default() };
    for name in ["one", "two"] {
        let pod = kubelet.pod(name, Qos::BestEffort).runs("main", &["sleep", "1000"]).runs("done", &["true"]);
        let running = kubelet.start_pod(&pod).await?;
        kubelet.wait_for(&running.containers[1], v1::ContainerState::ContainerExited).await?;
        expected.sandboxes.insert(running.sandbox.clone());
        expected.sandbox_stats.insert(running.sandbox.clone());
        expected.sandbox_metrics.insert(running.sandbox);
        expected.stats.insert(running.containers[0].clone());
        expected.containers.extend(running.containers);
    }
    assert_eq!(kubelet.streamed().await?, expected);
    Ok(())
}
