//! A network plugin that will not give back, and what plugins are told after a crash.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use berth_test::fixture::Fixture;
use berth_test::node::Options;
use serde_json::json;

/// Gives everyone the same address, notes what it is asked, and refuses DEL while a file `broken` is beside it.
const PLUGIN: &str = r#"#!/bin/sh
dir=${0%/*}
printf '%s %s %s\n' "$CNI_COMMAND" "$CNI_CONTAINERID" "$(cat | tr -d '\n')" >> $dir/asked
case $CNI_COMMAND in
  VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}';;
  ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.9.0.2/24","interface":0}]}';;
  DEL) [ ! -e $dir/broken ] || { echo '{"cniVersion":"1.1.0","code":11,"msg":"the switch is away"}'; exit 1; };;
esac
"#;

async fn fixture(dir: &Path) -> Result<Fixture> {
    std::fs::write(dir.join("odd"), PLUGIN)?;
    std::fs::set_permissions(dir.join("odd"), PermissionsExt::from_mode(0o755))?;
    let cni = json!({"cniVersion": "1.1.0", "name": "odd", "plugins": [{"type": "odd"}]});
    let network = format!("bin_dirs = [\"{}\"]\n", dir.display());
    Fixture::with(Options { cni: Some(cni), network: Some(network), ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pod_ends_although_its_network_is_not_given_back_and_the_debt_is_kept() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut fixture = fixture(dir.path()).await?;
    let (pod, _) = fixture.run("indebted", &["sleep", "1000"]).await?;
    std::fs::write(dir.path().join("broken"), "")?;
    // The kubelet asks again after each failure, and shows why in the pod's events.
    for _ in 0..3 {
        let refused = fixture.client.stop_pod(&pod).await.expect_err("the plugin refuses");
        assert!(refused.message().contains("the switch is away"), "{refused:?}");
    }
    fixture.client.stop_pod(&pod).await?;
    fixture.client.remove_pod(&pod).await?;
    fixture.client.remove_pod(&pod).await?;
    let record = fixture.node.dir().join(format!("root/cni/{pod}.json"));
    assert!(record.exists(), "the debt is kept");
    // The next daemon asks at its start.
    std::fs::remove_file(dir.path().join("broken"))?;
    fixture.restart_daemon().await?;
    let (next, _) = fixture.run("next", &["sleep", "1000"]).await?;
    assert!(!record.exists(), "the debt is paid");
    fixture.remove(&next).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn after_a_crash_plugins_hear_which_attachments_are_valid() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut fixture = fixture(dir.path()).await?;
    let (pod, _) = fixture.run("survivor", &["sleep", "1000"]).await?;
    let collected = || {
        let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap_or_default();
        asked.lines().filter(|line| line.starts_with("GC ")).map(str::to_owned).next_back()
    };
    fixture.restart_daemon().await?;
    // What changes anything waits for the recovery, and so for the collection.
    let (other, _) = fixture.run("other", &["sleep", "1000"]).await?;
    let told = collected().unwrap_or_default();
    assert!(told.contains("cni.dev/valid-attachments") && told.contains(&pod), "{told}");
    assert!(!told.contains(&other), "{told}");
    fixture.remove(&other).await?;
    fixture.remove(&pod).await
}
