//! Bad input and broken neighbours: each gets its CRI code and a message that
//! names the object, and leaves nothing behind.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use anyhow::Result;
use berth_test::fixture::Fixture;
use berth_test::node::{Options, container_config};
use serde_json::json;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn what_is_missing_is_named() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let before = fixture.node.inventory();
    let pod_config = fixture.pod_config("faults");
    let pod = fixture.client.run_pod(&pod_config).await?;

    let no_image = container_config("a", "registry.invalid/none:1", &["true"]);
    let refused = fixture.client.create(&pod, &no_image, &pod_config).await.expect_err("no such image");
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    assert!(refused.message().contains("registry.invalid/none:1"), "{refused:?}");

    let no_command = container_config("b", &fixture.image, &["/no/such/command"]);
    let refused = match fixture.client.create(&pod, &no_command, &pod_config).await {
        Err(refused) => refused,
        Ok(container) => fixture.client.start(&container).await.expect_err("no such command"),
    };
    assert!(refused.message().contains("/no/such/command"), "{refused:?}");

    let refused = fixture.client.start("0123").await.expect_err("no such container");
    assert_eq!(refused.code(), Code::NotFound);
    fixture.client.stop("0123", 1).await?;
    fixture.client.remove("0123").await?;
    fixture.client.remove_pod("0123").await?;

    fixture.remove(&pod).await?;
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn pulls_that_cannot_be_say_why() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let registry = fixture.registry.address();
    let absent = fixture.client.pull(&format!("{registry}/busybox:absent")).await.expect_err("no such tag");
    assert_eq!(absent.code(), Code::NotFound, "{absent:?}");
    let zeros = "0".repeat(64);
    let digest = fixture.client.pull(&format!("{registry}/busybox@sha256:{zeros}")).await;
    assert_eq!(digest.expect_err("no such digest").code(), Code::NotFound);
    let malformed = fixture.client.pull("UPPER CASE:!!").await.expect_err("not a reference");
    assert_eq!(malformed.code(), Code::InvalidArgument, "{malformed:?}");
    let away = fixture.client.pull("127.0.0.1:1/none:1").await.expect_err("nobody listens there");
    assert_eq!(away.code(), Code::Unknown, "{away:?}");
    assert!(away.message().starts_with("RegistryUnavailable"), "{away:?}");
    Ok(())
}

fn plugin_list(directory: &std::path::Path, script: &str) -> serde_json::Value {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(directory).expect("making a plugin folder");
    let file = directory.join("broken");
    std::fs::write(&file, script).expect("writing a plugin");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("making a plugin executable");
    json!({"cniVersion": "1.0.0", "name": "broken", "plugins": [{"type": "broken"}]})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_network_plugin_that_fails_or_hangs_fails_the_pod_and_leaves_nothing() -> Result<()> {
    let fails = "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\n\
        echo '{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"no address left\"}'\nexit 1\n";
    let hangs = "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\nexec sleep 1000\n";
    for (script, words) in [(fails, "no address left"), (hangs, "broken")] {
        let plugins = tempfile::tempdir()?;
        let cni = plugin_list(plugins.path(), script);
        let config = format!("bin_dirs = [\"{}\"]\nplugin_timeout_s = 2\n", plugins.path().display());
        let mut fixture =
            Fixture::with(Options { cni: Some(cni), network: Some(config), ..Options::default() }).await?;
        let before = fixture.node.inventory();
        let pod_config = fixture.pod_config("netless");
        let refused = fixture.client.run_pod(&pod_config).await.expect_err("no network");
        assert!(refused.message().contains(words), "{refused:?}");
        assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_full_disk_fails_the_pull_and_frees_what_it_took() -> Result<()> {
    let mut fixture = Fixture::with(Options { disk_bytes: Some(4 << 20), ..Options::default() }).await?;
    let noise: Vec<u8> =
        (0..8u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let layer = berth_test::image::Layer::new().file("noise", 0o644, &noise).finish();
    let big = berth_test::image::Recipe::new(vec![layer], json!({})).build();
    fixture.registry.push("big", &["1"], &big).await?;
    let before = free_bytes(&fixture)?;
    let reference = format!("{}/big:1", fixture.registry.address());
    let refused = fixture.client.pull(&reference).await.expect_err("a full disk");
    assert!(refused.message().contains("space"), "{refused:?}");
    let after = free_bytes(&fixture)?;
    assert!(after + (256 << 10) >= before, "free before {before}, after {after}");
    Ok(())
}

fn free_bytes(fixture: &Fixture) -> Result<u64> {
    let statistics = rustix::fs::statvfs(fixture.node.dir().join("root"))?;
    Ok(statistics.f_bfree * statistics.f_frsize)
}
