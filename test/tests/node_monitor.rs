//! Monitors are killed, alone and together with the daemon, and volumes do not answer: containers lose nothing, and the
//! node stands still for nobody.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_test::dead_volume::DeadVolume;
use berth_test::fixture::Fixture;
use berth_test::node::{Options, container_config};
use proto::v1;
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

/// A thousand numbered lines a second until somebody makes /tmp/end, and then a last word.
const COUNT: &str = "i=0; while [ ! -e /tmp/end ]; do \
     for n in 1 2 3 4 5 6 7 8 9 10; do i=$((i+1)); echo $i; done; sleep 0.01; done; echo end; exit 7";

fn signal(pid: Pid, signal: Signal) -> Result<()> {
    Ok(kill_process(pid, signal)?)
}

/// What a reader makes of the log's stdout: cut records joined.
fn said(log: &str) -> Vec<String> {
    let mut text = String::new();
    for record in log.lines() {
        let mut fields = record.splitn(4, ' ').skip(1);
        let (stream, tag, words) = (fields.next(), fields.next(), fields.next());
        if stream == Some("stdout") {
            text.push_str(words.unwrap_or_default());
            text.push_str(if tag == Some("F") { "\n" } else { "" });
        }
    }
    text.lines().map(str::to_owned).collect()
}

/// Each number once and in order, then the last word.
fn assert_whole(log: &str, at_least: usize) {
    let lines = said(log);
    let (last, numbers) = lines.split_last().expect("a log");
    assert_eq!(last, "end");
    assert!(numbers.len() >= at_least, "{} lines", numbers.len());
    for (line, number) in (1..).zip(numbers) {
        assert_eq!(*number, line.to_string(), "a line is lost or doubled");
    }
}

/// Linux 6.15 tells how a process ended that somebody else reaped.
fn tells_exits() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or_default());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

/// Of a container that a monitor outlived, or did not.
fn assert_exit(status: &v1::ContainerStatus, code: i32, seen: bool) {
    if seen || tells_exits() {
        assert_eq!(status.exit_code, code, "{status:?}");
    } else {
        assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"), "not guessed: {status:?}");
        assert!(!status.message.is_empty());
    }
}

async fn end(fixture: &mut Fixture, container: &str) -> Result<v1::ContainerStatus> {
    fixture.client.exec(container, &["touch", "/tmp/end"], 10).await?;
    fixture.client.wait_for_exit(container).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_killed_monitor_is_replaced_within_a_tenth_of_a_second_and_nothing_is_lost() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("counter", &["sh", "-c", COUNT]).await?;
    fixture.log_of("counter", 100).await;
    let mut takeovers = Vec::new();
    for _ in 0..15 {
        let [old] = fixture.node.monitors()[..] else { panic!("one monitor") };
        let began = Instant::now();
        signal(old, Signal::KILL)?;
        // Not an exec of the old monitor's: it waits for the next one by itself.
        let answer = fixture.client.exec(&container, &["true"], 10).await?;
        takeovers.push(began.elapsed());
        ensure!(answer.exit_code == 0, "{answer:?}");
        ensure!(fixture.node.monitors().iter().all(|pid| *pid != old), "it was killed");
    }
    takeovers.sort();
    println!("from kill to the answer of an exec: {takeovers:?}");
    assert!(takeovers[7] < Duration::from_millis(100), "{takeovers:?}");

    // An exec and a stop that are under way when the monitor dies.
    let mut second = fixture.client.clone();
    let running = second.exec(&container, &["sh", "-c", "sleep 0.5; echo through; exit 3"], 30);
    let kill = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        fixture.node.monitors().into_iter().try_for_each(|pid| signal(pid, Signal::KILL))
    };
    let (answer, killed) = tokio::join!(running, kill);
    killed?;
    let answer = answer?;
    assert_eq!((answer.exit_code, answer.stdout.as_slice()), (3, &b"through\n"[..]));

    let status = end(&mut fixture, &container).await?;
    assert_exit(&status, 7, false);
    assert_whole(&fixture.log("counter"), 500);
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_container_that_ends_before_its_monitor_is_replaced_keeps_its_last_words_and_its_code() -> Result<()>
{
    let mut fixture = Fixture::new().await?;
    let before = fixture.node.inventory();
    let script = "echo up; sleep 1; echo last words; echo more >&2; exit 6";
    let (pod, container) = fixture.run("ends", &["sh", "-c", script]).await?;
    let eats = "echo up; sleep 1; x=x; while :; do x=$x$x$x; done";
    let mut hungry = container_config("main", &fixture.image, &["sh", "-c", eats]);
    let resources = v1::LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() };
    hungry.linux = Some(v1::LinuxContainerConfig { resources: Some(resources), ..Default::default() });
    let (hungry_pod, hungry) = fixture.run_with("hungry", hungry).await?;

    fixture.log_of("ends", 1).await;
    fixture.log_of("hungry", 1).await;

    // The daemon is held, so that nobody starts another monitor.
    let daemon = fixture.node.daemon_pid().context("a daemon")?.cast_signed();
    let daemon = Pid::from_raw(daemon).context("a process")?;
    signal(daemon, Signal::STOP)?;
    for monitor in fixture.node.monitors() {
        signal(monitor, Signal::KILL)?;
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    signal(daemon, Signal::CONT)?;

    let status = fixture.client.wait_for_exit(&container).await?;
    assert_exit(&status, 6, false);
    let log = fixture.log("ends");
    assert_eq!(said(&log), ["up", "last words"], "{log}");
    assert!(log.contains("stderr F more"), "{log}");
    let status = fixture.client.wait_for_exit(&hungry).await?;
    assert_eq!(status.reason, "OOMKilled", "{status:?}");
    fixture.remove(&pod).await?;
    fixture.remove(&hungry_pod).await?;
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new(), "what was kept is let go of");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn monitors_killed_a_hundred_times_in_a_row_lose_nothing() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("counter", &["sh", "-c", COUNT]).await?;
    fixture.log_of("counter", 10).await;
    let fds = |fixture: &Fixture| -> Result<usize> {
        let pid = fixture.node.daemon_pid().context("a daemon")?;
        Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
    };
    let before = fds(&fixture)?;
    let began = Instant::now();
    let mut kills = 0;
    while kills < 100 {
        for monitor in fixture.node.monitors() {
            kills += i32::from(signal(monitor, Signal::KILL).is_ok());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{kills} kills in {:?}", began.elapsed());
    let status = end(&mut fixture, &container).await?;
    assert_exit(&status, 7, false);
    assert_whole(&fixture.log("counter"), 500);
    let after = fds(&fixture)?;
    assert!(after <= before + 4, "{before} descriptors, then {after}");
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn daemon_and_monitor_killed_at_the_same_instant_and_the_daemon_a_hundred_times_lose_nothing()
-> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("counter", &["sh", "-c", COUNT]).await?;
    fixture.log_of("counter", 10).await;
    for round in 0..100 {
        // Every tenth time the monitor as well.
        if round % 10 == 0 {
            fixture.node.monitors().into_iter().try_for_each(|pid| signal(pid, Signal::KILL))?;
        }
        fixture.node.kill_daemon();
        fixture.node.start_daemon().await?;
    }
    fixture.reconnect().await?;
    // It waits until every state is true again.
    fixture.client.exec(&container, &["true"], 10).await?;
    let status = end(&mut fixture, &container).await?;
    assert_exit(&status, 7, false);
    assert_whole(&fixture.log("counter"), 500);
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_volume_that_does_not_answer_fails_its_container_by_name_and_nothing_else() -> Result<()> {
    let options = Options { config: "[container]\nvolume_timeout_s = 3\n".into(), ..Options::default() };
    let mut fixture = Fixture::with(options).await?;
    let before = fixture.node.inventory();
    let pod_config = fixture.pod_config("volume");
    let pod = fixture.client.run_pod(&pod_config).await?;
    let main = container_config("main", &fixture.image, &["sh", "-c", COUNT]);
    let main = fixture.client.create(&pod, &main, &pod_config).await?;
    fixture.client.start(&main).await?;

    let volume = DeadVolume::mount()?;
    for below in ["", "below"] {
        let path = volume.path().join(below);
        let mut config = container_config(&format!("dead{below}"), &fixture.image, &["sleep", "1000"]);
        let host_path = path.to_string_lossy().into_owned();
        config.mounts = vec![v1::Mount {
            host_path: host_path.clone(),
            container_path: "/data".into(),
            ..Default::default()
        }];
        let mut second = fixture.client.clone();
        let creating = async {
            let began = Instant::now();
            (second.create(&pod, &config, &pod_config).await, began.elapsed())
        };
        let others = goes_on(&mut fixture, &pod, &main);
        let ((created, took), others) = tokio::join!(creating, others);
        others?;
        let refused = created.expect_err("a container on a dead volume");
        println!("{took:?}: {}", refused.message());
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
        assert!(refused.message().contains(host_path.trim_end_matches('/')), "{refused:?}");
        assert!(took < Duration::from_secs(8), "{took:?}");
    }
    let began = Instant::now();
    fixture.remove(&pod).await?;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(volume);
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

/// Lists, status, exec, log rotation and another pod, while a container of the pod is being made in vain.
async fn goes_on(fixture: &mut Fixture, pod: &str, main: &str) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(300)).await;
    let lines = said(&fixture.log("volume")).len();
    let began = Instant::now();
    let exec = fixture.client.exec(main, &["echo", "up"], 10).await?;
    ensure!(exec.stdout == b"up\n", "{exec:?}");
    let client = &mut fixture.client;
    client.runtime.reopen_container_log(v1::ReopenContainerLogRequest { container_id: main.into() }).await?;
    client.runtime.list_containers(v1::ListContainersRequest::default()).await?;
    client.container(main).await?;
    client.pod(pod).await?;
    ensure!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let (other, _) = fixture.run("other", &["sleep", "1000"]).await?;
    fixture.remove(&other).await?;
    ensure!(said(&fixture.log("volume")).len() > lines, "the log stood still");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_stop_with_a_day_of_grace_does_not_hold_up_one_with_none() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let script = "trap '' TERM; echo deaf; while :; do sleep 0.1; done";
    let (pod, container) = fixture.run("stubborn", &["sh", "-c", script]).await?;
    fixture.log_of("stubborn", 1).await;
    let mut second = fixture.client.clone();
    let patient = fixture.client.stop(&container, 24 * 60 * 60);
    let hasty = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = Instant::now();
        second.stop(&container, 0).await.map(|()| began.elapsed())
    };
    let both = async { tokio::join!(patient, hasty) };
    let (patient, hasty) = tokio::time::timeout(Duration::from_secs(20), both).await?;
    patient?;
    assert!(hasty? < Duration::from_secs(2));
    assert_eq!(fixture.client.container(&container).await?.exit_code, 137);
    fixture.remove(&pod).await
}
