//! Numbers that a kubelet acts on: what pods use, and what images and containers take on the disk. Each is compared with
//! what the kernel says, or with what the test itself has done.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_test::fixture::Fixture;
use berth_test::image::{Layer, Recipe};
use berth_test::kubelet::{Kubelet, Qos};
use proto::v1;
use serde_json::json;

const MIB: u64 = 1 << 20;

/// Spins, and holds more than 16 MiB of its own.
const BUSY: &str =
    "held=$(head -c 16777216 /dev/zero | tr '\\0' x); echo ${#held} > /dev/shm/held; while :; do :; done";

async fn list(kubelet: &mut Kubelet, filter: v1::PodSandboxStatsFilter) -> Result<Vec<v1::PodSandboxStats>> {
    let request = v1::ListPodSandboxStatsRequest { filter: Some(filter) };
    Ok(kubelet.client.runtime.list_pod_sandbox_stats(request).await?.into_inner().stats)
}

fn of<'a>(stats: &'a [v1::PodSandboxStats], pod: &str) -> Result<&'a v1::PodSandboxStats> {
    let is = |stats: &&v1::PodSandboxStats| stats.attributes.as_ref().is_some_and(|it| it.id == pod);
    stats.iter().find(is).with_context(|| format!("no stats of {pod}"))
}

fn number(value: Option<v1::UInt64Value>) -> u64 {
    value.map(|value| value.value).unwrap_or_default()
}

/// A figure of the pod's cgroup, by its name in version 1 and in version 2.
fn kernel(cgroup: &str, v1: (&str, &str), v2: &str) -> Result<u64> {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let cgroup = cgroup.trim_start_matches('/');
    let path = match root.join("cgroup.controllers").exists() {
        true => root.join(cgroup).join(v2),
        false => root.join(v1.0).join(cgroup).join(v1.1),
    };
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let first = text.lines().next().unwrap_or_default();
    let word = first.split_whitespace().last().unwrap_or_default();
    let unit = if v2 == "cpu.stat" && path.ends_with("cpu.stat") { 1000 } else { 1 };
    Ok(word.parse::<u64>()? * unit)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn the_stats_of_pods_are_the_kernels() -> Result<()> {
    let fixture = Fixture::new().await?;
    let mut kubelet = Kubelet::on(&fixture).await?;
    let busy = kubelet
        .pod("busy", Qos::Burstable)
        .runs("main", &["sh", "-c", BUSY])
        .runs("beside", &["sh", "-c", "sleep 1000 & sleep 1000"]);
    let idle = kubelet.pod("idle", Qos::Burstable).runs("main", &["sleep", "1000"]);
    let (running, resting) = (kubelet.start_pod(&busy).await?, kubelet.start_pod(&idle).await?);
    let main = &running.containers[0];
    while kubelet.probe(main, &["test", "-s", "/dev/shm/held"], 10).await? != 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let cpu = |cgroup: &str| kernel(cgroup, ("cpuacct", "cpuacct.usage"), "cpu.stat");
    let memory = |cgroup: &str| kernel(cgroup, ("memory", "memory.usage_in_bytes"), "memory.current");

    // Between two looks at the kernel, the answer lies between them.
    let begun = Instant::now();
    let low = (cpu(&busy.cgroup_parent())?, cpu(&idle.cgroup_parent())?);
    let first = list(&mut kubelet, v1::PodSandboxStatsFilter::default()).await?;
    let high = (cpu(&busy.cgroup_parent())?, cpu(&idle.cgroup_parent())?);
    ensure!(first.len() == 2, "two pods, and the stats of {}", first.len());
    for (pod, low, high) in [(&running, low.0, high.0), (&resting, low.1, high.1)] {
        let linux = of(&first, &pod.sandbox)?.linux.clone().context("linux")?;
        let used = number(linux.cpu.and_then(|cpu| cpu.usage_core_nano_seconds));
        assert!((low..=high).contains(&used), "{used} is not between {low} and {high}");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let second = list(&mut kubelet, v1::PodSandboxStatsFilter::default()).await?;
    let used = |stats: &[v1::PodSandboxStats], pod: &str| -> Result<u64> {
        let linux = of(stats, pod)?.linux.clone().context("linux")?;
        Ok(number(linux.cpu.and_then(|cpu| cpu.usage_core_nano_seconds)))
    };
    let grew = used(&second, &running.sandbox)? - used(&first, &running.sandbox)?;
    let bound = begun.elapsed().as_nanos() as u64 * std::thread::available_parallelism()?.get() as u64;
    assert!((100_000_000..bound).contains(&grew), "a loop of a second used {grew} ns");
    assert!(used(&second, &resting.sandbox)? - used(&first, &resting.sandbox)? < grew / 10, "one sleeps");

    let stats = of(&second, &running.sandbox)?;
    let attributes = stats.attributes.clone().unwrap_or_default();
    assert_eq!(attributes.metadata, busy.sandbox_config().metadata);
    assert_eq!(attributes.labels, busy.sandbox_config().labels);
    let linux = stats.linux.clone().context("linux")?;
    let told = linux.memory.context("memory")?;
    let (usage, set) = (number(told.usage_bytes), number(told.working_set_bytes));
    let now = memory(&busy.cgroup_parent())?;
    assert!(usage.abs_diff(now) < 4 * MIB, "{usage} is not about {now}");
    assert!((16 * MIB..=usage).contains(&set), "working set {set} of {usage}");
    assert_eq!(
        number(linux.process.and_then(|process| process.process_count)),
        3,
        "a shell, a shell, two sleeps"
    );
    let by_id = |container: &str| {
        let is = |stats: &&v1::ContainerStats| stats.attributes.as_ref().is_some_and(|it| it.id == container);
        linux.containers.iter().find(is).cloned().with_context(|| format!("no stats of {container}"))
    };
    let (own, other) = (by_id(main)?, by_id(&running.containers[1])?);
    let used = |stats: &v1::ContainerStats| number(stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds));
    assert!(used(&own) > 10 * used(&other), "the loop is the first container's");
    assert!(
        used(&own) + used(&other) <= number(linux.cpu.and_then(|cpu| cpu.usage_core_nano_seconds)) + bound
    );

    // Nothing moves in the idle pod's network, so both look at the same numbers.
    let (rx, tx) = interface(&mut kubelet, &resting.containers[0]).await?;
    let network = of(&second, &resting.sandbox)?.linux.clone().and_then(|linux| linux.network);
    let eth0 = network.and_then(|network| network.default_interface).context("an interface")?;
    let (told_rx, told_tx) = (number(eth0.rx_bytes), number(eth0.tx_bytes));
    assert!(told_rx <= rx && rx - told_rx < 4096, "{told_rx} received, the kernel says {rx}");
    assert!(told_tx <= tx && tx - told_tx < 4096, "{told_tx} sent, the kernel says {tx}");
    assert!(rx > 0, "a new interface hears its neighbours");

    let only = v1::PodSandboxStatsFilter { id: resting.sandbox.clone(), ..Default::default() };
    let found = list(&mut kubelet, only).await?;
    assert_eq!(found.len(), 1);
    of(&found, &resting.sandbox)?;
    let label_selector = [("io.kubernetes.pod.uid".to_owned(), busy.uid())].into();
    let found =
        list(&mut kubelet, v1::PodSandboxStatsFilter { label_selector, ..Default::default() }).await?;
    assert_eq!(found.len(), 1);
    of(&found, &running.sandbox)?;
    Ok(())
}

async fn interface(kubelet: &mut Kubelet, container: &str) -> Result<(u64, u64)> {
    let files = "cat /sys/class/net/eth0/statistics/rx_bytes /sys/class/net/eth0/statistics/tx_bytes";
    let request = v1::ExecSyncRequest {
        container_id: container.into(),
        cmd: ["sh", "-c", files].map(str::to_owned).to_vec(),
        timeout: 10,
    };
    let said = kubelet.client.runtime.exec_sync(request).await?.into_inner().stdout;
    let said = String::from_utf8(said)?;
    let mut numbers = said.lines().filter_map(|line| line.parse().ok());
    numbers.next().zip(numbers.next()).context("two numbers")
}

/// Of images and of containers: bytes, inodes, and where.
async fn file_systems(fixture: &mut Fixture) -> Result<[(u64, u64, String); 2]> {
    let answer = fixture.client.images.image_fs_info(v1::ImageFsInfoRequest {}).await?.into_inner();
    ensure!(answer.image_filesystems.len() == 1 && answer.container_filesystems.len() == 1, "{answer:?}");
    let row = |usage: &v1::FilesystemUsage| {
        let at = usage.fs_id.clone().unwrap_or_default().mountpoint;
        (number(usage.used_bytes), number(usage.inodes_used), at)
    };
    Ok([row(&answer.image_filesystems[0]), row(&answer.container_filesystems[0])])
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn what_images_and_containers_take_is_what_a_pull_and_a_write_add() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let before = file_systems(&mut fixture).await?;
    let root = fixture.node.dir().join("root");
    for (_, _, at) in &before {
        assert!(std::path::Path::new(at).starts_with(&root), "{at}");
    }
    assert_ne!(before[0].2, before[1].2, "images and containers are told apart");

    // 200 files of which none can be packed: what they take on the disk is known beforehand.
    const FILES: u64 = 200;
    const BYTES: u64 = 40_000;
    let noise = |seed: u64| -> Vec<u8> {
        let mut state = seed * 2 + 1;
        let next = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 33) as u8
        };
        (0..BYTES).map(|_| next(&mut state)).collect()
    };
    let mut layer = Layer::new();
    for number in 0..FILES {
        layer = layer.file(&format!("file-{number}"), 0o644, &noise(number));
    }
    fixture.registry.push("large", &["1"], &Recipe::new(vec![layer.finish()], json!({})).build()).await?;
    let name = format!("{}/large:1", fixture.registry.address());
    fixture.client.pull(&name).await?;
    let pulled = file_systems(&mut fixture).await?;
    let (bytes, inodes) = (pulled[0].0 - before[0].0, pulled[0].1 - before[0].1);
    // Files end on blocks; documents and recipes come on top.
    let least = FILES * BYTES;
    assert!((least..least + FILES * 4096 + MIB).contains(&bytes), "{least} bytes of files took {bytes}");
    assert!((FILES..FILES + 40).contains(&inodes), "{FILES} files took {inodes} inodes");
    assert_eq!((pulled[1].0, pulled[1].1), (before[1].0, before[1].1), "a pull is none of the containers'");

    let script = "dd if=/dev/zero of=/written bs=1M count=8 2>/dev/null; \
        for n in 1 2 3 4 5 6 7 8 9; do touch /small-$n; done; echo done; exec sleep 1000";
    let (pod, _) = fixture.run("writes", &["sh", "-c", script]).await?;
    assert!(fixture.log_of("writes", 1).await.contains("done"));
    let written = grown(&mut fixture, pulled[1].0 + 8 * MIB).await?;
    let (bytes, inodes) = (written[1].0 - pulled[1].0, written[1].1 - pulled[1].1);
    assert!((8 * MIB..9 * MIB).contains(&bytes), "8 MiB took {bytes}");
    assert!((10..30).contains(&inodes), "10 files took {inodes} inodes");
    assert!(written[0].0.abs_diff(pulled[0].0) < MIB / 4, "what containers write is none of the images'");

    fixture.remove(&pod).await?;
    fixture.client.remove_image(&name).await?;
    let begun = Instant::now();
    loop {
        let now = file_systems(&mut fixture).await?;
        let back = |now: &(u64, u64, String), then: &(u64, u64, String)| {
            now.0.abs_diff(then.0) < MIB / 4 && now.1.abs_diff(then.1) < 8
        };
        if back(&now[0], &before[0]) && back(&now[1], &before[1]) {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "{now:?} is not as it was: {before:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Once what containers take is so much: it is told as it was last walked, and walked again behind the answer.
async fn grown(fixture: &mut Fixture, bytes: u64) -> Result<[(u64, u64, String); 2]> {
    let begun = Instant::now();
    loop {
        let now = file_systems(fixture).await?;
        if now[1].0 >= bytes {
            return Ok(now);
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "{now:?} is less than {bytes}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
