//! Execs and attaches by the hundred, over SPDY (crictl, whose client is Kubernetes' own) and WebSocket: they leave no
//! descriptor, thread or process in berthd or the monitor. `BERTH_SOAK=1000 cargo xtask node _leave_nothing` for a
//! thousand of each.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_test::channels::{Channels, talk};
use berth_test::crictl::Crictl;
use berth_test::fixture::Fixture;

/// What berthd and the pod's monitor have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    daemon: usize,
    threads: usize,
    monitor: usize,
    /// Children of the monitor: the container's first process, and execs.
    processes: usize,
}

/// Ends that are told before all of them is let go of.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// Threads for blocking work come and go.
const SPARE_THREADS: usize = 8;

fn count(path: &str) -> usize {
    std::fs::read_dir(path).map(Iterator::count).unwrap_or_default()
}

impl Held {
    fn by(fixture: &Fixture, pod: &str) -> Result<Held> {
        let daemon = fixture.node.daemon_pid().context("a daemon")?;
        let monitor = fixture.node.monitor_of(pod)?.as_raw_nonzero();
        let children = std::fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children"))?;
        Ok(Held {
            daemon: count(&format!("/proc/{daemon}/fd")),
            threads: count(&format!("/proc/{daemon}/task")),
            monitor: count(&format!("/proc/{monitor}/fd")),
            processes: children.split_whitespace().count(),
        })
    }

    fn is_within(self, before: Held) -> bool {
        self.daemon <= before.daemon
            && self.threads <= before.threads + SPARE_THREADS
            && self.monitor <= before.monitor
            && self.processes <= before.processes
    }
}

async fn ensure_nothing_stays(fixture: &Fixture, pod: &str, before: Held) -> Result<()> {
    let begun = Instant::now();
    loop {
        let now = Held::by(fixture, pod)?;
        if now.is_within(before) {
            return Ok(());
        }
        ensure!(begun.elapsed() < SETTLE_LIMIT, "before {before:?}, now {now:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How many of each; crictl is a process each time, so there are fewer of those unless somebody asks.
fn rounds(usual: usize) -> Result<usize> {
    match std::env::var("BERTH_SOAK") {
        Ok(number) => number.parse().context("BERTH_SOAK"),
        Err(_) => Ok(usual),
    }
}

const WRITES: &str = "while :; do echo tick; sleep 0.02; done";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn execs_over_websocket_leave_nothing() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("execs", &["sh", "-c", WRITES]).await?;
    let mut before = None;
    for round in 0..=rounds(100)? {
        let url = fixture.client.exec_url(&container, &["sh", "-c", "cat; exit 3"], true).await?;
        let heard = talk(&url, "v5.channel.k8s.io", Some(b"there and back")).await?;
        assert_eq!(heard.stdout, b"there and back", "round {round}");
        assert!(String::from_utf8_lossy(&heard.error).contains("\"3\""), "round {round}: {heard:?}");
        before = before.or(Some(Held::by(&fixture, &pod)?));
    }
    ensure_nothing_stays(&fixture, &pod, before.context("a first round")?).await?;
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn attaches_over_websocket_leave_nothing() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("attaches", &["sh", "-c", WRITES]).await?;
    let before = Held::by(&fixture, &pod)?;
    for round in 0..rounds(100)? {
        let url = fixture.client.attach_url(&container).await?;
        let mut channels = Channels::dial(&url, "v5.channel.k8s.io").await?;
        assert!(channels.stdout().await.starts_with(b"tick"), "round {round}");
        // It hangs up without a word.
        drop(channels);
    }
    ensure_nothing_stays(&fixture, &pod, before).await?;
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn execs_and_attaches_over_spdy_leave_nothing() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("spdy", &["sh", "-c", WRITES]).await?;
    let (crictl, before) = (Crictl::of(&fixture.node), Held::by(&fixture, &pod)?);
    for round in 0..rounds(15)? {
        let said = crictl.run(&["exec", "--transport", "spdy", &container, "echo", "there and back"])?;
        assert_eq!(said, "there and back\n", "round {round}");
        let mut command = crictl.command(&["attach", "--transport", "spdy", &container]);
        let mut client = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(client.stdout.take().context("its output")?).read_line(&mut line)?;
        assert_eq!(line, "tick\n", "round {round}");
        client.kill()?;
        client.wait()?;
    }
    ensure_nothing_stays(&fixture, &pod, before).await?;
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_attached_client_is_joined_to_the_next_monitor() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done";
    let (pod, container) = fixture.run("rejoin", &["sh", "-c", script]).await?;
    let url = fixture.client.attach_url(&container).await?;
    let mut channels = Channels::dial(&url, "v5.channel.k8s.io").await?;
    let mut last = number(&mut channels).await?;
    for _ in 0..3 {
        rustix::process::kill_process(fixture.node.monitor_of(&pod)?, rustix::process::Signal::KILL)?;
        // The connection is the same, and what comes over it goes on; a gap is in the log only.
        let later = last + 5;
        while last < later {
            let next = number(&mut channels).await?;
            ensure!(next > last, "{next} came after {last}");
            last = next;
        }
    }
    fixture.remove(&pod).await
}

/// The last whole number of what comes next.
async fn number(channels: &mut Channels) -> Result<u64> {
    let bytes =
        tokio::time::timeout(SETTLE_LIMIT, channels.stdout()).await.context("nothing comes any more")?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let last = text.split_terminator('\n').next_back().context("the connection ended")?;
    last.parse().with_context(|| format!("{text:?} is no number"))
}
