//! An older kubelet's client, from a crate that we did not write, is served.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use anyhow::Result;
use berth_test::fixture::Fixture;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{ListPodSandboxRequest, StatusRequest, VersionRequest};
use tonic::transport::{Endpoint, Uri};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_older_client_sees_the_same_pods() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let (pod, _) = fixture.run("old", &["sleep", "1000"]).await?;
    let socket = fixture.node.socket();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await?;
    let mut client = RuntimeServiceClient::new(channel);
    let version = client.version(VersionRequest::default()).await?.into_inner();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("berth", "v1"));
    let status = client.status(StatusRequest::default()).await?.into_inner().status.expect("a status");
    assert!(status.conditions.iter().all(|condition| condition.status), "{status:?}");
    let pods = client.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    assert_eq!(pods.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), [pod.as_str()]);
    fixture.remove(&pod).await
}
