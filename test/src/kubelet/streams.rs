//! The calls behind the kubelet's feature gates: events instead of relisting, and lists that come in pieces.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::v1;
use tonic::Streaming;

use super::{Kubelet, timely};
use crate::node::Client;

/// An event comes at once; this is how long a loaded machine may take.
const EVENT_LIMIT: Duration = Duration::from_secs(20);

/// One long call without a deadline.
#[derive(Debug)]
pub struct Events {
    stream: Streaming<v1::ContainerEventResponse>,
}

/// The ids that the streamed lists have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Streamed {
    pub sandboxes: BTreeSet<String>,
    pub containers: BTreeSet<String>,
    pub images: BTreeSet<String>,
    pub stats: BTreeSet<String>,
    pub sandbox_stats: BTreeSet<String>,
    pub sandbox_metrics: BTreeSet<String>,
}

impl Events {
    /// The next event, which must be of this kind and of this sandbox or container.
    pub async fn expect(
        &mut self,
        kind: v1::ContainerEventType,
        id: &str,
    ) -> Result<v1::ContainerEventResponse> {
        let next = tokio::time::timeout(EVENT_LIMIT, self.stream.message()).await;
        let event = next.with_context(|| format!("no event, {kind:?} of {id} is due"))??;
        let event = event.context("the stream of events ended")?;
        let found = (event.container_event_type(), event.container_id.as_str());
        ensure!(found == (kind, id), "{found:?} came, {kind:?} of {id} is due");
        Ok(event)
    }
}

/// All items of a stream of pieces.
macro_rules! all {
    ($service:ident.$call:ident($request:ident), $items:ident) => {{
        let request = timely(v1::$request::default());
        let mut stream = $service.$call(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(piece) = stream.message().await? {
            ensure!(!piece.$items.is_empty(), "a piece without an item");
            all.extend(piece.$items);
        }
        all
    }};
}

impl Kubelet {
    pub async fn events(&mut self) -> Result<Events> {
        let stream = self.client.runtime.get_container_events(v1::GetEventsRequest {}).await?.into_inner();
        Ok(Events { stream })
    }

    /// Every list by its stream.
    pub async fn streamed(&mut self) -> Result<Streamed> {
        let Kubelet { client: Client { runtime, images }, .. } = self;
        let sandboxes = all!(runtime.stream_pod_sandboxes(StreamPodSandboxesRequest), pod_sandboxes);
        let containers = all!(runtime.stream_containers(StreamContainersRequest), containers);
        let images = all!(images.stream_images(StreamImagesRequest), images);
        let stats = all!(runtime.stream_container_stats(StreamContainerStatsRequest), container_stats);
        let sandbox_stats =
            all!(runtime.stream_pod_sandbox_stats(StreamPodSandboxStatsRequest), pod_sandbox_stats);
        let metrics =
            all!(runtime.stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest), pod_sandbox_metrics);
        let of = |attributes: Option<v1::ContainerAttributes>| attributes.unwrap_or_default().id;
        let of_pod = |attributes: Option<v1::PodSandboxAttributes>| attributes.unwrap_or_default().id;
        Ok(Streamed {
            sandboxes: sandboxes.into_iter().map(|sandbox| sandbox.id).collect(),
            containers: containers.into_iter().map(|container| container.id).collect(),
            images: images.into_iter().map(|image| image.id).collect(),
            stats: stats.into_iter().map(|stats| of(stats.attributes)).collect(),
            sandbox_stats: sandbox_stats.into_iter().map(|stats| of_pod(stats.attributes)).collect(),
            sandbox_metrics: metrics.into_iter().map(|metrics| metrics.pod_sandbox_id).collect(),
        })
    }
}
