//! `cargo xtask bench pod`: what a pod costs, beside Debian's containerd and runc.
//!
//! Same machine, image, CNI configuration and gRPC client; the daemons take turns
//! by round. Helper memory is the PSS of everything that runs per pod besides the
//! container: our monitor; their shim and pause process.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bench::beside::Beside;
use crate::bench::samples::{Samples, table};
use crate::node::{Client, container_config, pod_config};

/// Real pod starts come after a quiet spell, in which the kernel's RCU rests.
const QUIET: Duration = Duration::from_millis(60);

const ROWS: &[(&str, &str)] = &[
    ("run_pod", "RunPodSandbox ms"),
    ("create_container", "CreateContainer ms"),
    ("start_container", "StartContainer ms"),
    ("pod_start_total", "pod start total ms"),
    ("exec_sync", "ExecSync true ms"),
    ("stop_container", "StopContainer ms"),
    ("stop_pod", "StopPodSandbox ms"),
    ("remove_pod", "RemovePodSandbox ms"),
    ("pss_per_pod", "helper PSS/pod KiB"),
    ("daemon_pss", "daemon PSS KiB"),
];

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub rounds: u32,
    pub pods: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { rounds: 3, pods: 20 }
    }
}

/// A daemon under measurement.
struct Contender {
    client: Client,
    samples: Samples,
    image: String,
    /// Counts helper memory, in KiB over all pods.
    helpers: Helpers,
    daemon_pid: u32,
}

/// How to recognise a helper process by its command line.
struct Helpers {
    marks: Vec<String>,
}

/// Runs the benchmark in this process's network namespace; the report.
pub async fn run(options: Options) -> Result<String> {
    let Beside { node, containerd, image, .. } = &Beside::start().await?;
    let mut ours = Contender {
        client: node.client().await?,
        samples: Samples::default(),
        image: image.clone(),
        helpers: Helpers { marks: vec![node.dir().display().to_string()] },
        daemon_pid: node.daemon_pid().context("berthd runs")?,
    };
    let mut peer = Contender {
        client: containerd.client().await?,
        samples: Samples::default(),
        image: image.clone(),
        helpers: Helpers { marks: vec![containerd.mark(), "/pause\0".to_owned()] },
        daemon_pid: containerd.pid(),
    };
    for contender in [&mut ours, &mut peer] {
        contender.client.pull(&contender.image.clone()).await.context("pulling the image")?;
        // One pod that does not count: caches, bridge, page cache.
        contender.round(u32::MAX, 1, &node.dir().join("logs")).await?;
        contender.samples = Samples::default();
    }
    for round in 0..options.rounds {
        println!("round {} of {}: berth, containerd", round + 1, options.rounds);
        ours.round(round, options.pods, &node.dir().join("logs")).await?;
        peer.round(round, options.pods, &node.dir().join("logs")).await?;
    }
    Ok(report(&ours.samples, &peer.samples))
}

fn report(ours: &Samples, peer: &Samples) -> String {
    let mut text = table(ours, peer, "containerd", ROWS);
    for (name, _) in ROWS {
        text += &format!("ratio {name} {:.3}\n", ours.p50(name) / peer.p50(name));
    }
    text
}

impl Contender {
    /// Makes this many pods, measures each step, and takes them away again.
    async fn round(&mut self, round: u32, pods: u32, log_dir: &Path) -> Result<()> {
        let mut made = Vec::new();
        for number in 0..pods {
            made.push(self.start_pod(&format!("bench-{round}-{number}"), log_dir).await?);
        }
        for (_, container) in &made {
            std::thread::sleep(QUIET);
            let start = Instant::now();
            let answer = self.client.exec(container, &["/bin/true"], 10).await?;
            self.samples.add("exec_sync", start.elapsed());
            anyhow::ensure!(answer.exit_code == 0, "exec failed: {answer:?}");
        }
        let helper_kib = self.helpers.pss_kib();
        self.samples.add_value("pss_per_pod", helper_kib as f64 / f64::from(pods));
        self.samples.add_value("daemon_pss", pss_kib(self.daemon_pid) as f64);
        for (pod, container) in &made {
            self.take_away(pod, container).await?;
        }
        Ok(())
    }

    async fn start_pod(&mut self, name: &str, log_dir: &Path) -> Result<(String, String)> {
        let log_dir = log_dir.join(name);
        std::fs::create_dir_all(&log_dir)?;
        let pod_config = pod_config(name, &log_dir);
        let config = container_config("main", &self.image, &["/bin/pause"]);
        std::thread::sleep(QUIET);
        let start = Instant::now();
        let pod = self.client.run_pod(&pod_config).await?;
        let ran = start.elapsed();
        let container = self.client.create(&pod, &config, &pod_config).await?;
        let created = start.elapsed();
        self.client.start(&container).await?;
        let started = start.elapsed();
        self.samples.add("run_pod", ran);
        self.samples.add("create_container", created - ran);
        self.samples.add("start_container", started - created);
        self.samples.add("pod_start_total", started);
        Ok((pod, container))
    }

    async fn take_away(&mut self, pod: &str, container: &str) -> Result<()> {
        std::thread::sleep(QUIET);
        let start = Instant::now();
        self.client.stop(container, 10).await?;
        let stopped = start.elapsed();
        self.client.stop_pod(pod).await?;
        let pod_stopped = start.elapsed();
        self.client.remove_pod(pod).await?;
        let removed = start.elapsed();
        self.samples.add("stop_container", stopped);
        self.samples.add("stop_pod", pod_stopped - stopped);
        self.samples.add("remove_pod", removed - pod_stopped);
        Ok(())
    }
}

impl Helpers {
    fn pss_kib(&self) -> u64 {
        let names = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| self.is_helper(*pid)).map(pss_kib).sum()
    }

    fn is_helper(&self, pid: u32) -> bool {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let program = command.split('\0').next().unwrap_or_default();
        let names = ["conmon", "shim", "pause", "/proc/self/fd"];
        let candidate = names.iter().any(|name| program.contains(name)) && !program.starts_with("/bin/pause");
        candidate && self.marks.iter().any(|mark| command.contains(mark.as_str()))
    }
}

/// Proportional set size, or 0 when the process is gone.
fn pss_kib(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
