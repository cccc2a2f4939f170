//! What calls have in common, and what is not to be read off a call at once.

use std::sync::Arc;

use proto::v1;
use tokio::sync::oneshot;

use super::super::words;
use super::Runtime;
use crate::container::life::Ask as ContainerAsk;
use crate::error::{Error, Noun};
use crate::exec::Streams;
use crate::node::Node;
use crate::sandbox::life::Ask as SandboxAsk;
use crate::sandbox::task::{self, Message};
use crate::usage::Disk;
use crate::world::Snapshot;
use crate::{container, monitor, monitoring, nri, sandbox, usage};

/// A container that runs, its pod, and the monitor that watches it.
type Running = (Arc<container::Container>, Arc<sandbox::Sandbox>, monitor::Monitor);

impl Runtime {
    pub(super) async fn create(
        &self,
        request: v1::CreateContainerRequest,
        deadline: Option<tokio::time::Instant>,
    ) -> Result<String, Error> {
        let config = request.config.ok_or_else(|| Error::Request("config: is missing".into()))?;
        let sandbox = self.node.world.now().sandbox(&request.pod_sandbox_id)?;
        let (reply, heard) = oneshot::channel();
        let message = Message::Create { config: Box::new(config), from: None, reply };
        let gone = || not_found(Noun::Sandbox, &request.pod_sandbox_id);
        sandbox.task.send(message).await.map_err(|_| gone())?;
        let underway = heard.await.map_err(|_| gone())??;
        Ok(underway.wait(deadline).await?.to_string())
    }

    /// Unknown is done: stop and remove are idempotent (CRI).
    pub(super) async fn ask_sandbox(&self, id: &str, ask: SandboxAsk) -> Result<(), Error> {
        self.node.wait_recovered().await?;
        let sandbox = match self.node.world.now().sandbox(id) {
            Err(Error::NotFound { .. }) => return Ok(()),
            found => found?,
        };
        let (reply, heard) = oneshot::channel();
        // A task that is gone has taken its sandbox with it.
        match sandbox.task.send(Message::Sandbox { ask, reply }).await {
            Ok(()) => heard.await.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }

    pub(super) async fn ask_container(&self, id: &str, ask: ContainerAsk) -> Result<(), Error> {
        self.node.wait_recovered().await?;
        let world = self.node.world.now();
        let container = match world.container(id) {
            Err(Error::NotFound { .. }) => return task::without(id, ask),
            found => found?,
        };
        let Ok(sandbox) = world.sandbox(&container.facts.sandbox_id) else { return task::without(id, ask) };
        let (reply, heard) = oneshot::channel();
        let container_id = container.facts.id.clone();
        match sandbox.task.send(Message::Container { container_id, ask, reply }).await {
            Ok(()) => heard.await.unwrap_or_else(|_| task::without(id, ask)),
            Err(_) => task::without(id, ask),
        }
    }

    /// A container that runs, and the monitor that watches it; a daemon that has just started looks for monitors while
    /// it serves.
    pub(super) async fn running(&self, id: &str) -> Result<Running, Error> {
        let look = |world: &Snapshot| match running_in(world, id) {
            Ok((container, sandbox)) => {
                sandbox.monitor.clone().map(|monitor| Ok((container, sandbox, monitor)))
            }
            Err(error) => Some(Err(error)),
        };
        let reached = tokio::time::timeout(monitor::TAKEOVER_TIMEOUT, self.node.world.once(look));
        reached.await.unwrap_or_else(|_| Err(monitor::Error::Gone.into()))
    }

    pub(super) fn container_info(
        &self,
        container: &container::Container,
    ) -> std::collections::HashMap<String, String> {
        let record = self.node.store.sandbox(&container.facts.sandbox_id).container(&container.facts.id);
        words::container_info(container, record.read_json("bundle/config.json").ok())
    }

    pub(super) async fn containers_stats(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Result<Vec<v1::ContainerStats>, Error> {
        let containers = words::running(&self.node.world.now(), filter);
        let stats = self.in_thread(move |node| usage::of_containers(node, &containers)).await?;
        self.renew_layers();
        Ok(stats)
    }

    pub(super) async fn sandboxes_stats(
        &self,
        filter: Option<v1::PodSandboxStatsFilter>,
    ) -> Result<Vec<v1::PodSandboxStats>, Error> {
        let sandboxes = words::ready(&self.node.world.now(), filter);
        let stats = self.in_thread(move |node| usage::of_sandboxes(node, &sandboxes, Disk::Last)).await?;
        self.renew_layers();
        Ok(stats)
    }

    /// Behind the answer, for the next one.
    fn renew_layers(&self) {
        let node = self.node.clone();
        tokio::task::spawn_blocking(move || usage::renew_layers(&node));
    }

    pub(super) async fn pods_metrics(&self) -> Result<Vec<v1::PodSandboxMetrics>, Error> {
        let world = self.node.world.now();
        let metrics = self.in_thread(move |node| Ok(monitoring::sandboxes(node, &world))).await?;
        self.renew_layers();
        Ok(metrics)
    }

    pub(super) async fn change_limits(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> Result<(), Error> {
        self.node.wait_recovered().await?;
        if request.windows.is_some() {
            return Err(Error::Request("windows: this is a Linux node".into()));
        }
        // The interface keeps them for wishes that have no field yet. None is known, so none is taken and ignored.
        if let Some(name) = request.annotations.keys().min() {
            let why = "changes nothing of a running container; limits are changed by the fields of linux";
            return Err(Error::Request(format!("annotations: {name} {why}")));
        }
        nri::change_limits(&self.node, &request.container_id, request.linux.unwrap_or_default()).await
    }

    pub(super) async fn in_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let node = self.node.clone();
        tokio::task::spawn_blocking(move || work(&node)).await.map_err(|_| Error::Stopping)?
    }
}

fn running_in(
    world: &Snapshot,
    id: &str,
) -> Result<(Arc<container::Container>, Arc<sandbox::Sandbox>), Error> {
    let container = world.container(id)?;
    if !container.life.is_running() {
        let id = container.facts.id.to_string();
        return Err(Error::State { noun: Noun::Container, id, why: "is not running" });
    }
    let sandbox = world.sandbox(&container.facts.sandbox_id)?;
    Ok((container, sandbox))
}

pub(super) fn check_command(command: &[String]) -> Result<(), Error> {
    match command.first() {
        Some(program) if !program.is_empty() => Ok(()),
        _ => Err(Error::Request("cmd: must name a program".into())),
    }
}

/// As the CRI has them: at least one, and a terminal has no stderr of its own.
pub(super) fn check_streams(asked: Streams) -> Result<(), Error> {
    if asked.terminal && asked.stderr {
        return Err(Error::Request("tty and stderr: a terminal has only one output".into()));
    }
    if !asked.stdin && !asked.stdout && !asked.stderr {
        return Err(Error::Request("stdin, stdout, stderr: one must be asked for".into()));
    }
    Ok(())
}

/// None at all leaves the choice to the client.
pub(super) fn ports(asked: &[i32]) -> Result<Vec<u16>, Error> {
    let port = |number: &i32| u16::try_from(*number).ok().filter(|port| *port != 0).ok_or(*number);
    let ports: Result<Vec<u16>, i32> = asked.iter().map(port).collect();
    ports.map_err(|number| Error::Request(format!("port: {number} is not a port")))
}

pub(super) fn not_ready(sandbox: &sandbox::Sandbox) -> Error {
    Error::State { noun: Noun::Sandbox, id: sandbox.facts.id.to_string(), why: "is not ready" }
}

fn not_found(noun: Noun, id: &str) -> Error {
    Error::NotFound { noun, id: id.into() }
}
