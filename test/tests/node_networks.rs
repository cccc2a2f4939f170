//! What pods get of their networks: several of them, addresses until there are none, and what plugins are told.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use berth_test::fixture::Fixture;
use berth_test::node::Options;
use proto::v1;
use serde_json::{Value, json};
use tonic::Code;

const DEBIAN: &str = "bin_dirs = [\"/opt/cni/bin\", \"/usr/lib/cni\"]\n";

/// A real bridge whose addresses are kept below `dir`.
fn bridge(name: &str, dir: &Path, ranges: Value) -> Value {
    json!({"cniVersion": "1.0.0", "name": name, "plugins": [
        {"type": "bridge", "bridge": name, "isGateway": true,
         "ipam": {"type": "host-local", "dataDir": dir.join("ipam"), "ranges": ranges}}]})
}

/// Addresses that host-local holds.
fn held(dir: &Path, network: &str) -> usize {
    let entries = std::fs::read_dir(dir.join("ipam").join(network)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).count()
}

async fn status(fixture: &mut Fixture, pod: &str) -> Result<v1::PodSandboxStatusResponse> {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    Ok(fixture.client.runtime.pod_sandbox_status(request).await?.into_inner())
}

async fn address(fixture: &mut Fixture, pod: &str) -> Result<String> {
    Ok(status(fixture, pod).await?.status.unwrap_or_default().network.unwrap_or_default().ip)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pod_joins_several_networks_and_gives_all_of_them_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let network = Some(format!("{DEBIAN}max_networks = 2\n"));
    let cni = Some(bridge("tnets-a", dir.path(), json!([[{"subnet": "10.231.1.0/24"}]])));
    let mut fixture = Fixture::with(Options { cni, network, ..Options::default() }).await?;
    let second = bridge("tnets-b", dir.path(), json!([[{"subnet": "10.231.2.0/24"}]]));
    std::fs::write(fixture.node.dir().join("cni/20-second.conflist"), second.to_string())?;
    let third = bridge("tnets-c", dir.path(), json!([[{"subnet": "10.231.3.0/24"}]]));
    std::fs::write(fixture.node.dir().join("cni/30-third.conflist"), third.to_string())?;
    fixture.restart_daemon().await?;

    let (pod, container) = fixture.run("many", &["sleep", "1000"]).await?;
    let seen = fixture.client.exec(&container, &["ip", "-o", "-4", "addr"], 10).await?;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(
        seen.contains("eth0    inet 10.231.1.2/24") && seen.contains("eth1    inet 10.231.2.2/24"),
        "{seen}"
    );
    assert!(!seen.contains("eth2"), "{seen}");
    fixture.restart_daemon().await?;
    let told = status(&mut fixture, &pod).await?;
    let network = told.status.clone().unwrap_or_default().network.unwrap_or_default();
    assert_eq!((network.ip.as_str(), network.additional_ips.as_slice()), ("10.231.1.2", &[][..]));
    let info: Value = serde_json::from_str(&told.info["info"])?;
    let expected = json!([{"network": "tnets-a", "interface": "eth0", "ips": ["10.231.1.2"]},
        {"network": "tnets-b", "interface": "eth1", "ips": ["10.231.2.2"]}]);
    assert_eq!(info["networks"], expected);

    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.clone() };
    let stats =
        fixture.client.runtime.pod_sandbox_stats(request).await?.into_inner().stats.context("stats")?;
    let usage = stats.linux.context("linux")?.network.context("network")?;
    assert_eq!(usage.default_interface.unwrap_or_default().name, "eth0");
    assert_eq!(usage.interfaces.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["eth1"]);

    assert_eq!((held(dir.path(), "tnets-a"), held(dir.path(), "tnets-b")), (1, 1));
    fixture.remove(&pod).await?;
    assert_eq!((held(dir.path(), "tnets-a"), held(dir.path(), "tnets-b")), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_network_without_a_free_address_says_so_and_the_next_pod_gets_the_one_given_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ranges = json!([[{"subnet": "10.232.1.0/24", "rangeStart": "10.232.1.2", "rangeEnd": "10.232.1.3"}]]);
    let cni = Some(bridge("tnets-few", dir.path(), ranges));
    let mut fixture =
        Fixture::with(Options { cni, network: Some(DEBIAN.into()), ..Options::default() }).await?;
    let (first, _) = fixture.run("first", &["sleep", "1000"]).await?;
    let (second, _) = fixture.run("second", &["sleep", "1000"]).await?;
    let config = fixture.pod_config("third");
    for _ in 0..3 {
        let refused = fixture.client.run_pod(&config).await.expect_err("there are two addresses");
        // As CRI-O and containerd answer.
        assert_eq!(refused.code(), Code::Unknown, "{refused:?}");
        for words in ["network tnets-few has no free address", "10.232.1.2-10.232.1.3"] {
            assert!(refused.message().contains(words), "{refused:?}");
        }
    }
    assert_eq!(held(dir.path(), "tnets-few"), 2, "a refused pod keeps nothing");
    let freed = address(&mut fixture, &first).await?;
    fixture.remove(&first).await?;
    let third = fixture.client.run_pod(&config).await?;
    assert_eq!(address(&mut fixture, &third).await?, freed);
    fixture.remove(&second).await?;
    fixture.remove(&third).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pod_on_a_network_of_ipv6_alone_has_its_address() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cni = Some(bridge("tnets-six", dir.path(), json!([[{"subnet": "fd00:233::/64"}]])));
    let mut fixture =
        Fixture::with(Options { cni, network: Some(DEBIAN.into()), ..Options::default() }).await?;
    let (pod, container) = fixture.run("six", &["sleep", "1000"]).await?;
    assert_eq!(address(&mut fixture, &pod).await?, "fd00:233::2");
    let seen = fixture.client.exec(&container, &["ip", "-o", "-6", "addr"], 10).await?;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.contains("fd00:233::2/64"), "{seen}");
    fixture.remove(&pod).await
}

/// Gives everyone the same address and keeps what it was told for ADD beside itself.
const LISTENER: &str = r#"#!/bin/sh
given=$(cat)
case $CNI_COMMAND in
  VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}';;
  ADD) printf '%s' "$given" > ${0%/*}/told
    echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.9.0.2/24","interface":0}]}';;
esac
"#;

async fn with_listener(dir: &Path, capabilities: &[&str]) -> Result<Fixture> {
    std::fs::write(dir.join("listener"), LISTENER)?;
    std::fs::set_permissions(dir.join("listener"), PermissionsExt::from_mode(0o755))?;
    let taken: serde_json::Map<String, Value> =
        capabilities.iter().map(|name| ((*name).to_owned(), true.into())).collect();
    let plugins = json!([{"type": "listener", "capabilities": taken}]);
    let cni = json!({"cniVersion": "1.0.0", "name": "heard", "plugins": plugins});
    let network = format!("bin_dirs = [\"{}\"]\n", dir.display());
    Fixture::with(Options { cni: Some(cni), network: Some(network), ..Options::default() }).await
}

/// A pod that asks for all that a network can be asked for.
fn demanding(fixture: &Fixture) -> v1::PodSandboxConfig {
    let mut config = fixture.pod_config("demanding");
    config.hostname = "www".into();
    config.port_mappings =
        vec![v1::PortMapping { protocol: 0, container_port: 80, host_port: 8081, host_ip: String::new() }];
    let annotations =
        [("kubernetes.io/ingress-bandwidth", "10M"), ("io.berth.network/mac", "0A:58:0A:00:00:01")];
    config.annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    config
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn plugins_hear_what_the_pod_and_the_kubelet_say() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let all = ["portMappings", "bandwidth", "ipRanges", "mac", "aliases", "cgroupPath", "dns"];
    let mut fixture = with_listener(dir.path(), &all).await?;
    let network_config = Some(v1::NetworkConfig { pod_cidr: "10.1.2.0/24,fd00:1:2::/64".into() });
    let runtime_config = Some(v1::RuntimeConfig { network_config });
    fixture.client.runtime.update_runtime_config(v1::UpdateRuntimeConfigRequest { runtime_config }).await?;
    // The kubelet says it when it changes, not when we start anew.
    fixture.restart_daemon().await?;
    let config = demanding(&fixture);
    let pod = fixture.client.run_pod(&config).await?;
    let told: Value = serde_json::from_slice(&std::fs::read(dir.path().join("told"))?)?;
    let said = &told["runtimeConfig"];
    assert_eq!(
        said["ipRanges"],
        json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]),
        "{said}"
    );
    assert_eq!(said["mac"], "0a:58:0a:00:00:01");
    assert_eq!(said["aliases"], json!(["demanding", "www"]));
    let cgroup = said["cgroupPath"].as_str().unwrap_or_default();
    assert_eq!(cgroup, fixture.node.cgroup());
    assert_eq!(said["portMappings"][0]["hostPort"], 8081);
    assert_eq!(said["bandwidth"]["ingressRate"], 10_000_000);
    assert!(!fixture.node.log().contains("no plugin of its network"), "all was taken");

    let mut wrong = config.clone();
    wrong.metadata.get_or_insert_default().name = "wrong".into();
    wrong.annotations.insert("io.berth.network/mac".into(), "ff:ff:ff:ff:ff:ff".into());
    let refused = fixture.client.run_pod(&wrong).await.expect_err("no interface can have it");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("io.berth.network/mac"), "{refused:?}");
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn what_no_plugin_takes_is_told_in_the_log_and_the_pod_runs() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut fixture = with_listener(dir.path(), &["mac"]).await?;
    let pod = fixture.client.run_pod(&demanding(&fixture)).await?;
    let log = fixture.node.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("no plugin of its network")).collect();
    assert_eq!(told.len(), 2, "{told:#?}");
    for (line, capability) in told.iter().zip(["portMappings", "bandwidth"]) {
        for words in ["WARN", "demanding", "heard", &pod, capability] {
            assert!(line.contains(words), "{line} does not say {words}");
        }
    }
    fixture.remove(&pod).await
}
