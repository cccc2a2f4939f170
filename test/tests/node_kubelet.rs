//! A kubelet's start, its loops, and the start of its pods, call by call.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::collections::BTreeSet;

use anyhow::Result;
use berth_test::fixture::Fixture;
use berth_test::kubelet::{Kubelet, Qos};
use proto::v1;

fn ids(of: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    of.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_kubelet_starts_on_an_empty_node_and_sees_its_first_pod() -> Result<()> {
    let fixture = Fixture::new().await?;
    let mut kubelet = Kubelet::on(&fixture).await?;
    kubelet.start_up().await?;
    assert!(kubelet.stats().await?.is_empty());

    let pod = kubelet.pod("first", Qos::BestEffort).runs("main", &["sleep", "1000"]);
    let running = kubelet.start_pod(&pod).await?;
    let statuses = kubelet.sync(&pod, &running).await?;
    assert_eq!(statuses.len(), 1);
    let status = &statuses[0];
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    assert_eq!(status.image.as_ref().map(|image| image.image.as_str()), Some(fixture.image.as_str()));
    assert_eq!(status.image_id, status.image_ref);
    assert_eq!(status.log_path, pod.log_of("main", 0).display().to_string());
    assert_eq!(status.mounts.len(), 2);
    assert!(status.started_at >= status.created_at && status.finished_at == 0);
    let stats = kubelet.stats().await?;
    assert_eq!(stats.len(), 1);
    assert!(stats[0].memory.as_ref().is_some_and(|memory| memory.working_set_bytes.is_some()));

    kubelet.delete_pod(&running, 0, 0).await?;
    kubelet.collect_garbage(&pod, &running.sandbox).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_kubelets_filters_find_what_they_name() -> Result<()> {
    let fixture = Fixture::new().await?;
    let mut kubelet = Kubelet::on(&fixture).await?;
    let lives =
        kubelet.pod("lives", Qos::BestEffort).runs("main", &["sleep", "1000"]).runs("once", &["true"]);
    let done = kubelet.pod("done", Qos::BestEffort).runs("main", &["true"]);
    let (alive, ended) = (kubelet.start_pod(&lives).await?, kubelet.start_pod(&done).await?);
    for container in [&alive.containers[1], &ended.containers[0]] {
        kubelet.wait_for(container, v1::ContainerState::ContainerExited).await?;
    }
    // A pod that is finished is stopped at once and stays to be seen.
    kubelet.stop_sandbox(&ended.sandbox).await?;

    let relisted = kubelet.relist().await?;
    assert_eq!(relisted.sandboxes.len(), 2);
    assert_eq!(relisted.containers.len(), 3);
    let state = Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() });
    let ready = kubelet.sandboxes(v1::PodSandboxFilter { state, ..Default::default() }).await?;
    assert_eq!(ids(ready.into_iter().map(|sandbox| sandbox.id)), ids([alive.sandbox.clone()]));
    let state = Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() });
    let runs = kubelet.containers(v1::ContainerFilter { state, ..Default::default() }).await?;
    assert_eq!(ids(runs.into_iter().map(|container| container.id)), ids([alive.containers[0].clone()]));
    let label_selector = [("io.kubernetes.pod.uid".to_owned(), done.uid())].into();
    let of_pod = kubelet.containers(v1::ContainerFilter { label_selector, ..Default::default() }).await?;
    assert_eq!(ids(of_pod.into_iter().map(|container| container.id)), ids(ended.containers.clone()));
    Ok(())
}

/// What the kernel says inside of a container.
async fn read(kubelet: &mut Kubelet, container: &str, script: &str) -> Result<String> {
    let answer = kubelet.client.exec(container, &["sh", "-c", script], 10).await?;
    assert_eq!(answer.exit_code, 0, "{script}: {}", String::from_utf8_lossy(&answer.stderr));
    Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}

/// Without CAP_SYS_RESOURCE nobody can go below its own score.
fn lowest_score() -> Result<i64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    const SYS_RESOURCE: u32 = 24;
    if u64::from_str_radix(mask.trim(), 16)? >> SYS_RESOURCE & 1 == 1 {
        return Ok(-1000);
    }
    Ok(std::fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse()?)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pod_of_each_quality_of_service_gets_its_cgroup_limits_and_score() -> Result<()> {
    let fixture = Fixture::new().await?;
    let mut kubelet = Kubelet::on(&fixture).await?;
    for (qos, memory) in [(Qos::Guaranteed, Some(64 << 20)), (Qos::Burstable, None), (Qos::BestEffort, None)]
    {
        let name = format!("{qos:?}").to_lowercase();
        let pod = kubelet.pod(&name, qos).runs("main", &["sleep", "1000"]);
        let running = kubelet.start_pod(&pod).await?;
        let container = &running.containers[0];
        let score: i64 = read(&mut kubelet, container, "cat /proc/1/oom_score_adj").await?.parse()?;
        assert_eq!(score, qos.oom_score_adj().max(lowest_score()?), "{qos:?}");
        let cgroup = read(&mut kubelet, container, "grep -E ':(memory)?:' /proc/self/cgroup").await?;
        assert!(cgroup.contains(&pod.uid()) || cgroup.contains(":/"), "{cgroup}");
        let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max";
        let found = read(&mut kubelet, container, &format!("({limit}) 2>/dev/null")).await?;
        match memory {
            Some(bytes) => assert_eq!(found, i64::to_string(&bytes), "{qos:?}"),
            None => assert!(found == "max" || found.parse::<u64>()? > 1 << 60, "{qos:?}: {found}"),
        }
        // Its limits are told back, without pages that nothing limits.
        let told = kubelet.container(container).await?.resources.and_then(|it| it.linux).unwrap_or_default();
        assert_eq!(told.memory_limit_in_bytes, memory.unwrap_or(0), "{qos:?}");
        assert_eq!(
            read(&mut kubelet, container, "hostname; cat /etc/resolv.conf").await?,
            format!("{name}\nnameserver 10.0.0.10")
        );
        kubelet.delete_pod(&running, 0, 0).await?;
        kubelet.collect_garbage(&pod, &running.sandbox).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_log_is_rotated_while_its_container_writes() -> Result<()> {
    let fixture = Fixture::new().await?;
    let mut kubelet = Kubelet::on(&fixture).await?;
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
    let pod = kubelet.pod("writes", Qos::BestEffort).runs("main", &["sh", "-c", script]);
    let running = kubelet.start_pod(&pod).await?;
    let (log, rotated) = (pod.log_of("main", 0), pod.log_of("main", 0).with_extension("log.20261121-180000"));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    // The kubelet renames first, and asks then.
    std::fs::rename(&log, &rotated)?;
    let request = v1::ReopenContainerLogRequest { container_id: running.containers[0].clone() };
    kubelet.client.runtime.reopen_container_log(request).await?;
    assert!(log.exists(), "the new log is there when the call is answered");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    kubelet.stop(&running.containers[0], 0).await?;
    let lines = [rotated, log].map(|file| std::fs::read_to_string(file).unwrap_or_default()).concat();
    let numbers: Vec<u32> = lines.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    let expected: Vec<u32> = (0..numbers.len() as u32).collect();
    assert!(numbers.len() > 20, "only {} lines", numbers.len());
    assert_eq!(numbers, expected, "a line is lost, doubled or out of its order");
    Ok(())
}
