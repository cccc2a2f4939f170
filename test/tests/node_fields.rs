//! Fields of a container that are seldom used and easily missed: what the process then finds.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use berth_test::fixture::Fixture;
use berth_test::image::{Layer, Recipe};
use berth_test::node::{Options, container_config};
use proto::v1;
use tonic::Code;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_ephemeral_container_sees_the_processes_of_its_target() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let own = v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() };
    let mut pod_config = fixture.pod_config("seen");
    let pod_security = pod_config.linux.get_or_insert_default().security_context.get_or_insert_default();
    pod_security.namespace_options = Some(own.clone());
    let pod = fixture.client.run_pod(&pod_config).await?;
    let mut main = container_config("main", &fixture.image, &["sleep", "4711"]);
    let security = main.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options = Some(own);
    let target = fixture.client.create(&pod, &main, &pod_config).await?;
    fixture.client.start(&target).await?;
    let mut config = container_config("debugger", &fixture.image, &["sleep", "1000"]);
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options = Some(v1::NamespaceOption {
        pid: v1::NamespaceMode::Target.into(),
        target_id: target.clone(),
        ..Default::default()
    });
    let debugger = fixture.client.create(&pod, &config, &pod_config).await?;
    fixture.client.start(&debugger).await?;
    let seen = fixture.client.exec(&debugger, &["cat", "/proc/1/cmdline"], 10).await?;
    assert_eq!(text(&seen.stdout), "sleep\x004711\0");
    fixture.client.stop(&debugger, 0).await?;
    let still = fixture.client.container(&target).await?;
    assert_eq!(
        still.state(),
        v1::ContainerState::ContainerRunning,
        "the target is not the debugger's to end"
    );

    let (other, _) = fixture.run("stranger", &["sleep", "1000"]).await?;
    let other_config = fixture.pod_config("stranger");
    let refused =
        fixture.client.create(&other, &config, &other_config).await.expect_err("another pod's target");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    fixture.remove(&other).await?;
    fixture.remove(&pod).await
}

/// A node with folders of its own for devices and hooks.
async fn fixture_with(dir: &Path) -> Result<Fixture> {
    let config =
        format!("[container]\ncdi_spec_dirs = [\"{0}/cdi\"]\nhooks_dirs = [\"{0}/hooks\"]\n", dir.display());
    for name in ["cdi", "hooks"] {
        std::fs::create_dir(dir.join(name))?;
    }
    Fixture::with(Options { config, ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_device_of_a_vendor_is_in_the_container_that_asks_for_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut fixture = fixture_with(dir.path()).await?;
    std::fs::write(dir.path().join("library"), "firmware")?;
    let spec = format!(
        "cdiVersion: 0.6.0\nkind: vendor.com/gpu\ndevices:\n- name: '0'\n  containerEdits:\n    env: [GPU=zero]\n    \
         deviceNodes:\n    - {{path: /dev/gpu0, hostPath: /dev/zero, permissions: r}}\n    mounts:\n    \
         - {{hostPath: {}/library, containerPath: /library, options: [ro]}}\n    additionalGids: [4242]\n",
        dir.path().display()
    );
    std::fs::write(dir.path().join("cdi/gpu.yaml"), spec)?;
    let script = "echo $GPU $(head -c 3 /dev/gpu0 | wc -c) $(cat /library) $(id -G); \
        echo x > /library || echo read-only; sleep 1000";
    let mut config = container_config("main", &fixture.image, &["sh", "-c", script]);
    config.cdi_devices = vec![v1::CdiDevice { name: "vendor.com/gpu=0".into() }];
    let (pod, _) = fixture.run_with("gpu", config.clone()).await?;
    let log = fixture.log_of("gpu", 3).await;
    assert!(log.contains("zero 3 firmware 0 4242"), "{log}");
    assert!(log.contains("read-only"), "{log}");
    fixture.remove(&pod).await?;

    config.cdi_devices = vec![v1::CdiDevice { name: "vendor.com/gpu=7".into() }];
    let refused = fixture.run_with("nogpu", config).await.expect_err("no such device");
    assert!(format!("{refused:?}").contains("vendor.com/gpu=7"), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_operators_hook_runs_for_the_containers_that_it_is_for() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut fixture = fixture_with(dir.path()).await?;
    let (script, told) = (dir.path().join("hook.sh"), dir.path().join("told"));
    std::fs::write(&script, format!("#!/bin/sh\necho $1 $(cat) >> {}\n", told.display()))?;
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
    let hook = serde_json::json!({
        "version": "1.0.0", "hook": {"path": script, "args": ["hook.sh", "hooked"]},
        "when": {"annotations": {"^want$": "hook"}}, "stages": ["createRuntime", "poststop"],
    });
    std::fs::write(dir.path().join("hooks/10.json"), hook.to_string())?;
    let mut config = container_config("main", &fixture.image, &["sleep", "1000"]);
    let (plain, _) = fixture.run_with("plain", config.clone()).await?;
    assert!(!told.exists(), "nobody asked for it");
    config.annotations.insert("want".into(), "a hook".into());
    let (pod, container) = fixture.run_with("hooked", config).await?;
    let heard = std::fs::read_to_string(&told)?;
    assert!(heard.starts_with("hooked {") && heard.contains(&container), "{heard}");
    fixture.remove(&pod).await?;
    assert_eq!(std::fs::read_to_string(&told)?.lines().count(), 2, "once at the beginning, once at the end");
    fixture.remove(&plain).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_image_is_a_volume_whole_or_in_part() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let lower = Layer::new().file("model/weights", 0o644, b"1 2 3").file("other", 0o644, b"hidden").finish();
    let upper =
        Layer::new().file("model/labels", 0o755, b"#!/bin/sh\necho ran\n").symlink("way", "/etc").finish();
    let image = Recipe::new(vec![lower, upper], serde_json::json!({})).build();
    fixture.registry.push("model", &["1"], &image).await?;
    let reference = format!("{}/model:1", fixture.registry.address());
    let id = fixture.client.pull(&reference).await?;
    let before = fixture.node.inventory();
    let volume = |container_path: &str, sub_path: &str| v1::Mount {
        container_path: container_path.into(),
        image: Some(v1::ImageSpec { image: id.clone(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        readonly: true,
        ..Default::default()
    };
    let script = "for file in /all/model/weights /all/other /part/weights /one; do echo $file=$(cat $file); done; \
        ls /part; touch /all/x /part/x || echo read-only; /part/labels; /sealed || echo not run; sleep 1000";
    let mut config = container_config("main", &fixture.image, &["sh", "-c", script]);
    let sealed = v1::Mount { mount_options: vec!["noexec".into()], ..volume("/sealed", "model/labels") };
    config.mounts =
        vec![volume("/all", ""), volume("/part", "model"), volume("/one", "model/weights"), sealed];
    let (pod, container) = fixture.run_with("volumes", config.clone()).await?;
    let pod_config = fixture.pod_config("volumes");
    assert_eq!(
        fixture.client.create(&pod, &config, &pod_config).await?,
        container,
        "the same, asked for again"
    );
    let log = fixture.log_of("volumes", 12).await;
    for words in [
        "weights=1 2 3",
        "other=hidden",
        "/part/weights=1 2 3",
        "one=1 2 3",
        "F labels",
        "read-only",
        "F ran",
        "not run",
    ] {
        assert!(log.contains(words), "{words:?} is not in {log}");
    }
    let status = fixture.client.container(&container).await?;
    for mount in &status.mounts {
        assert_eq!(mount.image.as_ref().map(|image| &image.image_ref), Some(&id), "{}", mount.container_path);
    }
    // It is in use, and goes on being so when its name is gone.
    fixture.client.remove_image(&id).await?;
    fixture.restart_daemon().await?;
    fixture.remove(&pod).await?;
    fixture.client.pull(&reference).await?;

    for sub_path in ["nothing", "way/passwd", "../../etc"] {
        config.mounts = vec![volume("/part", sub_path)];
        let refused = fixture.run_with("nowhere", config.clone()).await.expect_err("no such part");
        let words = format!("{refused:?}");
        assert!(words.contains("ImageVolumeMountFailed") && words.contains(sub_path), "{words}");
        fixture.node.remove_all_pods().await?;
    }
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

/// Where a container's limits of block I/O are, and the file that has the rate of reading.
fn read_rate(fixture: &Fixture, container: &str) -> Option<String> {
    let below = format!("{}/berth-{container}", fixture.node.cgroup());
    let v1 = format!("/sys/fs/cgroup/blkio{below}/blkio.throttle.read_bps_device");
    let v2 = format!("/sys/fs/cgroup{below}/io.max");
    [v1, v2].iter().find_map(|path| std::fs::read_to_string(path).ok())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_class_of_block_io_becomes_limits_and_one_that_is_not_there_is_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("blockio.yaml");
    let config = format!("[container]\nblockio_config_file = \"{}\"\n", file.display());
    let mut fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    let is_disk = |name: &String| !["loop", "ram", "zram"].iter().any(|other| name.starts_with(other));
    let disks =
        std::fs::read_dir("/sys/block")?.flatten().filter_map(|disk| disk.file_name().into_string().ok());
    let disk = disks.filter(is_disk).min().expect("a machine has a disk");
    let number = std::fs::read_to_string(format!("/sys/block/{disk}/dev"))?.trim().to_owned();
    let classes =
        format!("Classes:\n  slow:\n  - Devices: ['/dev/{disk}*', /dev/none*]\n    ThrottleReadBps: 7M\n");
    std::fs::write(&file, classes)?;
    let config = container_config("main", &fixture.image, &["sleep", "1000"]);
    let mut pod_config = fixture.pod_config("throttled");
    let key = "blockio.resources.beta.kubernetes.io/container.main".to_owned();
    pod_config.annotations.insert(key.clone(), "slow".into());
    let pod = fixture.client.run_pod(&pod_config).await?;
    let made = fixture.client.create(&pod, &config, &pod_config).await;
    let lists = |path: &str| std::fs::read_to_string(path).is_ok_and(|names| names.contains("io"));
    if Path::new("/sys/fs/cgroup/blkio").exists() || lists("/sys/fs/cgroup/cgroup.controllers") {
        let rate = read_rate(&fixture, &made?).unwrap_or_default();
        assert!(rate.contains(&number) && rate.contains("7000000"), "{number} {rate}");
    } else {
        assert!(format!("{:?}", made.expect_err("nobody limits")).contains("cgroup controller"));
    }
    fixture.remove(&pod).await?;

    pod_config.annotations.insert(key, "none".into());
    pod_config.metadata.get_or_insert_default().attempt = 1;
    let pod = fixture.client.run_pod(&pod_config).await?;
    let refused = fixture.client.create(&pod, &config, &pod_config).await.expect_err("no such class");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("\"none\"; it has slow"), "{refused:?}");
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_class_of_intel_rdt_that_this_machine_cannot_give_is_refused_by_name() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let mut pod_config = fixture.pod_config("rdt");
    pod_config.annotations.insert("rdt.resources.beta.kubernetes.io/pod".into(), "berth-no-such".into());
    let pod = fixture.client.run_pod(&pod_config).await?;
    let config = container_config("main", &fixture.image, &["sleep", "1000"]);
    let refused = fixture.client.create(&pod, &config, &pod_config).await.expect_err("no such class");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let words = refused.message();
    let has_resctrl = std::fs::read_to_string("/proc/self/mountinfo")?.contains(" - resctrl ");
    let why = if has_resctrl { "no RDT class" } else { "no resctrl file system is mounted" };
    assert!(words.contains("\"berth-no-such\"") && words.contains(why), "{refused:?}");
    fixture.remove(&pod).await
}
