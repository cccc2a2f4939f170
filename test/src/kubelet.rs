//! The kubelet as a client: its calls in its order, with its deadlines, filters and fields, as a proxy in front of
//! kubelet 1.36 saw them. A test says what happens to a pod; this says which calls that is.
//!
//! Every answer that a kubelet builds on is checked here, so a sequence that comes back has been answered well.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::v1;
use tonic::{Code, Request, Status};

use crate::fixture::Fixture;
use crate::node::Client;

mod cgroups;
mod pods;
mod streams;

pub use pods::{Pod, Qos};
pub use streams::{Events, Streamed};

/// `runtimeRequestTimeout`.
const REQUEST: Duration = Duration::from_secs(120);
/// RunPodSandbox gets twice that.
const RUN_POD: Duration = Duration::from_secs(240);
/// What a kubelet waits for a container to change; it would relist a few times.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);

/// A kubelet on one node.
#[derive(Debug, Clone)]
pub struct Kubelet {
    pub client: Client,
    /// What image names its pods give.
    image: String,
    cgroup: String,
    logs: std::path::PathBuf,
}

/// A pod that runs: its sandbox and its containers, in the order of their starts.
#[derive(Debug, Clone)]
pub struct Running {
    pub sandbox: String,
    pub containers: Vec<String>,
    pub ip: String,
}

/// What one relist shows, by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relisted {
    pub sandboxes: BTreeSet<(String, i32)>,
    pub containers: BTreeSet<(String, i32)>,
}

/// A call with the deadline that the kubelet gives it.
fn within<T>(patience: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(patience);
    request
}

fn timely<T>(message: T) -> Request<T> {
    within(REQUEST, message)
}

impl Kubelet {
    /// On the node of a fixture, whose image its pods run.
    pub async fn on(fixture: &Fixture) -> Result<Kubelet> {
        Ok(Kubelet {
            client: fixture.node.client().await?,
            image: fixture.image.clone(),
            cgroup: fixture.node.cgroup(),
            logs: fixture.node.dir().join("pods"),
        })
    }

    /// What it calls in its first three seconds. It exits at once when the first fails.
    pub async fn start_up(&mut self) -> Result<()> {
        self.version("").await?;
        self.image_file_systems().await?;
        // Its retries do not end with the first success.
        for _ in 0..3 {
            let answer = self.client.runtime.runtime_config(timely(v1::RuntimeConfigRequest {})).await?;
            let driver = answer.into_inner().linux.context("no cgroup driver")?.cgroup_driver();
            ensure!(driver == v1::CgroupDriver::Cgroupfs, "the cgroup driver is {driver:?}");
        }
        self.version("0.1.0").await?;
        self.node_status().await?;
        let mut second = self.client.clone();
        let images = v1::ListImagesRequest { filter: Some(v1::ImageFilter::default()) };
        let (relisted, images) = tokio::join!(self.relist(), second.images.list_images(timely(images)));
        relisted?;
        let images = images?.into_inner().items;
        ensure!(images.iter().any(|image| image.repo_tags.contains(&self.image)), "images: {images:?}");
        self.image_file_systems().await?;
        self.version("0.1.0").await?;
        self.stats().await.map(drop)
    }

    pub async fn version(&mut self, known: &str) -> Result<()> {
        let request = timely(v1::VersionRequest { version: known.into() });
        let version = self.client.runtime.version(request).await?.into_inner();
        ensure!(version.runtime_api_version == "v1" && version.version == "0.1.0", "{version:?}");
        let numbers = version.runtime_version.split('.').filter(|part| part.parse::<u32>().is_ok());
        ensure!(numbers.count() == 3, "{} is no semantic version", version.runtime_version);
        Ok(())
    }

    /// Every five seconds; a node whose conditions do not hold gets no pods.
    pub async fn node_status(&mut self) -> Result<()> {
        let request = timely(v1::StatusRequest { verbose: false });
        let answer = self.client.runtime.status(request).await?.into_inner();
        let conditions = answer.status.unwrap_or_default().conditions;
        let holds = |kind: &str| conditions.iter().any(|it| it.r#type == kind && it.status);
        ensure!(holds("RuntimeReady") && holds("NetworkReady"), "{conditions:?}");
        let unnamed = answer.runtime_handlers.iter().filter(|handler| handler.name.is_empty()).count();
        ensure!(unnamed == 1 && answer.info.is_empty(), "{unnamed} default handlers, info {:?}", answer.info);
        Ok(())
    }

    async fn image_file_systems(&mut self) -> Result<()> {
        let answer = self.client.images.image_fs_info(timely(v1::ImageFsInfoRequest {})).await?.into_inner();
        for file_system in answer.image_filesystems.iter().chain(&answer.container_filesystems) {
            let named = file_system.fs_id.as_ref().is_some_and(|id| !id.mountpoint.is_empty());
            ensure!(named && file_system.used_bytes.is_some(), "{file_system:?}");
        }
        ensure!(answer.image_filesystems.len() == 1 && answer.container_filesystems.len() == 1, "{answer:?}");
        Ok(())
    }

    /// The eviction manager's, every ten seconds.
    pub async fn stats(&mut self) -> Result<Vec<v1::ContainerStats>> {
        let filter = Some(v1::ContainerStatsFilter::default());
        let request = timely(v1::ListContainerStatsRequest { filter });
        Ok(self.client.runtime.list_container_stats(request).await?.into_inner().stats)
    }

    /// Once a second: everything, without a filter.
    pub async fn relist(&mut self) -> Result<Relisted> {
        let sandboxes = self.sandboxes(v1::PodSandboxFilter::default()).await?;
        let containers = self.containers(v1::ContainerFilter::default()).await?;
        Ok(Relisted {
            sandboxes: sandboxes.into_iter().map(|sandbox| (sandbox.id, sandbox.state)).collect(),
            containers: containers.into_iter().map(|container| (container.id, container.state)).collect(),
        })
    }

    pub async fn sandboxes(&mut self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>, Status> {
        let request = timely(v1::ListPodSandboxRequest { filter: Some(filter) });
        Ok(self.client.runtime.list_pod_sandbox(request).await?.into_inner().items)
    }

    pub async fn containers(&mut self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>, Status> {
        let request = timely(v1::ListContainersRequest { filter: Some(filter) });
        Ok(self.client.runtime.list_containers(request).await?.into_inner().items)
    }

    /// Makes a pod and starts its containers, one after the other.
    pub async fn start_pod(&mut self, pod: &Pod) -> Result<Running> {
        let mut running = self.start_sandbox(pod).await?;
        for name in pod.container_names() {
            let container = self.start_container(pod, &running.sandbox, &name, 0).await?;
            running.containers.push(container);
        }
        Ok(running)
    }

    /// Makes a pod, and none of its containers yet.
    pub async fn start_sandbox(&mut self, pod: &Pod) -> Result<Running> {
        let config = pod.sandbox_config();
        std::fs::create_dir_all(&config.log_directory)?;
        pod.make_cgroup()?;
        let request = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let answer = self.client.runtime.run_pod_sandbox(within(RUN_POD, request)).await?;
        let sandbox = answer.into_inner().pod_sandbox_id;
        let status = self.sandbox(&sandbox).await?;
        ensure!(status.state() == v1::PodSandboxState::SandboxReady, "{status:?}");
        let ip = status.network.unwrap_or_default().ip;
        ensure!(ip.parse::<std::net::IpAddr>().is_ok(), "the pod's address is {ip:?}");
        Ok(Running { sandbox, containers: Vec::new(), ip })
    }

    /// What comes before a container whose image is not here, or whose policy is Always: a look, the pull, which has no
    /// deadline, and a look that finds what was pulled. The image's id.
    pub async fn pull(&mut self, pod: &Pod, image: &str) -> Result<String> {
        let spec = v1::ImageSpec {
            image: image.to_owned(),
            user_specified_image: image.to_owned(),
            annotations: pod.sandbox_config().annotations,
            ..Default::default()
        };
        self.look_for(&spec).await?;
        let request = v1::PullImageRequest {
            image: Some(spec.clone()),
            // Without a secret for the registry there is none, not an empty one.
            auth: None,
            sandbox_config: Some(pod.sandbox_config()),
        };
        let pulled = self.client.images.pull_image(request).await?.into_inner().image_ref;
        let found = self.look_for(&spec).await?.context("what was pulled is not there")?;
        ensure!(found.id == pulled, "it was pulled as {pulled} and is there as {}", found.id);
        Ok(found.id)
    }

    pub async fn look_for(&mut self, image: &v1::ImageSpec) -> Result<Option<v1::Image>> {
        let request = timely(v1::ImageStatusRequest { image: Some(image.clone()), verbose: false });
        Ok(self.client.images.image_status(request).await?.into_inner().image)
    }

    /// Of the same sandbox, also when it is an attempt after a crash.
    pub async fn start_container(
        &mut self,
        pod: &Pod,
        sandbox: &str,
        name: &str,
        attempt: u32,
    ) -> Result<String> {
        let image = self.image().await?;
        ensure!(self.image().await? == image, "the image has another id when asked again");
        let config = Some(pod.container_config(name, attempt, &image));
        let pod_sandbox_id = sandbox.to_owned();
        let sandbox_config = Some(pod.sandbox_config());
        let request = timely(v1::CreateContainerRequest { pod_sandbox_id, config, sandbox_config });
        let id = self.client.runtime.create_container(request).await?.into_inner().container_id;
        let request = timely(v1::StartContainerRequest { container_id: id.clone() });
        self.client.runtime.start_container(request).await?;
        Ok(id)
    }

    /// The id by which containers are made, of the name that the user wrote.
    async fn image(&mut self) -> Result<String> {
        let image = v1::ImageSpec { image: self.image.clone(), ..Default::default() };
        let request = timely(v1::ImageStatusRequest { image: Some(image), verbose: false });
        let found = self.client.images.image_status(request).await?.into_inner().image;
        Ok(found.context("the image is not there")?.id)
    }

    pub async fn sandbox(&mut self, id: &str) -> Result<v1::PodSandboxStatus, Status> {
        Ok(self.whole_status(id).await?.status.unwrap_or_default())
    }

    /// With those of its containers, as an evented kubelet takes them.
    pub async fn whole_status(&mut self, id: &str) -> Result<v1::PodSandboxStatusResponse, Status> {
        let request = timely(v1::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false });
        Ok(self.client.runtime.pod_sandbox_status(request).await?.into_inner())
    }

    pub async fn container(&mut self, id: &str) -> Result<v1::ContainerStatus, Status> {
        let request = timely(v1::ContainerStatusRequest { container_id: id.into(), verbose: false });
        Ok(self.client.runtime.container_status(request).await?.into_inner().status.unwrap_or_default())
    }

    /// What follows a change: the sandbox twice, and each container of the pod, those that ended too.
    pub async fn sync(&mut self, pod: &Pod, running: &Running) -> Result<Vec<v1::ContainerStatus>> {
        let first = self.sandbox(&running.sandbox).await?;
        ensure!(self.sandbox(&running.sandbox).await? == first, "the sandbox changed between two looks");
        let label_selector = [("io.kubernetes.pod.uid".to_owned(), pod.uid())].into();
        let listed = self.containers(v1::ContainerFilter { label_selector, ..Default::default() }).await?;
        let mut statuses = Vec::new();
        for container in listed {
            ensure!(container.pod_sandbox_id == running.sandbox, "{container:?} is of another pod");
            statuses.push(self.container(&container.id).await?);
        }
        Ok(statuses)
    }

    /// Relists until a container is in a state.
    pub async fn wait_for(&mut self, id: &str, state: v1::ContainerState) -> Result<v1::ContainerStatus> {
        let begun = Instant::now();
        while !self.relist().await?.containers.contains(&(id.to_owned(), state.into())) {
            ensure!(
                begun.elapsed() < CHANGE_LIMIT,
                "{id} is not {state:?} but {:?}",
                self.container(id).await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(self.container(id).await?)
    }

    /// An exec probe: its own time, and two minutes for the call.
    pub async fn probe(&mut self, id: &str, command: &[&str], timeout_s: i64) -> Result<i32, Status> {
        let patience = Duration::from_secs(timeout_s.unsigned_abs()) + REQUEST;
        let request = within(patience, exec_sync(id, command, timeout_s));
        Ok(self.client.runtime.exec_sync(request).await?.into_inner().exit_code)
    }

    /// A lifecycle hook: neither the command nor the call has a deadline.
    pub async fn hook(&mut self, id: &str, command: &[&str]) -> Result<i32, Status> {
        Ok(self.client.runtime.exec_sync(exec_sync(id, command, 0)).await?.into_inner().exit_code)
    }

    pub async fn stop(&mut self, id: &str, grace_s: i64) -> Result<(), Status> {
        let patience = REQUEST + Duration::from_secs(grace_s.unsigned_abs());
        let request = v1::StopContainerRequest { container_id: id.into(), timeout: grace_s };
        self.client.runtime.stop_container(within(patience, request)).await.map(drop)
    }

    /// Each in a call of its own, at once, over the grace.
    pub async fn stop_all(&mut self, ids: &[String], grace_s: i64) -> Result<()> {
        let mut stops = tokio::task::JoinSet::new();
        for id in ids {
            let (mut other, id) = (self.clone(), id.clone());
            stops.spawn(async move { other.stop(&id, grace_s).await });
        }
        while let Some(stopped) = stops.join_next().await {
            stopped??;
        }
        Ok(())
    }

    pub async fn stop_sandbox(&mut self, id: &str) -> Result<(), Status> {
        let request = timely(v1::StopPodSandboxRequest { pod_sandbox_id: id.into() });
        self.client.runtime.stop_pod_sandbox(request).await.map(drop)
    }

    /// Removes a dead container: two looks, the removal, and a look that finds nothing.
    pub async fn remove_container(&mut self, id: &str) -> Result<()> {
        for _ in 0..2 {
            let status = self.container(id).await?;
            ensure!(status.state() == v1::ContainerState::ContainerExited, "{status:?}");
        }
        let request = timely(v1::RemoveContainerRequest { container_id: id.into() });
        self.client.runtime.remove_container(request).await?;
        let gone = self.container(id).await.err().map(|status| status.code());
        ensure!(gone == Some(Code::NotFound), "a removed container answers {gone:?}");
        Ok(())
    }

    /// A pod is deleted: its main containers at once, its sidecars after them, the sandbox, and what is left of them.
    pub async fn delete_pod(&mut self, running: &Running, sidecars: usize, grace_s: i64) -> Result<()> {
        let (sidecars, mains) = running.containers.split_at(sidecars);
        self.stop_all(mains, grace_s).await?;
        for sidecar in sidecars {
            self.stop(sidecar, 2).await?;
        }
        self.stop_sandbox(&running.sandbox).await?;
        let status = self.sandbox(&running.sandbox).await?;
        ensure!(status.state() == v1::PodSandboxState::SandboxNotready, "{status:?}");
        for container in &running.containers {
            self.remove_container(container).await?;
        }
        Ok(())
    }

    /// Up to a minute later: a stop of what is stopped, and the removal; the pod's cgroup goes with it.
    pub async fn collect_garbage(&mut self, pod: &Pod, sandbox: &str) -> Result<()> {
        self.stop_sandbox(sandbox).await?;
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.into() };
        self.client.runtime.remove_pod_sandbox(timely(request)).await?;
        pod.remove_cgroup()
    }
}

fn exec_sync(id: &str, command: &[&str], timeout: i64) -> v1::ExecSyncRequest {
    let cmd = command.iter().map(|word| (*word).to_owned()).collect();
    v1::ExecSyncRequest { container_id: id.into(), cmd, timeout }
}
