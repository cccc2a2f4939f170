//! SELinux: what keeps pods apart is asked of the kernel, by reading what one should not.
//!
//! Needs a kernel that enforces it and a policy with container types: `cargo xtask vm --lsm selinux node node_selinux`.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::path::Path;

use anyhow::{Context, Result, ensure};
use berth_test::fixture::Fixture;
use berth_test::node::container_config;
use proto::v1;
use tonic::Code;

/// Elsewhere there is nothing to see: labels are no wish where SELinux is off, which `cri-server`'s own tests check.
fn enforces() -> bool {
    let enforcing = std::fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|word| word.trim() == "1");
    if !enforcing {
        println!("skipped: needs an enforcing SELinux (cargo xtask vm --lsm selinux node node_selinux)");
    }
    enforcing
}

async fn said(fixture: &mut Fixture, container: &str, command: &[&str]) -> Result<(i32, String)> {
    let said = fixture.client.exec(container, command, 60).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_matches(['\0', '\n']).to_owned();
    Ok((said.exit_code, text(&said.stdout) + &text(&said.stderr)))
}

async fn label(fixture: &mut Fixture, container: &str) -> Result<String> {
    let (code, label) = said(fixture, container, &["cat", "/proc/self/attr/current"]).await?;
    ensure!(code == 0, "{label}");
    Ok(label)
}

fn level(label: &str) -> &str {
    label.splitn(4, ':').nth(3).unwrap_or_default()
}

fn with_volume(fixture: &Fixture, host: &Path, relabel: bool) -> v1::ContainerConfig {
    let mut config = container_config("main", &fixture.image, &["sleep", "1000"]);
    config.mounts.push(v1::Mount {
        host_path: host.display().to_string(),
        container_path: "/data".into(),
        selinux_relabel: relabel,
        ..Default::default()
    });
    config
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, a network namespace and SELinux: cargo xtask vm --lsm selinux node node_selinux"]
async fn each_pod_has_categories_of_its_own_and_its_containers_share_them() -> Result<()> {
    if !enforces() {
        return Ok(());
    }
    let mut fixture = Fixture::new().await?;
    let (one, main) = fixture.run("one", &["sleep", "1000"]).await?;
    let beside = container_config("beside", &fixture.image, &["sleep", "1000"]);
    let config = fixture.pod_config("one");
    let beside = fixture.client.create(&one, &beside, &config).await?;
    fixture.client.start(&beside).await?;
    let first = label(&mut fixture, &main).await?;
    assert!(first.starts_with("system_u:system_r:container_t:s0:c"), "{first}");
    assert_eq!(label(&mut fixture, &beside).await?, first);
    let (two, other) = fixture.run("two", &["sleep", "1000"]).await?;
    let second = label(&mut fixture, &other).await?;
    assert_ne!(level(&second), level(&first));

    // What a daemon knew is found again, so that its successor gives nobody the same.
    fixture.restart_daemon().await?;
    let (three, another) = fixture.run("three", &["sleep", "1000"]).await?;
    let third = label(&mut fixture, &another).await?;
    assert!(level(&third) != level(&first) && level(&third) != level(&second), "{third}");
    assert_eq!(label(&mut fixture, &main).await?, first);
    for pod in [one, two, three] {
        fixture.remove(&pod).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, a network namespace and SELinux: cargo xtask vm --lsm selinux node node_selinux"]
async fn a_volume_is_its_pods_alone_once_it_is_relabelled() -> Result<()> {
    if !enforces() {
        return Ok(());
    }
    let mut fixture = Fixture::new().await?;
    let host = tempfile::Builder::new().prefix("berth-volume-").tempdir()?;
    std::fs::create_dir(host.path().join("deep"))?;
    std::fs::write(host.path().join("deep/secret"), "mine")?;
    let read = ["cat", "/data/deep/secret"];

    let config = with_volume(&fixture, host.path(), false);
    let (unlabelled, container) = fixture.run_with("unlabelled", config).await?;
    let (code, text) = said(&mut fixture, &container, &read).await?;
    assert!(code != 0 && text.contains("Permission denied"), "a file of the host: {text}");

    let config = with_volume(&fixture, host.path(), true);
    let (owner, container) = fixture.run_with("owner", config).await?;
    assert_eq!(said(&mut fixture, &container, &read).await?, (0, "mine".to_owned()));
    let (code, text) = said(&mut fixture, &container, &["touch", "/data/deep/new"]).await?;
    assert_eq!(code, 0, "{text}");

    let config = with_volume(&fixture, host.path(), false);
    let (thief, container) = fixture.run_with("thief", config).await?;
    let (code, text) = said(&mut fixture, &container, &read).await?;
    assert!(code != 0 && text.contains("Permission denied"), "another pod's file: {text}");
    for pod in [unlabelled, owner, thief] {
        fixture.remove(&pod).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, a network namespace and SELinux: cargo xtask vm --lsm selinux node node_selinux"]
async fn what_cannot_be_labelled_is_refused_by_name() -> Result<()> {
    if !enforces() {
        return Ok(());
    }
    let mut fixture = Fixture::new().await?;
    let (pod, container) = fixture.run("pod", &["sleep", "1000"]).await?;
    let pod_config = fixture.pod_config("pod");
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "etc".into(), attempt: 0 }),
        ..with_volume(&fixture, Path::new("/etc"), true)
    };
    let refused = fixture.client.create(&pod, &config, &pod_config).await.expect_err("relabelling /etc");
    assert!(refused.message().contains("mounts[0].selinux_relabel: /etc"), "{refused:?}");
    for (kind, level, words) in
        [("", "s0,c1", "selinux_options.level"), ("no_such_t", "", "system_u:system_r:no_such_t:s0:c")]
    {
        let mut config = container_config("labelled", &fixture.image, &["sleep", "1000"]);
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.selinux_options =
            Some(v1::SeLinuxOption { r#type: kind.into(), level: level.into(), ..Default::default() });
        let refused = fixture.client.create(&pod, &config, &pod_config).await.expect_err(words);
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(words), "{refused:?}");
    }
    // What every pod has: a name and a resolver, shared memory, queues, a terminal's devices.
    let words = "cat /etc/hostname /etc/resolv.conf && echo x > /dev/shm/x && echo > /dev/null && echo fine";
    let (code, text) = said(&mut fixture, &container, &["sh", "-c", words]).await?;
    assert!(code == 0 && text.ends_with("fine"), "{text}");
    fixture.remove(&pod).await.context("removing the pod")
}
