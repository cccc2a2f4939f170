//! `cargo xtask bench lists`: what the kubelet polls, on a full node that is busy making and removing pods, beside
//! Debian's containerd.
//!
//! The pods that stay use the host's network, since what is measured is not the bridge; those that come and go have
//! addresses. The daemons take turns, each with the node to itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prost::Message as _;
use proto::v1;
use tokio::task::JoinSet;

use crate::bench::beside::Beside;
use crate::bench::samples::{Samples, table};
use crate::bench::wire::Wire;
use crate::fixture::Fixture;
use crate::node::{Client, Node, connect, container_config, pod_config};

const ROWS: &[(&str, &str)] = &[
    ("list_pods", "ListPodSandbox ms"),
    ("list_containers", "ListContainers ms"),
    ("status", "Status ms"),
    ("container_status", "ContainerStatus ms"),
    ("stats", "ListContainerStats ms"),
];
const RUNNING: v1::ContainerState = v1::ContainerState::ContainerRunning;
/// How many pods are made at once to fill the node.
const FILLERS: usize = 8;
/// Between two rounds of polling; a kubelet's is a second.
const PAUSE: Duration = Duration::from_millis(10);
const STATS_ROUNDS: u32 = 40;
/// Of the thread that measures, without real time.
const POLLER_NICE: i32 = -15;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// That stay.
    pub pods: u32,
    /// That are being made and stopped at once.
    pub churn: u32,
    pub rounds: u32,
    /// Without containerd.
    pub alone: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { pods: 300, churn: 20, rounds: 300, alone: false }
    }
}

/// A daemon under measurement.
struct Contender {
    name: &'static str,
    socket: PathBuf,
    image: String,
    log_dir: PathBuf,
    samples: Samples,
}

/// Runs the benchmark in this process's network namespace; the report.
pub async fn run(options: Options) -> Result<String> {
    if options.alone {
        let Fixture { node, image, .. } = &Fixture::new().await?;
        let mut ours = Contender::new("berth", node.socket(), node, image);
        ours.measure(options).await.context("measuring berth")?;
        return Ok(report_alone(&ours.samples));
    }
    let Beside { node, containerd, image, .. } = &Beside::start().await?;
    let mut ours = Contender::new("berth", node.socket(), node, image);
    let mut peer = Contender::new("containerd", containerd.socket(), node, image);
    for contender in [&mut ours, &mut peer] {
        contender.measure(options).await.with_context(|| format!("measuring {}", contender.name))?;
    }
    Ok(report(&ours.samples, &peer.samples, options))
}

fn report_alone(ours: &Samples) -> String {
    let row = |(name, _): &(&str, &str)| {
        let [p50, p99] = [50.0, 99.0].map(|percent| ours.percentile(name, percent));
        format!("{name} p50 {p50:.2} ms, p99 {p99:.2} ms\n")
    };
    let rows: String = ROWS.iter().map(row).collect();
    rows + &format!("pods made and removed meanwhile: {:.0}\n", ours.p50("churned_pods"))
}

fn report(ours: &Samples, peer: &Samples, options: Options) -> String {
    let mut text = format!("{} pods, {} being made and stopped at once\n", options.pods, options.churn);
    text += &table(ours, peer, "containerd", ROWS);
    for (name, _) in ROWS {
        for percent in [50.0, 99.0] {
            let (ours, peer) = (ours.percentile(name, percent), peer.percentile(name, percent));
            text += &format!("p{percent} {name} berth {ours:.2} ms, containerd {peer:.2} ms\n");
        }
        text += &format!("ratio {name} {:.3}\n", ours.percentile(name, 99.0) / peer.percentile(name, 99.0));
    }
    let (ours, peer) = (ours.p50("churned_pods"), peer.p50("churned_pods"));
    text + &format!("pods made and removed meanwhile: berth {ours:.0}, containerd {peer:.0}\n")
}

impl Contender {
    fn new(name: &'static str, socket: PathBuf, node: &Node, image: &str) -> Contender {
        let log_dir = node.dir().join("logs").join(name);
        Contender { name, socket, image: image.to_owned(), log_dir, samples: Samples::default() }
    }

    async fn measure(&mut self, options: Options) -> Result<()> {
        let mut client = connect(&self.socket).await?;
        client.pull(&self.image.clone()).await.context("pulling the image")?;
        println!("{}: filling the node with {} pods", self.name, options.pods);
        let made = self.fill(options.pods).await?;
        let (_, container) = made.first().cloned().context("a pod at least")?;
        let over = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let mut churn = JoinSet::new();
        for number in 0..options.churn {
            let churner = self.churner(&format!("churn-{number}")).await?;
            churn.spawn(churner.run(over.clone(), count.clone()));
        }
        println!("{}: polling", self.name);
        let Options { pods, rounds, .. } = options;
        let polled = poll_apart(Poll { socket: self.socket.clone(), container, pods, rounds }).await;
        over.store(true, Ordering::Relaxed);
        while let Some(ended) = churn.join_next().await {
            ended??;
        }
        self.samples.add_value("churned_pods", count.load(Ordering::Relaxed) as f64);
        self.samples.take_in(polled?);
        let (socket, pods) = (self.socket.clone(), options.pods);
        self.samples.take_in(tokio::task::spawn_blocking(move || stats(&socket, pods)).await??);
        println!("{}: taking the pods away", self.name);
        self.empty(made).await
    }

    async fn fill(&self, pods: u32) -> Result<Vec<(String, String)>> {
        let mut made = Vec::new();
        let mut work = JoinSet::new();
        for number in 0..pods {
            if work.len() == FILLERS {
                made.extend(work.join_next().await.transpose()?.transpose()?);
            }
            let mut maker = self.churner(&format!("stays-{number}")).await?;
            // The host's name, as the kubelet has it for such pods; runc refuses another.
            maker.pod.hostname.clear();
            let linux = maker.pod.linux.get_or_insert_default();
            let options =
                linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default();
            options.network = v1::NamespaceMode::Node.into();
            work.spawn(async move { maker.make().await });
        }
        while let Some(ended) = work.join_next().await {
            made.push(ended??);
        }
        Ok(made)
    }

    async fn empty(&self, made: Vec<(String, String)>) -> Result<()> {
        let mut work = JoinSet::new();
        for (pod, _) in made {
            if work.len() == FILLERS {
                work.join_next().await.transpose()?.transpose()?;
            }
            let mut client = connect(&self.socket).await?;
            work.spawn(async move {
                client.stop_pod(&pod).await?;
                client.remove_pod(&pod).await?;
                anyhow::Ok(())
            });
        }
        while let Some(ended) = work.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn churner(&self, name: &str) -> Result<Churner> {
        let log_dir = self.log_dir.join(name);
        std::fs::create_dir_all(&log_dir)?;
        Ok(Churner {
            client: connect(&self.socket).await?,
            pod: pod_config(name, Path::new(&log_dir)),
            container: container_config("main", &self.image, &["/bin/pause"]),
        })
    }
}

/// Whoever measures must not wait for a processor itself, nor behind those who make pods, or that would be measured: it
/// has a thread of its own, as a kubelet is a process of its own, and that goes first, for both daemons.
async fn poll_apart(poll: Poll) -> Result<Samples> {
    let apart = move || {
        go_first()?;
        poll.run()
    };
    let (told, polled) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || told.send(apart()));
    polled.await.context("the poller broke off")?
}

/// In real time where that is given out, by chrt(1) of util-linux; else as nice as can be to itself.
fn go_first() -> Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut chrt = Command::new("chrt");
    chrt.args(["--rr", "--pid", "1", &thread]).stderr(Stdio::null());
    if !chrt.status().context("running chrt (util-linux)")?.success() {
        rustix::process::setpriority_process(None, POLLER_NICE)?;
    }
    Ok(())
}

/// What is asked, and how often.
struct Poll {
    socket: PathBuf,
    container: String,
    pods: u32,
    rounds: u32,
}

impl Poll {
    fn run(self) -> Result<Samples> {
        let mut wire = Wire::connect(&self.socket)?;
        let mut samples = Samples::default();
        let one = v1::ContainerStatusRequest { container_id: self.container, verbose: false };
        for _ in 0..self.rounds {
            let pods = samples.time("list_pods", || {
                wire.call("RuntimeService/ListPodSandbox", &v1::ListPodSandboxRequest::default())
            })?;
            let containers = samples.time("list_containers", || {
                wire.call("RuntimeService/ListContainers", &v1::ListContainersRequest::default())
            })?;
            samples.time("status", || wire.call("RuntimeService/Status", &v1::StatusRequest::default()))?;
            let status =
                samples.time("container_status", || wire.call("RuntimeService/ContainerStatus", &one))?;
            let pods = proto::ListPodSandboxResponse::decode(&*pods)?.items.len();
            let containers = proto::ListContainersResponse::decode(&*containers)?.items;
            ensure!(pods >= self.pods as usize, "{pods} pods are listed");
            let runs = |id: &str| containers.iter().any(|it| it.id == id && it.state() == RUNNING);
            ensure!(runs(&one.container_id), "{} is not listed as running", one.container_id);
            let status = v1::ContainerStatusResponse::decode(&*status)?.status.unwrap_or_default();
            ensure!(status.state() == RUNNING, "{} is {:?}", status.id, status.state());
            std::thread::sleep(PAUSE);
        }
        Ok(samples)
    }
}

/// The use of all that stay, while nothing else goes on.
fn stats(socket: &Path, pods: u32) -> Result<Samples> {
    let mut wire = Wire::connect(socket)?;
    let mut samples = Samples::default();
    for _ in 0..STATS_ROUNDS {
        let request = v1::ListContainerStatsRequest::default();
        let stats = samples.time("stats", || wire.call("RuntimeService/ListContainerStats", &request))?;
        let stats = v1::ListContainerStatsResponse::decode(&*stats)?.stats;
        ensure!(stats.len() as u32 == pods, "{} stats", stats.len());
        ensure!(stats.iter().all(|it| it.cpu.is_some() && it.memory.is_some()), "stats of nothing");
    }
    Ok(samples)
}

/// Makes and removes one pod, again and again.
struct Churner {
    client: Client,
    pod: v1::PodSandboxConfig,
    container: v1::ContainerConfig,
}

impl Churner {
    async fn make(&mut self) -> Result<(String, String)> {
        let pod = self.client.run_pod(&self.pod).await?;
        let container = self.client.create(&pod, &self.container, &self.pod).await?;
        self.client.start(&container).await?;
        Ok((pod, container))
    }

    async fn run(mut self, over: Arc<AtomicBool>, count: Arc<AtomicU64>) -> Result<()> {
        while !over.load(Ordering::Relaxed) {
            let (pod, container) = self.make().await?;
            self.client.stop(&container, 0).await?;
            self.client.stop_pod(&pod).await?;
            self.client.remove_pod(&pod).await?;
            count.fetch_add(1, Ordering::Relaxed);
            self.pod.metadata.get_or_insert_default().attempt += 1;
        }
        Ok(())
    }
}
