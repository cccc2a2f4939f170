//! What is not done says so, and the README's table says the same.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::collections::BTreeSet;

use anyhow::Result;
use berth_test::node::{Node, Options};
use berth_test::programs::workspace;
use proto::v1;
use tonic::Code;

/// The calls in the README's rows that end with UNIMPLEMENTED.
fn named_in_readme() -> BTreeSet<String> {
    let readme = std::fs::read_to_string(workspace().join("README.md")).expect("the README");
    let rows = readme.lines().filter(|line| line.starts_with('|') && line.contains("UNIMPLEMENTED"));
    let calls = rows.filter_map(|row| row.split('|').nth(1).map(str::to_owned));
    calls.flat_map(|calls| calls.split(',').map(|call| call.trim().to_owned()).collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn what_is_not_done_says_so_and_the_readme_too() -> Result<()> {
    let node = Node::start(Options::default()).await?;
    let mut runtime = node.client().await?.runtime;
    let mut refused = BTreeSet::new();
    macro_rules! ask {
        ($($name:literal $call:ident $request:ident;)*) => {
            $(
                let answer = runtime.$call(v1::$request::default()).await.map(drop);
                if answer.is_err_and(|status| status.code() == Code::Unimplemented) {
                    refused.insert($name.to_owned());
                }
            )*
        };
    }
    ask! {
        "UpdateContainerResources" update_container_resources UpdateContainerResourcesRequest;
        "UpdatePodSandboxResources" update_pod_sandbox_resources UpdatePodSandboxResourcesRequest;
        "UpdateRuntimeConfig" update_runtime_config UpdateRuntimeConfigRequest;
        "CheckpointContainer" checkpoint_container CheckpointContainerRequest;
        "CheckpointPod" checkpoint_pod CheckpointPodRequest;
        "RestorePod" restore_pod RestorePodRequest;
        "ListMetricDescriptors" list_metric_descriptors ListMetricDescriptorsRequest;
        "ListPodSandboxMetrics" list_pod_sandbox_metrics ListPodSandboxMetricsRequest;
        "StreamPodSandboxMetrics" stream_pod_sandbox_metrics StreamPodSandboxMetricsRequest;
        "Version" version VersionRequest;
        "Status" status StatusRequest;
        "RuntimeConfig" runtime_config RuntimeConfigRequest;
        "ListPodSandbox" list_pod_sandbox ListPodSandboxRequest;
        "ListContainers" list_containers ListContainersRequest;
        "ListContainerStats" list_container_stats ListContainerStatsRequest;
        "ListPodSandboxStats" list_pod_sandbox_stats ListPodSandboxStatsRequest;
        "StreamPodSandboxes" stream_pod_sandboxes StreamPodSandboxesRequest;
        "StreamContainers" stream_containers StreamContainersRequest;
        "StreamContainerStats" stream_container_stats StreamContainerStatsRequest;
        "StreamPodSandboxStats" stream_pod_sandbox_stats StreamPodSandboxStatsRequest;
        "GetContainerEvents" get_container_events GetEventsRequest;
        "StopPodSandbox" stop_pod_sandbox StopPodSandboxRequest;
        "ContainerStatus" container_status ContainerStatusRequest;
        "ReopenContainerLog" reopen_container_log ReopenContainerLogRequest;
        "ExecSync" exec_sync ExecSyncRequest;
        "Exec" exec ExecRequest;
        "Attach" attach AttachRequest;
        "PortForward" port_forward PortForwardRequest;
    }
    assert_eq!(refused, named_in_readme());
    Ok(())
}
