//! The volumes that an image declares, in each of the ways that `container.image_volumes` knows.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use berth_test::fixture::Fixture;
use berth_test::image::Layer;
use berth_test::node::{Options, container_config};
use berth_test::programs::Programs;
use berth_test::stand_ins;
use proto::v1;
use serde_json::json;

/// Where the users of a pod with users of its own are on the host.
const FIRST_ID: u32 = 1_000_000;
const IDS: u32 = 65_536;

async fn fixture(kind: &str) -> Result<Fixture> {
    let config = format!("[container]\nimage_volumes = \"{kind}\"\n");
    Fixture::with(Options { config, ..Options::default() }).await
}

/// Volumes that the image has, lacks, reaches by a link that leads out, and that a pod may cover.
async fn pull_image(fixture: &mut Fixture) -> Result<String> {
    let layer = Layer::new()
        .dir("srv/", 0o755)
        .dir("srv/data/", 0o2775)
        .file("srv/data/seed", 0o640, b"from the image")
        .symlink("srv/data/way", "/etc/passwd")
        .symlink("out", "/../../../../../etc")
        .dir("covered/", 0o755)
        .finish();
    let volumes = ["/srv/data", "/new/deep", "/out/berth-volume", "/covered", "/covered/below"];
    let volumes: serde_json::Map<String, serde_json::Value> =
        volumes.iter().map(|path| ((*path).to_owned(), json!({}))).collect();
    let config = json!({"User": "33:33", "Volumes": volumes});
    let built = stand_ins::busybox_with(&Programs::built(), layer, config)?;
    fixture.registry.push("volumes", &["1"], &built).await?;
    Ok(fixture.client.pull(&format!("{}/volumes:1", fixture.registry.address())).await?)
}

/// A container of that image whose pod covers `/covered`; the folder that it mounts there.
fn config_of(fixture: &Fixture, image: &str) -> Result<(v1::ContainerConfig, PathBuf)> {
    let host = fixture.node.dir().join("host");
    std::fs::create_dir_all(&host)?;
    std::fs::write(host.join("pods"), "the pod's own")?;
    let mut config = container_config("main", image, &["sleep", "1000"]);
    let (host_path, container_path) = (host.display().to_string(), "/covered".into());
    config.mounts = vec![v1::Mount { container_path, host_path, ..Default::default() }];
    Ok((config, host))
}

/// What a command prints, with both of its streams.
async fn says(fixture: &mut Fixture, container: &str, script: &str) -> Result<String> {
    let said = fixture.client.exec(container, &["sh", "-c", &format!("({script}) 2>&1")], 10).await?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

const LOOK: &str = "stat -c '%n %a %u:%g' /srv/data /srv/data/seed /new /new/deep /etc/berth-volume; \
    cat /srv/data/seed; echo; readlink /srv/data/way";
const SEEN: &str = "/srv/data 2775 0:0\n/srv/data/seed 640 0:0\n/new 755 33:33\n/new/deep 755 33:33\n\
    /etc/berth-volume 755 33:33\ncat: can't open '/srv/data/seed': Permission denied\n\n/etc/passwd";

fn mounted(fixture: &Fixture, container: &str) -> PathBuf {
    fixture.node.dir().join("root/containers").join(container).join("volumes")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_images_volumes_are_directories_of_the_root_file_system() -> Result<()> {
    let mut fixture = fixture("mkdir").await?;
    let image = pull_image(&mut fixture).await?;
    let before = fixture.node.inventory();
    let (config, host) = config_of(&fixture, &image)?;
    let (pod, container) = fixture.run_with("mkdir", config).await?;
    assert_eq!(says(&mut fixture, &container, LOOK).await?, SEEN);
    assert_eq!(says(&mut fixture, &container, "echo x > /new/deep/x && cat /new/deep/x").await?, "x");
    assert_eq!(says(&mut fixture, &container, "ls /covered").await?, "pods");
    assert_eq!(says(&mut fixture, &container, "grep -c /new /proc/mounts").await?, "0");
    assert!(!host.join("below").exists() && !PathBuf::from("/etc/berth-volume").exists());
    fixture.remove(&pod).await?;
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_images_volumes_are_bound_with_what_the_image_has_there() -> Result<()> {
    let mut fixture = fixture("bind").await?;
    let image = pull_image(&mut fixture).await?;
    let before = fixture.node.inventory();
    let (mut config, host) = config_of(&fixture, &image)?;
    // As containerd has it, what is bound can be written to however the rest is mounted.
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.readonly_rootfs = true;
    let (pod, container) = fixture.run_with("bind", config).await?;
    let seen = SEEN.replace("/new 755 33:33", "/new 755 0:0");
    assert_eq!(says(&mut fixture, &container, LOOK).await?, seen);
    let write = "echo x > /new/deep/x && cat /new/deep/x; touch /new/x";
    assert_eq!(
        says(&mut fixture, &container, write).await?,
        "x\ntouch: /new/x: Read-only file system",
        "the volume and nothing else"
    );
    assert_eq!(says(&mut fixture, &container, "ls /covered").await?, "pods");
    assert!(!host.join("below").exists() && !PathBuf::from("/etc/berth-volume").exists());
    let written = std::fs::read_dir(mounted(&fixture, &container))?.flatten();
    assert_eq!(written.filter(|entry| entry.path().join("x").exists()).count(), 1, "on the host's disk");

    // Another container of the image has volumes of its own, and a restart of the daemon takes nothing away.
    fixture.restart_daemon().await?;
    assert_eq!(says(&mut fixture, &container, "cat /new/deep/x").await?, "x");
    fixture.remove(&pod).await?;
    assert!(!mounted(&fixture, &container).exists());
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_images_volumes_may_be_left_alone() -> Result<()> {
    let mut fixture = fixture("ignore").await?;
    let image = pull_image(&mut fixture).await?;
    let (config, _) = config_of(&fixture, &image)?;
    let (pod, container) = fixture.run_with("ignore", config).await?;
    assert_eq!(says(&mut fixture, &container, "test -e /new || echo none").await?, "none");
    fixture.remove(&pod).await
}

/// A pod whose users are others on the host, and a container for it.
fn with_users_of_its_own(pod: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig) {
    let map = v1::IdMapping { host_id: FIRST_ID, container_id: 0, length: IDS };
    let users = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: vec![map], gids: vec![map] };
    let options = v1::NamespaceOption {
        pid: v1::NamespaceMode::Container.into(),
        userns_options: Some(users),
        ..Default::default()
    };
    let pod_security = pod.linux.get_or_insert_default().security_context.get_or_insert_default();
    pod_security.namespace_options = Some(options.clone());
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options = Some(options);
    for mount in config.mounts.iter_mut().filter(|mount| mount.image.is_none()) {
        (mount.uid_mappings, mount.gid_mappings) = (vec![map], vec![map]);
    }
}

async fn run_with_users(
    fixture: &mut Fixture,
    name: &str,
    mut config: v1::ContainerConfig,
) -> Result<(String, String)> {
    let mut pod_config = fixture.pod_config(name);
    with_users_of_its_own(&mut pod_config, &mut config);
    let pod = fixture.client.run_pod(&pod_config).await?;
    let container = fixture.client.create(&pod, &config, &pod_config).await.context("creating")?;
    fixture.client.start(&container).await?;
    Ok((pod, container))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_images_volumes_belong_to_the_users_of_a_pod_that_has_its_own() -> Result<()> {
    for (kind, parent) in [("mkdir", "33:33"), ("bind", "0:0")] {
        let mut fixture = fixture(kind).await?;
        let image = pull_image(&mut fixture).await?;
        let (config, _) = config_of(&fixture, &image)?;
        let (pod, container) = run_with_users(&mut fixture, kind, config).await?;
        let seen = SEEN.replace("/new 755 33:33", &format!("/new 755 {parent}"));
        assert_eq!(says(&mut fixture, &container, LOOK).await?, seen, "{kind}");
        assert_eq!(says(&mut fixture, &container, "echo x > /new/deep/x && cat /new/deep/x").await?, "x");
        fixture.remove(&pod).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_image_as_a_volume_belongs_to_the_users_of_a_pod_that_has_its_own() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let lower = Layer::new().dir("model/", 0o700).file("model/weights", 0o600, b"1 2 3").finish();
    let upper = Layer::new().file("model/labels", 0o600, b"a b c").finish();
    for (name, layers) in [("one", vec![lower.clone()]), ("two", vec![lower, upper])] {
        let built = berth_test::image::Recipe::new(layers, json!({})).build();
        fixture.registry.push(name, &["1"], &built).await?;
        fixture.client.pull(&format!("{}/{name}:1", fixture.registry.address())).await?;
    }
    let before = fixture.node.inventory();
    let map = |host_id| vec![v1::IdMapping { host_id, container_id: 0, length: IDS }];
    let volume = |registry: &str, name: &str, sub_path: &str, host_id: Option<u32>| v1::Mount {
        container_path: format!("/{name}{sub_path}"),
        image: Some(v1::ImageSpec { image: format!("{registry}/{name}:1"), ..Default::default() }),
        image_sub_path: sub_path.into(),
        readonly: true,
        uid_mappings: host_id.map(map).unwrap_or_default(),
        gid_mappings: host_id.map(map).unwrap_or_default(),
        ..Default::default()
    };
    let registry = fixture.registry.address().to_string();
    let mut config = container_config("main", &fixture.image, &["sleep", "1000"]);
    config.mounts = vec![
        volume(&registry, "one", "", Some(FIRST_ID)),
        volume(&registry, "two", "", Some(FIRST_ID)),
        volume(&registry, "two", "model", Some(FIRST_ID)),
    ];
    let (pod, container) = run_with_users(&mut fixture, "mapped", config.clone()).await?;
    let look = "stat -c '%n %a %u:%g' /one /one/model /one/model/weights /two/model /twomodel/labels; \
        cat /one/model/weights /two/model/labels; touch /one/x";
    assert_eq!(
        says(&mut fixture, &container, look).await?,
        "/one 755 0:0\n/one/model 700 0:0\n/one/model/weights 600 0:0\n/two/model 700 0:0\n\
         /twomodel/labels 600 0:0\n1 2 3a b ctouch: /one/x: Read-only file system"
    );
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert!(
        points.iter().any(|point| point.ends_with("/images/0"))
            && !points.iter().any(|it| it.ends_with(".shifted")),
        "what it took to make them stays behind: {points:?}"
    );
    fixture.remove(&pod).await?;

    // Without a map they belong to users of the host, whom the pod does not know.
    config.mounts = vec![volume(&registry, "one", "", None)];
    let (pod, container) = run_with_users(&mut fixture, "plain", config.clone()).await?;
    assert_eq!(says(&mut fixture, &container, "stat -c %u:%g /one").await?, "65534:65534");
    fixture.remove(&pod).await?;

    config.mounts = vec![volume(&registry, "one", "", Some(FIRST_ID + 1))];
    let refused =
        run_with_users(&mut fixture, "other", config).await.expect_err("another map than the pod's");
    assert!(format!("{refused:?}").contains("as the pod's users are"), "{refused:?}");
    fixture.node.remove_all_pods().await?;
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

/// A file system that takes so many more files, gone when dropped.
struct Narrow(std::path::PathBuf);

impl Narrow {
    fn over(dir: &Path, inodes: usize) -> Result<Narrow> {
        let options = std::ffi::CString::new(format!("nr_inodes={inodes},size=4m"))?;
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", dir, "tmpfs", flags, Some(options.as_c_str()))?;
        Ok(Narrow(dir.to_owned()))
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_image_that_cannot_be_mounted_for_want_of_a_directory_is_not_held() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let layer = Layer::new().file("model/weights", 0o600, b"1 2 3").finish();
    let built = berth_test::image::Recipe::new(vec![layer], json!({})).build();
    fixture.registry.push("model", &["1"], &built).await?;
    let image = format!("{}/model:1", fixture.registry.address());
    fixture.client.pull(&image).await?;
    let pod_config = fixture.pod_config("narrow");
    let pod = fixture.client.run_pod(&pod_config).await?;
    let mut config = container_config("main", &fixture.image, &["true"]);
    config.mounts = vec![v1::Mount {
        container_path: "/model".into(),
        image: Some(v1::ImageSpec { image, ..Default::default() }),
        readonly: true,
        ..Default::default()
    }];
    let held = fixture.node.dir().join("root/containers");
    let containers = fixture.node.run_dir().join("sandboxes").join(&pod).join("containers");
    std::fs::create_dir_all(&containers)?;
    let (mut failed, mut made) = (0, 0);
    // From too few for the container's own record to enough for everything: one of them fails at the image's directory.
    for inodes in 2..20 {
        let narrow = Narrow::over(&containers, inodes)?;
        match fixture.client.create(&pod, &config, &pod_config).await {
            Err(error) => {
                assert!(error.message().contains("No space left"), "{error:?}");
                failed += 1;
            }
            Ok(container) => {
                fixture.client.remove(&container).await?;
                made += 1;
            }
        }
        drop(narrow);
        let left: Vec<_> = std::fs::read_dir(&held)?.flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, Vec::<std::ffi::OsString>::new(), "held after a making with {inodes} inodes");
    }
    assert!(failed > 3 && made > 0, "{failed} failed and {made} were made");
    fixture.remove(&pod).await
}
