//! The RuntimeService of the CRI.

use std::sync::Arc;

use conmon_protocol::CgroupDriver;
use proto::v1;
use proto::v1::runtime_service_server::RuntimeService;
use tonic::Request;

use super::lists::Lists;
use super::streamed::{self, Streamed, pieces, small_pieces};
use super::{Reply, answer, deadline, health, words};
use crate::container::life::Ask as ContainerAsk;
use crate::error::Error;
use crate::exec::{self, Streams};
use crate::node::Node;
use crate::sandbox::life::Ask as SandboxAsk;
use crate::stream::{AttachSession, ExecSession, PortForwardSession};
use crate::{checkpoint, monitoring, nri, usage};

mod work;

use work::{check_command, check_streams, not_ready, ports};

/// No grace is longer; more than that is for ever.
const GRACE_MAX_S: i64 = 365 * 24 * 3600;

/// Hears for a node.
#[derive(Debug, Clone)]
pub struct Runtime {
    node: Arc<Node>,
    lists: Arc<Lists>,
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    type StreamPodSandboxesStream = Streamed<v1::StreamPodSandboxesResponse>;
    type StreamContainersStream = Streamed<v1::StreamContainersResponse>;
    type StreamContainerStatsStream = Streamed<v1::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Streamed<v1::StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Streamed<v1::StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Streamed<v1::ContainerEventResponse>;

    async fn version(&self, _request: Request<v1::VersionRequest>) -> Reply<v1::VersionResponse> {
        let version = v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "berth".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        };
        answer(&self.node.metrics, "Version", async { Ok(version) }).await
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Reply<v1::StatusResponse> {
        answer(&self.node.metrics, "Status", async {
            Ok(health::node_status(&self.node, request.into_inner().verbose))
        })
        .await
    }

    async fn runtime_config(&self, _: Request<v1::RuntimeConfigRequest>) -> Reply<v1::RuntimeConfigResponse> {
        let cgroup_driver = match self.node.config().runtime.cgroup_driver {
            CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs.into(),
            CgroupDriver::Systemd => v1::CgroupDriver::Systemd.into(),
        };
        let linux = Some(v1::LinuxRuntimeConfiguration { cgroup_driver });
        answer(&self.node.metrics, "RuntimeConfig", async { Ok(v1::RuntimeConfigResponse { linux }) }).await
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Reply<v1::RunPodSandboxResponse> {
        let deadline = deadline(request.metadata());
        let work = async {
            self.node.wait_recovered().await?;
            let underway = self.node.run_sandbox(request.into_inner())?;
            let id = underway.wait(deadline).await?;
            Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
        };
        answer(&self.node.metrics, "RunPodSandbox", work).await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Reply<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let work = async {
            self.ask_sandbox(&id, SandboxAsk::Stop).await?;
            Ok(v1::StopPodSandboxResponse {})
        };
        answer(&self.node.metrics, "StopPodSandbox", work).await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Reply<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let work = async {
            self.ask_sandbox(&id, SandboxAsk::Remove).await?;
            Ok(v1::RemovePodSandboxResponse {})
        };
        answer(&self.node.metrics, "RemovePodSandbox", work).await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Reply<v1::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let work = async {
            // Before the picture: what happens after it must not look older than it.
            let timestamp = self.node.now_ns();
            let world = self.node.world.now();
            let sandbox = world.sandbox(&request.pod_sandbox_id)?;
            let networks = || self.node.network.attachments_of(&sandbox.facts.id);
            let info = request.verbose.then(|| words::sandbox_info(&world, &sandbox, &networks()));
            Ok(v1::PodSandboxStatusResponse {
                status: Some(words::pod_sandbox_status(&sandbox)),
                info: info.unwrap_or_default(),
                // An evented kubelet asks for nothing else of the pod then.
                containers_statuses: words::statuses_in(&world, &sandbox.facts.id),
                timestamp,
            })
        };
        answer(&self.node.metrics, "PodSandboxStatus", work).await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Reply<proto::ListPodSandboxResponse> {
        let work = async { Ok(self.lists.sandboxes(&self.node.world.now(), request.into_inner().filter)) };
        answer(&self.node.metrics, "ListPodSandbox", work).await
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Reply<Self::StreamPodSandboxesStream> {
        let work = async {
            let found = words::sandboxes(&self.node.world.now(), request.into_inner().filter);
            let items = found.iter().map(|sandbox| words::pod_sandbox(sandbox)).collect();
            Ok(pieces(items, |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes }))
        };
        answer(&self.node.metrics, "StreamPodSandboxes", work).await
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Reply<v1::CreateContainerResponse> {
        let deadline = deadline(request.metadata());
        let work = async {
            self.node.wait_recovered().await?;
            let container_id = self.create(request.into_inner(), deadline).await?;
            Ok(v1::CreateContainerResponse { container_id })
        };
        answer(&self.node.metrics, "CreateContainer", work).await
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Reply<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        let work = async {
            self.ask_container(&id, ContainerAsk::Start).await?;
            Ok(v1::StartContainerResponse {})
        };
        answer(&self.node.metrics, "StartContainer", work).await
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Reply<v1::StopContainerResponse> {
        let request = request.into_inner();
        let work = async {
            let now_ms = self.node.now_ms();
            let grace_s = request.timeout.clamp(0, GRACE_MAX_S);
            let kill_at_ms = now_ms + u64::try_from(grace_s).unwrap_or_default() * 1000;
            self.ask_container(&request.container_id, ContainerAsk::Stop { kill_at_ms, now_ms }).await?;
            Ok(v1::StopContainerResponse {})
        };
        answer(&self.node.metrics, "StopContainer", work).await
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Reply<v1::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        let work = async {
            self.ask_container(&id, ContainerAsk::Remove).await?;
            Ok(v1::RemoveContainerResponse {})
        };
        answer(&self.node.metrics, "RemoveContainer", work).await
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Reply<proto::ListContainersResponse> {
        let work = async { Ok(self.lists.containers(&self.node.world.now(), request.into_inner().filter)) };
        answer(&self.node.metrics, "ListContainers", work).await
    }

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Reply<Self::StreamContainersStream> {
        let work = async {
            let found = words::containers(&self.node.world.now(), request.into_inner().filter);
            let items = found.iter().map(|container| words::container(container)).collect();
            Ok(pieces(items, |containers| v1::StreamContainersResponse { containers }))
        };
        answer(&self.node.metrics, "StreamContainers", work).await
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Reply<v1::ContainerStatusResponse> {
        let request = request.into_inner();
        let work = async {
            let container = self.node.world.now().container(&request.container_id)?;
            let status = Some(words::container_status(&container));
            let info = if request.verbose { self.container_info(&container) } else { Default::default() };
            Ok(v1::ContainerStatusResponse { status, info })
        };
        answer(&self.node.metrics, "ContainerStatus", work).await
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Reply<v1::ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        let work = async {
            let (container, _, monitor) = self.running(&id).await?;
            let container_id = container.facts.id.to_string();
            monitor.insist(conmon_protocol::Ask::Reopen { container_id }).await?;
            Ok(v1::ReopenContainerLogResponse {})
        };
        answer(&self.node.metrics, "ReopenContainerLog", work).await
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Reply<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let work = async {
            let (container, _, monitor) = self.running(&request.container_id).await?;
            check_command(&request.cmd)?;
            let streams = Streams { stdout: true, stderr: true, ..Streams::default() };
            let plan = exec::plan(&container.facts, &request.cmd, streams, request.timeout);
            let exec::Output { stdout, stderr, exit_code } = exec::run(monitor, plan).await?;
            Ok(v1::ExecSyncResponse { stdout, stderr, exit_code })
        };
        answer(&self.node.metrics, "ExecSync", work).await
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Reply<v1::ExecResponse> {
        let request = request.into_inner();
        let work = async {
            let (container, _, monitor) = self.running(&request.container_id).await?;
            check_command(&request.cmd)?;
            let v1::ExecRequest { tty: terminal, stdin, stdout, stderr, .. } = request;
            let streams = Streams { terminal, stdin, stdout, stderr };
            check_streams(streams)?;
            let plan = exec::plan(&container.facts, &request.cmd, streams, 0);
            let url = self.node.streams.exec(ExecSession { monitor, plan })?;
            Ok(v1::ExecResponse { url })
        };
        answer(&self.node.metrics, "Exec", work).await
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Reply<v1::AttachResponse> {
        let request = request.into_inner();
        let work = async {
            let (container, _, monitor) = self.running(&request.container_id).await?;
            let v1::AttachRequest { tty, stdin, stdout, stderr, .. } = request;
            check_streams(Streams { terminal: tty, stdin, stdout, stderr })?;
            let (container_id, terminal) =
                (container.facts.id.to_string(), container.facts.made.plan.terminal);
            let session = AttachSession { monitor, container_id, terminal, stdin, stdout, stderr };
            Ok(v1::AttachResponse { url: self.node.streams.attach(session)? })
        };
        answer(&self.node.metrics, "Attach", work).await
    }

    async fn port_forward(&self, request: Request<v1::PortForwardRequest>) -> Reply<v1::PortForwardResponse> {
        let v1::PortForwardRequest { pod_sandbox_id: id, port } = request.into_inner();
        let work = async {
            let sandbox = self.node.world.now().sandbox(&id)?;
            let ports = ports(&port)?;
            if !sandbox.life.is_ready() {
                return Err(not_ready(&sandbox));
            }
            let netns = sandbox.facts.plan.netns();
            let session = PortForwardSession { sandbox_id: sandbox.facts.id.to_string(), netns, ports };
            Ok(v1::PortForwardResponse { url: self.node.streams.port_forward(session)? })
        };
        answer(&self.node.metrics, "PortForward", work).await
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Reply<v1::ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let work = async {
            let stats = self.in_thread(move |node| usage::one(node, &id)).await?;
            Ok(v1::ContainerStatsResponse { stats: Some(stats) })
        };
        answer(&self.node.metrics, "ContainerStats", work).await
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Reply<v1::ListContainerStatsResponse> {
        let work = async {
            let stats = self.containers_stats(request.into_inner().filter).await?;
            Ok(v1::ListContainerStatsResponse { stats })
        };
        answer(&self.node.metrics, "ListContainerStats", work).await
    }

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Reply<Self::StreamContainerStatsStream> {
        let work = async {
            let stats = self.containers_stats(request.into_inner().filter).await?;
            Ok(pieces(stats, |container_stats| v1::StreamContainerStatsResponse { container_stats }))
        };
        answer(&self.node.metrics, "StreamContainerStats", work).await
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Reply<v1::PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let work = async {
            let sandbox = self.node.world.now().sandbox(&id)?;
            let mut stats =
                self.in_thread(move |node| usage::of_sandboxes(node, &[sandbox], usage::Disk::Now)).await?;
            Ok(v1::PodSandboxStatsResponse { stats: stats.pop() })
        };
        answer(&self.node.metrics, "PodSandboxStats", work).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Reply<v1::ListPodSandboxStatsResponse> {
        let work = async {
            let stats = self.sandboxes_stats(request.into_inner().filter).await?;
            Ok(v1::ListPodSandboxStatsResponse { stats })
        };
        answer(&self.node.metrics, "ListPodSandboxStats", work).await
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Reply<Self::StreamPodSandboxStatsStream> {
        let work = async {
            let stats = self.sandboxes_stats(request.into_inner().filter).await?;
            Ok(pieces(stats, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
        };
        answer(&self.node.metrics, "StreamPodSandboxStats", work).await
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Reply<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let work = async {
            self.change_limits(request).await?;
            Ok(v1::UpdateContainerResourcesResponse {})
        };
        answer(&self.node.metrics, "UpdateContainerResources", work).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Reply<v1::UpdatePodSandboxResourcesResponse> {
        let limits = Box::new(request.into_inner());
        let work = async {
            self.node.wait_recovered().await?;
            nri::change_pod_limits(&self.node, limits).await?;
            Ok(v1::UpdatePodSandboxResourcesResponse {})
        };
        answer(&self.node.metrics, "UpdatePodSandboxResources", work).await
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Reply<v1::UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.unwrap_or_default();
        let pod_cidr = config.network_config.unwrap_or_default().pod_cidr;
        let work = async {
            let told = self.in_thread(move |node| {
                node.network.set_pod_ranges(&pod_cidr).map_err(|error| Error::PodRanges(Arc::new(error)))
            });
            told.await?;
            Ok(v1::UpdateRuntimeConfigResponse {})
        };
        answer(&self.node.metrics, "UpdateRuntimeConfig", work).await
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Reply<v1::CheckpointContainerResponse> {
        let deadline = deadline(request.metadata());
        let work = async {
            self.node.wait_recovered().await?;
            checkpoint::checkpoint_container(&self.node, request.into_inner(), deadline).await?;
            Ok(v1::CheckpointContainerResponse {})
        };
        answer(&self.node.metrics, "CheckpointContainer", work).await
    }

    async fn checkpoint_pod(
        &self,
        request: Request<v1::CheckpointPodRequest>,
    ) -> Reply<v1::CheckpointPodResponse> {
        let deadline = deadline(request.metadata());
        let work = async {
            self.node.wait_recovered().await?;
            checkpoint::checkpoint_pod(&self.node, request.into_inner(), deadline).await?;
            Ok(v1::CheckpointPodResponse {})
        };
        answer(&self.node.metrics, "CheckpointPod", work).await
    }

    async fn restore_pod(&self, request: Request<v1::RestorePodRequest>) -> Reply<v1::RestorePodResponse> {
        let deadline = deadline(request.metadata());
        let work = async {
            self.node.wait_recovered().await?;
            checkpoint::restore_pod(&self.node, request.into_inner(), deadline).await
        };
        answer(&self.node.metrics, "RestorePod", work).await
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Reply<v1::ListMetricDescriptorsResponse> {
        let work = async { Ok(v1::ListMetricDescriptorsResponse { descriptors: monitoring::descriptors() }) };
        answer(&self.node.metrics, "ListMetricDescriptors", work).await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Reply<v1::ListPodSandboxMetricsResponse> {
        let work = async {
            let pod_metrics = self.pods_metrics().await?;
            Ok(v1::ListPodSandboxMetricsResponse { pod_metrics })
        };
        answer(&self.node.metrics, "ListPodSandboxMetrics", work).await
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        let work = async {
            let metrics = self.pods_metrics().await?;
            Ok(small_pieces(metrics, |pod_sandbox_metrics| v1::StreamPodSandboxMetricsResponse {
                pod_sandbox_metrics,
            }))
        };
        answer(&self.node.metrics, "StreamPodSandboxMetrics", work).await
    }

    async fn get_container_events(
        &self,
        _request: Request<v1::GetEventsRequest>,
    ) -> Reply<Self::GetContainerEventsStream> {
        answer(&self.node.metrics, "GetContainerEvents", async { Ok(streamed::events(self.node.clone())) })
            .await
    }
}

impl Runtime {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, lists: Arc::default() }
    }
}
