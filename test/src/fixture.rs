//! What most node tests start from: a registry with busybox, a private node that
//! knows it, a client, and the image pulled.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use proto::v1;

use crate::node::{Client, Node, Options, container_config};
use crate::programs::Programs;
use crate::registry::DockerRegistry;
use crate::stand_ins;

/// Where tests find busybox, under the registry's own address.
pub const BUSYBOX: &str = "busybox:test";

/// How long a container may take to write what a test expects.
const LOG_LIMIT: Duration = Duration::from_secs(20);

/// A node with an image, ready for pods.
#[derive(Debug)]
pub struct Fixture {
    pub node: Node,
    pub client: Client,
    pub registry: DockerRegistry,
    /// busybox, as the node knows it.
    pub image: String,
    _registry_dir: tempfile::TempDir,
}

impl Fixture {
    pub async fn new() -> Result<Fixture> {
        Fixture::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Result<Fixture> {
        let registry_dir = tempfile::Builder::new().prefix("berth-registry-").tempdir()?;
        let registry = DockerRegistry::start(registry_dir.path())?;
        registry.push("busybox", &["test"], &stand_ins::busybox(&Programs::built())?).await?;
        let mirror = Some(registry.address().to_string());
        let node = Node::start(Options { mirror, ..options }).await?;
        let mut client = node.client().await?;
        let image = format!("{}/{BUSYBOX}", registry.address());
        client.pull(&image).await.context("pulling busybox")?;
        Ok(Fixture { node, client, registry, image, _registry_dir: registry_dir })
    }

    pub fn log_dir(&self, pod: &str) -> PathBuf {
        self.node.dir().join("logs").join(pod)
    }

    /// A pod's configuration, its log folder made.
    pub fn pod_config(&self, name: &str) -> v1::PodSandboxConfig {
        let log_dir = self.log_dir(name);
        std::fs::create_dir_all(&log_dir).expect("making a log folder");
        self.node.pod_config(name, &log_dir)
    }

    /// Runs a pod with one started container; their ids.
    pub async fn run(&mut self, name: &str, command: &[&str]) -> Result<(String, String)> {
        let config = container_config("main", &self.image, command);
        self.run_with(name, config).await
    }

    pub async fn run_with(&mut self, name: &str, config: v1::ContainerConfig) -> Result<(String, String)> {
        let pod_config = self.pod_config(name);
        let pod = self.client.run_pod(&pod_config).await?;
        let container = self.client.create(&pod, &config, &pod_config).await?;
        self.client.start(&container).await?;
        Ok((pod, container))
    }

    /// The log of the pod's container `main`.
    pub fn log(&self, pod: &str) -> String {
        std::fs::read_to_string(self.log_dir(pod).join("main.log")).unwrap_or_default()
    }

    /// The same, once it has this many lines: a container writes when it gets to it.
    pub async fn log_of(&self, pod: &str, lines: usize) -> String {
        let start = Instant::now();
        loop {
            let log = self.log(pod);
            // A line may come in parts (`P`); the last of them is `F`.
            let whole = log.lines().filter(|line| line.split(' ').nth(2) == Some("F")).count();
            if whole >= lines || start.elapsed() > LOG_LIMIT {
                return log;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops and removes a pod.
    pub async fn remove(&mut self, pod: &str) -> Result<()> {
        self.client.stop_pod(pod).await?;
        self.client.remove_pod(pod).await?;
        Ok(())
    }

    /// Kills the daemon and starts the next one.
    pub async fn restart_daemon(&mut self) -> Result<()> {
        self.node.kill_daemon();
        self.node.start_daemon().await?;
        self.reconnect().await
    }

    /// After a restart: the daemon's new socket needs a new connection.
    pub async fn reconnect(&mut self) -> Result<()> {
        self.client = self.node.client().await?;
        Ok(())
    }
}
