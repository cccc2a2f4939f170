//! Lists that are longer than one message of their streams.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use berth_test::fixture::Fixture;
use berth_test::node::container_config;
use futures_util::{StreamExt, TryStreamExt, stream};
use proto::v1;

/// More than one message of metrics holds (50), and with their containers more than one of containers does (1000).
const PODS: usize = 51;
const CONTAINERS: usize = 20;
/// Makings at once.
const AT_ONCE: usize = 8;

/// A pod of the host's network, since what is counted is pods and not networks, and its containers, which wait.
async fn make(fixture: &Fixture, number: usize) -> Result<()> {
    let mut client = fixture.client.clone();
    let name = format!("pod-{number}");
    let mut pod_config = fixture.pod_config(&name);
    let security = pod_config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().network = v1::NamespaceMode::Node.into();
    let pod = client.run_pod(&pod_config).await?;
    for container in 0..CONTAINERS {
        let config = container_config(&format!("c-{container}"), &fixture.image, &["sleep", "1000"]);
        client.create(&pod, &config, &pod_config).await?;
    }
    Ok(())
}

/// How long each message was, and what was in all of them.
async fn messages<M, T>(
    stream: tonic::Streaming<M>,
    items: impl Fn(M) -> Vec<T>,
) -> Result<(Vec<usize>, Vec<T>)> {
    let messages: Vec<Vec<T>> = stream.map_ok(items).try_collect().await?;
    Ok((messages.iter().map(Vec::len).collect(), messages.into_iter().flatten().collect()))
}

fn distinct(ids: Vec<String>) -> Result<BTreeSet<String>> {
    let count = ids.len();
    let set: BTreeSet<String> = ids.into_iter().collect();
    ensure!(set.len() == count, "{} of {count} items came twice", count - set.len());
    Ok(set)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_list_of_many_comes_in_several_messages_and_each_item_once() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let making = stream::iter(0..PODS).map(|number| make(&fixture, number)).buffer_unordered(AT_ONCE);
    making.try_collect::<()>().await?;
    let runtime = &mut fixture.client.runtime;

    let request = v1::StreamContainersRequest { filter: Some(v1::ContainerFilter::default()) };
    let streamed = runtime.stream_containers(request).await?.into_inner();
    let (lengths, containers) = messages(streamed, |message| message.containers).await?;
    assert_eq!(lengths, [1000, PODS * CONTAINERS - 1000]);
    let listed = runtime.list_containers(v1::ListContainersRequest::default()).await?.into_inner().items;
    assert_eq!(
        distinct(containers.into_iter().map(|it| it.id).collect())?,
        distinct(listed.into_iter().map(|it| it.id).collect())?
    );

    let request = v1::StreamPodSandboxMetricsRequest {};
    let streamed = runtime.stream_pod_sandbox_metrics(request).await?.into_inner();
    let (lengths, metrics) = messages(streamed, |message| message.pod_sandbox_metrics).await?;
    assert_eq!(lengths, [50, PODS - 50]);
    let request = v1::StreamPodSandboxesRequest { filter: None };
    let streamed = runtime.stream_pod_sandboxes(request).await?.into_inner();
    let (lengths, pods) = messages(streamed, |message| message.pod_sandboxes).await?;
    assert_eq!(lengths, [PODS], "one message is enough for these");
    assert_eq!(
        distinct(metrics.into_iter().map(|it| it.pod_sandbox_id).collect())?,
        distinct(pods.iter().map(|it| it.id.clone()).collect())?
    );

    // A filter counts before the messages are made.
    let filter = Some(v1::ContainerFilter { pod_sandbox_id: pods[0].id.clone(), ..Default::default() });
    let streamed = runtime.stream_containers(v1::StreamContainersRequest { filter }).await?.into_inner();
    let (lengths, containers) = messages(streamed, |message| message.containers).await?;
    assert_eq!(lengths, [CONTAINERS]);
    assert!(containers.iter().all(|container| container.pod_sandbox_id == pods[0].id));
    let nobody = Some(v1::ContainerFilter { id: "0".repeat(64), ..Default::default() });
    let request = v1::StreamContainersRequest { filter: nobody };
    let mut none = runtime.stream_containers(request).await?.into_inner();
    assert!(none.next().await.is_none(), "an empty list is an end without a message");
    let pods = runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.into_inner().items;
    pods.first().context("pods")?;
    Ok(())
}
