//! The systemd cgroup driver: where monitors live, and what is left of them.
//!
//! Needs systemd as the node's init and cgroup v2 alone: `cargo xtask vm node node_systemd`.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_test::fixture::Fixture;
use berth_test::node::{Options, container_config};
use proto::v1;

const CGROUPS: &str = "/sys/fs/cgroup";

/// Elsewhere a daemon with this driver does not start, which is tested with the settings.
fn has_systemd() -> bool {
    let there = |path: &str| Path::new(path).exists();
    let has = there("/run/systemd/system") && there("/sys/fs/cgroup/cgroup.controllers");
    if !has {
        println!("skipped: needs systemd and cgroup v2 alone (cargo xtask vm node node_systemd)");
    }
    has
}

/// A slice of this test's, stopped with all that is below when dropped.
struct Slice(String);

impl Slice {
    fn new(what: &str) -> Slice {
        Slice(format!("berthtest{}{what}.slice", std::process::id()))
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let _ = Command::new("systemctl").arg("stop").arg(&self.0).status();
    }
}

fn cgroup_of(pid: i32) -> Result<String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(line.trim().strip_prefix("0::").context("cgroup v2 alone")?.to_owned())
}

async fn monitor_of(fixture: &Fixture, pod: &str, not: i32) -> Result<i32> {
    let begun = Instant::now();
    loop {
        match fixture.node.monitor_of(pod).map(|pid| pid.as_raw_nonzero().get()) {
            // The next one has moved a moment after it was born.
            Ok(pid) if pid != not && (not == 0 || is_placed(pid)) => return Ok(pid),
            _ => ensure!(begun.elapsed() < Duration::from_secs(60), "no monitor of {pod}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_placed(pid: i32) -> bool {
    cgroup_of(pid).is_ok_and(|cgroup| cgroup.ends_with(".scope"))
}

async fn until_gone(dir: &Path) -> Result<()> {
    let begun = Instant::now();
    while dir.exists() {
        ensure!(begun.elapsed() < Duration::from_secs(60), "{} stays: {}", dir.display(), seen(dir));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Who is in a scope, and what systemd thinks of it.
fn seen(dir: &Path) -> String {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    let unit = dir.file_name().unwrap_or_default();
    let shown = std::process::Command::new("systemctl").arg("status").arg(unit).output();
    let shown = shown.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
    format!("processes {:?}, {:?}\n{shown}", read("cgroup.procs"), read("cgroup.events"))
}

async fn says(fixture: &mut Fixture, container: &str, script: &str) -> Result<String> {
    let answer = fixture.client.exec(container, &["sh", "-c", script], 60).await?;
    Ok(String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, a network namespace and systemd: cargo xtask vm node node_systemd"]
async fn a_monitor_lives_in_a_scope_of_the_slice_that_its_handler_names() -> Result<()> {
    if !has_systemd() {
        return Ok(());
    }
    let (pods, monitors) = (Slice::new("pods"), Slice::new("monitors"));
    let config = format!(
        "[runtime]\ncgroup_driver = \"systemd\"\n[runtime.handlers.in-pod]\nmonitor_cgroup = \"pod\"\n\
         [runtime.handlers.named]\nmonitor_cgroup = \"{}\"\n",
        monitors.0
    );
    let mut fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    let daemons = cgroup_of(fixture.node.daemon_pid().context("a daemon")?.cast_signed())?;
    let stem = pods.0.trim_end_matches(".slice").to_owned();
    for (handler, slice) in [
        ("", None),
        ("in-pod", Some(format!("/{}/{stem}-inpod.slice", pods.0))),
        ("named", Some(format!("/{}", monitors.0))),
    ] {
        let mut pod_config = fixture.pod_config(&format!("cg-{handler}"));
        pod_config.linux.get_or_insert_default().cgroup_parent =
            format!("{stem}-{}.slice", handler.replace('-', ""));
        if handler.is_empty() {
            pod_config.linux.get_or_insert_default().cgroup_parent = format!("{stem}-own.slice");
        }
        let request =
            v1::RunPodSandboxRequest { config: Some(pod_config.clone()), runtime_handler: handler.into() };
        let pod = fixture.client.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let config = container_config("main", &fixture.image, &["sleep", "1000"]);
        let container = fixture.client.create(&pod, &config, &pod_config).await?;
        fixture.client.start(&container).await?;
        let monitor = monitor_of(&fixture, &pod, 0).await?;
        let Some(slice) = slice else {
            assert_eq!(cgroup_of(monitor)?, daemons);
            fixture.remove(&pod).await?;
            continue;
        };
        let scope = format!("{slice}/berth-conmon-{pod}-{monitor}.scope");
        assert_eq!(cgroup_of(monitor)?, scope, "handler {handler}");
        assert!(!says(&mut fixture, &container, "cat /proc/self/cgroup").await?.contains("berth-conmon"));

        // The next monitor of the pod gets one, too, and nothing stays of the first one's.
        let killed = rustix::process::Pid::from_raw(monitor).context("a pid")?;
        rustix::process::kill_process(killed, rustix::process::Signal::KILL)?;
        let next = monitor_of(&fixture, &pod, monitor).await?;
        let next_scope = format!("{slice}/berth-conmon-{pod}-{next}.scope");
        assert_eq!(cgroup_of(next)?, next_scope, "handler {handler}");
        assert_eq!(says(&mut fixture, &container, "echo still").await?, "still");
        until_gone(&below(&scope)).await?;
        fixture.remove(&pod).await?;
        until_gone(&below(&next_scope)).await?;
    }
    Ok(())
}

fn below(cgroup: &str) -> PathBuf {
    Path::new(CGROUPS).join(cgroup.trim_start_matches('/'))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, a network namespace and systemd: cargo xtask vm node node_systemd"]
async fn another_runtime_makes_its_containers_in_scopes_beside_their_monitor() -> Result<()> {
    if !has_systemd() {
        return Ok(());
    }
    let pods = Slice::new("others");
    let stem = pods.0.trim_end_matches(".slice").to_owned();
    let programs = [("runc", "/usr/sbin/runc"), ("crun", "/usr/bin/crun")];
    let there: Vec<_> = programs.into_iter().filter(|(_, path)| Path::new(path).exists()).collect();
    ensure!(!there.is_empty(), "neither runc nor crun is here");
    let tables = there.iter().map(|(name, path)| {
        format!("[runtime.handlers.{name}]\npath = \"{path}\"\nmonitor_cgroup = \"pod\"\n")
    });
    let config = format!("[runtime]\ncgroup_driver = \"systemd\"\n{}", tables.collect::<String>());
    let mut fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    for (handler, _) in there {
        let mut pod_config = fixture.pod_config(handler);
        pod_config.linux.get_or_insert_default().cgroup_parent = format!("{stem}-{handler}.slice");
        let request =
            v1::RunPodSandboxRequest { config: Some(pod_config.clone()), runtime_handler: handler.into() };
        let pod = fixture.client.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let mut config = container_config("main", &fixture.image, &["sleep", "1000"]);
        config.linux.get_or_insert_default().resources =
            Some(v1::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() });
        let container = fixture.client.create(&pod, &config, &pod_config).await?;
        fixture.client.start(&container).await?;
        let slice = format!("/{}/{stem}-{handler}.slice", pods.0);
        let scope = below(&format!("{slice}/cri-berth-{container}.scope"));
        assert_eq!(std::fs::read_to_string(scope.join("memory.max"))?.trim(), (64 << 20).to_string());
        let monitor = monitor_of(&fixture, &pod, 0).await?;
        assert_eq!(cgroup_of(monitor)?, format!("{slice}/berth-conmon-{pod}-{monitor}.scope"));
        assert_eq!(says(&mut fixture, &container, "echo well").await?, "well");
        let request = v1::ContainerStatsRequest { container_id: container.clone() };
        let stats =
            fixture.client.runtime.container_stats(request).await?.into_inner().stats.context("stats")?;
        assert!(stats.memory.and_then(|memory| memory.usage_bytes).is_some_and(|bytes| bytes.value > 0));
        fixture.client.stop(&container, 0).await?;
        fixture.remove(&pod).await?;
        until_gone(&scope).await?;
    }
    Ok(())
}
