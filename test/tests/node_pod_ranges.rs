//! The node's pod ranges, told by the kubelet, become the network of its pods.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use berth_test::node::{Client, Node, Options};
use proto::v1;
use tonic::Code;

const TEMPLATE: &str = r#"{"cniVersion": "1.0.0", "name": "ranges", "plugins": [
    {"type": "bridge", "bridge": "tranges0", "isGateway": true, "ipam": {"type": "host-local", "dataDir": "DIR/ipam",
     "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
     "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]}}]}"#;

async fn wait_for_network(client: &mut Client, ready: bool) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let status = client.runtime.status(v1::StatusRequest { verbose: false }).await?.into_inner().status;
        let conditions = status.unwrap_or_default().conditions;
        if conditions.iter().all(|condition| condition.status) == ready {
            return Ok(());
        }
        ensure!(Instant::now() < until, "the network is not as it should be: {conditions:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn pods_get_addresses_of_the_ranges_that_the_kubelet_tells() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let template = dir.path().join("template");
    std::fs::write(&template, TEMPLATE.replace("DIR", &dir.path().display().to_string()))?;
    let network = format!(
        "bin_dirs = [\"/opt/cni/bin\", \"/usr/lib/cni\"]\nconf_template = \"{}\"\n",
        template.display()
    );
    let node = Node::start(Options { network: Some(network), ..Options::default() }).await?;
    std::fs::remove_file(node.dir().join("cni/10-test.conflist"))?;
    let mut client = node.client().await?;
    let told = |pod_cidr: &str| v1::UpdateRuntimeConfigRequest {
        runtime_config: Some(v1::RuntimeConfig {
            network_config: Some(v1::NetworkConfig { pod_cidr: pod_cidr.to_owned() }),
        }),
    };
    let refused = client.runtime.update_runtime_config(told("10.9.0.0/99")).await.expect_err("no range");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    wait_for_network(&mut client, false).await?;
    client.runtime.update_runtime_config(told("10.199.7.0/24,fd00:199:7::/64")).await?;
    wait_for_network(&mut client, true).await?;
    let pod = client.run_pod(&node.pod_config("ranged", dir.path())).await?;
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: false };
    let status = client.runtime.pod_sandbox_status(request).await?.into_inner().status.unwrap_or_default();
    let network = status.network.unwrap_or_default();
    assert!(network.ip.starts_with("10.199.7."), "{network:?}");
    assert!(network.additional_ips[0].ip.starts_with("fd00:199:7:"), "{network:?}");
    client.remove_pod(&pod).await?;
    Ok(())
}
