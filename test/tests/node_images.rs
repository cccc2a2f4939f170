//! Images that are more than a root file system: artifacts as volumes, and pulls that somebody else pays for.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use berth_test::fixture::Fixture;
use berth_test::image::{self, Layer, Recipe};
use berth_test::node::{Options, container_config};
use berth_test::programs::Programs;
use proto::v1;

const CGROUPS: &str = "/sys/fs/cgroup";
/// How long a command may take with 44 MB.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

fn volume(image: &str, container_path: &str, sub_path: &str) -> v1::Mount {
    v1::Mount {
        container_path: container_path.into(),
        image: Some(v1::ImageSpec { image: image.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        readonly: true,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_artifact_is_a_volume_and_no_root_file_system() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let files: &[(&str, &[u8])] =
        &[("model.bin", b"1 2 3"), ("docs/a/read me", b"words"), ("tool", b"#!/bin/sh\necho ran\n")];
    fixture.registry.push("model", &["1"], &image::artifact(files)).await?;
    let reference = format!("{}/model:1", fixture.registry.address());
    let id = fixture.client.pull(&reference).await?;
    let before = fixture.node.inventory();
    let script = "for file in '/all/model.bin' '/part/read me' '/one'; do echo \"$file=$(cat \"$file\")\"; done; \
        touch /all/x || echo read-only; sh -c /all/tool || echo not run; ls /all; sleep 1000";
    let mut config = container_config("main", &fixture.image, &["sh", "-c", script]);
    config.mounts = vec![
        volume(&id, "/all", ""),
        volume(&reference, "/part", "docs/a"),
        volume(&id, "/one", "model.bin"),
    ];
    let (pod, container) = fixture.run_with("artifact", config).await?;
    let log = fixture.log_of("artifact", 10).await;
    let expected = [
        "all/model.bin=1 2 3",
        "part/read me=words",
        "one=1 2 3",
        "read-only",
        "not run",
        "F docs",
        "F tool",
    ];
    for words in expected {
        assert!(log.contains(words), "{words:?} is not in {log}");
    }
    // The volume outlives its image's name and the daemon.
    fixture.client.remove_image(&id).await?;
    fixture.restart_daemon().await?;
    let read = fixture.client.exec(&container, &["cat", "/all/model.bin"], 10).await?;
    assert_eq!(String::from_utf8_lossy(&read.stdout), "1 2 3", "{read:?}");
    fixture.remove(&pod).await?;

    fixture.client.pull(&reference).await?;
    let runs = container_config("main", &id, &["sh"]);
    let refused = format!("{:?}", fixture.run_with("root", runs).await.expect_err("there is nothing to run"));
    assert!(refused.contains("mount it as an image volume") && refused.contains(&id), "{refused}");
    fixture.node.remove_all_pods().await?;
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

/// Bytes that no packing makes fewer.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn large_images_are_given_out_and_taken_in_by_command() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    // Large enough to come by way of the disk, where one thread writes what another reads.
    let layers = [24 << 20, 20 << 20].map(|bytes| Layer::new().file("noise", 0o644, &noise(bytes)).finish());
    let image = Recipe::new(layers.to_vec(), serde_json::json!({})).build();
    fixture.registry.push("large", &["1"], &image).await?;
    let reference = format!("{}/large:1", fixture.registry.address());
    let socket = fixture.node.socket();
    let dir = tempfile::tempdir()?;
    let archive = format!("oci-archive:{}", dir.path().join("large.tar").display());
    fixture.client.pull(&reference).await?;
    let mut berth = tokio::process::Command::new(Programs::built().berth);
    berth.arg("--socket").arg(&socket).args(["image", "export", &reference, &archive]);
    let output = tokio::time::timeout(COMMAND_LIMIT, berth.kill_on_drop(true).output());
    let output = output.await.context("the export does not end")??;
    assert!(output.status.success(), "{output:?}");
    fixture.client.remove_image(&reference).await?;
    let mut berth = tokio::process::Command::new(Programs::built().berth);
    berth.arg("--socket").arg(&socket).args(["image", "import"]).arg(dir.path().join("large.tar"));
    let output = tokio::time::timeout(COMMAND_LIMIT, berth.kill_on_drop(true).output());
    let output = output.await.context("the import does not end")??;
    assert!(output.status.success(), "{output:?}");
    Ok(())
}

/// A cgroup that the test makes as a kubelet would, in whatever hierarchies count time and memory here.
struct Cgroup(Vec<PathBuf>);

impl Cgroup {
    fn named(path: &str) -> Cgroup {
        let root = Path::new(CGROUPS);
        let hierarchies = match root.join("cgroup.controllers").exists() {
            true => vec![root.to_owned()],
            false => ["cpuacct", "memory"].map(|name| root.join(name)).to_vec(),
        };
        Cgroup(hierarchies.into_iter().map(|top| top.join(path.trim_start_matches('/'))).collect())
    }

    fn make(&self) -> Result<()> {
        Ok(self.0.iter().try_for_each(std::fs::create_dir_all)?)
    }

    fn cpu_us(&self) -> Option<u64> {
        let read = |file: &str| self.0.iter().find_map(|dir| std::fs::read_to_string(dir.join(file)).ok());
        let v1 = read("cpuacct.usage").and_then(|text| text.trim().parse::<u64>().ok());
        let v2 = || read("cpu.stat")?.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
        v1.map(|ns| ns / 1000).or_else(v2)
    }

    fn children(&self) -> usize {
        let is_dir = |entry: &std::fs::DirEntry| entry.path().is_dir();
        let count =
            |dir: &PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().filter(is_dir).count();
        self.0.iter().map(count).sum()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let name = self.0[0].file_name().map(PathBuf::from).unwrap_or_default();
        let tops =
            std::fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|top| top.path().join(&name));
        for dir in self.0.iter().cloned().chain(tops) {
            std::fs::remove_dir(dir).ok();
        }
    }
}

/// Enough for a process to be seen in a count of time.
fn large() -> image::Built {
    let numbers: String = (0..600_000).map(|n| format!("{}\n", n * 2_654_435_761u64)).collect();
    Recipe::new(vec![Layer::new().file("numbers", 0o644, numbers.as_bytes()).finish()], serde_json::json!({}))
        .build()
}

/// As a kubelet pulls for a pod.
async fn pull_for(fixture: &mut Fixture, image: &str, cgroup_parent: &str) -> Result<String, tonic::Status> {
    let linux = v1::LinuxPodSandboxConfig { cgroup_parent: cgroup_parent.into(), ..Default::default() };
    let request = v1::PullImageRequest {
        image: Some(v1::ImageSpec { image: image.into(), ..Default::default() }),
        sandbox_config: Some(v1::PodSandboxConfig { linux: Some(linux), ..Default::default() }),
        ..Default::default()
    };
    Ok(fixture.client.images.pull_image(request).await?.into_inner().image_ref)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pull_is_counted_with_the_pod_that_it_is_for() -> Result<()> {
    let config = "separate_pull_cgroup = \"pod\"\n".to_owned();
    let mut fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    fixture.registry.push("large", &["1"], &large()).await?;
    let reference = format!("{}/large:1", fixture.registry.address());
    let pod = format!("{}-paying", fixture.node.cgroup());
    let cgroup = Cgroup::named(&pod);

    // A pod that is not there pays nothing, and nothing is left of the attempt.
    let refused = pull_for(&mut fixture, &reference, &pod).await.expect_err("there is no such cgroup");
    assert!(refused.message().contains(&pod[1..]), "{refused:?}");
    let status = v1::ImageStatusRequest {
        image: Some(v1::ImageSpec { image: reference.clone(), ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(fixture.client.images.image_status(status).await?.into_inner().image, None);

    cgroup.make()?;
    let id = pull_for(&mut fixture, &reference, &pod).await?;
    let spent = cgroup.cpu_us().unwrap_or_default();
    assert!(spent > 2000, "{spent} µs for 7 MB");
    assert_eq!(cgroup.children(), 0, "the leaf is gone");
    let mut config =
        container_config("main", &fixture.image, &["sh", "-c", "tail -n 1 /v/numbers; sleep 1000"]);
    config.mounts = vec![volume(&id, "/v", "")];
    let (other, _) = fixture.run_with("reads", config).await?;
    let last = (600_000u64 - 1) * 2_654_435_761;
    assert!(fixture.log_of("reads", 1).await.contains(&last.to_string()));
    fixture.remove(&other).await?;

    // For nobody's pod the daemon pays.
    fixture.client.remove_image(&id).await?;
    fixture.client.pull(&reference).await?;
    assert_eq!(cgroup.cpu_us(), Some(spent));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn all_pulls_are_counted_in_the_operators_cgroup() -> Result<()> {
    let path = format!("/berth-test-pulls-{}", std::process::id());
    let config = format!("separate_pull_cgroup = \"{path}\"\n");
    let cgroup = Cgroup::named(&path);
    let mut fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    // The fixture itself has pulled; the daemon made the cgroup.
    let before = cgroup.cpu_us().expect("the daemon has made the cgroup");
    fixture.registry.push("large", &["1"], &large()).await?;
    let reference = format!("{}/large:1", fixture.registry.address());
    fixture.client.pull(&reference).await?;
    let spent = cgroup.cpu_us().unwrap_or_default() - before;
    assert!(spent > 2000, "{spent} µs for 7 MB");
    assert_eq!(cgroup.children(), 0, "the leaves are gone");
    let (pod, _) = fixture.run("runs", &["sh", "-c", "echo it runs; sleep 1000"]).await?;
    assert!(fixture.log_of("runs", 1).await.contains("it runs"));
    fixture.remove(&pod).await
}
