//! Checkpoints through the real criu: what goes on in the restored container, what is refused, and that nothing stays
//! frozen or lying about, whoever dies.
//!
//! `BERTH_CRIU` names a criu that knows the kernel; `cargo xtask node` brings one.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use berth_test::fixture::Fixture;
use berth_test::image::Recipe;
use berth_test::node::{Options, container_config};
use proto::v1;
use tonic::Code;

/// How long what a test waits for may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// A process with a number in its memory alone, which it says now and then.
const COUNTER: &str = "echo written > /kept; rm /etc/group; echo new > /etc/passwd; \
    i=0; while true; do i=$((i+1)); echo $i > /tmp/count; echo $i; sleep 0.05; done";

fn criu() -> String {
    std::env::var("BERTH_CRIU").unwrap_or_else(|_| "criu".into())
}

fn settings(criu: &str, allow: &str) -> Options {
    let config = format!("[checkpoint]\ncriu = \"{criu}\"\nallow = \"{allow}\"\n");
    Options { config, ..Options::default() }
}

/// A node that checkpoints and restores; where criu does not know this kernel that is an error, not a skip.
async fn fixture() -> Result<Fixture> {
    let criu = criu();
    let mut fixture = Fixture::with(settings(&criu, "restore")).await?;
    let told = told(&mut fixture).await?;
    ensure!(told["restore"] == true, "criu does not work here, so nothing can be tested: {told}");
    Ok(fixture)
}

/// What Status says of checkpoints, once criu was asked.
async fn told(fixture: &mut Fixture) -> Result<serde_json::Value> {
    let begun = Instant::now();
    loop {
        let status = fixture.client.runtime.status(v1::StatusRequest { verbose: true }).await?.into_inner();
        let told: serde_json::Value = serde_json::from_str(&status.info["checkpoint"])?;
        let asked = !told["why"].as_str().is_some_and(|why| why.contains("not asked yet"));
        if asked || begun.elapsed() > PATIENCE {
            return Ok(told);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// As the kubelet asks for pods: each container has its own processes.
fn pod_config(fixture: &Fixture, name: &str) -> v1::PodSandboxConfig {
    let mut config = fixture.pod_config(name);
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options =
        Some(v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() });
    config
}

fn container(name: &str, image: &str, script: &str) -> v1::ContainerConfig {
    let mut config = container_config(name, image, &["sh", "-c", script]);
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options =
        Some(v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() });
    config
}

async fn run(
    fixture: &mut Fixture,
    name: &str,
    configs: &[v1::ContainerConfig],
) -> Result<(String, Vec<String>)> {
    let pod_config = pod_config(fixture, name);
    let pod = fixture.client.run_pod(&pod_config).await?;
    let mut ids = Vec::new();
    for config in configs {
        let id = fixture.client.create(&pod, config, &pod_config).await?;
        fixture.client.start(&id).await?;
        ids.push(id);
    }
    Ok((pod, ids))
}

async fn read(fixture: &mut Fixture, container: &str, path: &str) -> Result<String> {
    let said = fixture.client.exec(container, &["cat", path], 10).await?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

async fn count(fixture: &mut Fixture, container: &str) -> Result<u64> {
    let begun = Instant::now();
    loop {
        // Between the opening of the file and the writing it is empty.
        match read(fixture, container, "/tmp/count").await?.parse() {
            Ok(count) => return Ok(count),
            Err(_) if begun.elapsed() < PATIENCE => {}
            Err(error) => return Err(error).context("no number"),
        }
    }
}

/// Waits until it has counted on.
async fn count_beyond(fixture: &mut Fixture, container: &str, number: u64) -> Result<u64> {
    let begun = Instant::now();
    loop {
        let now = count(fixture, container).await?;
        if now > number {
            return Ok(now);
        }
        ensure!(begun.elapsed() < PATIENCE, "it stands still at {now}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn checkpoint(fixture: &mut Fixture, container: &str, location: &Path) -> Result<(), tonic::Status> {
    let (container_id, location) = (container.to_owned(), location.display().to_string());
    let request = v1::CheckpointContainerRequest { container_id, location, timeout: 0 };
    fixture.client.runtime.checkpoint_container(request).await.map(drop)
}

/// What is in a checkpoint, by name.
fn names(archive: &Path) -> Result<Vec<String>> {
    let mut tar = tar::Archive::new(std::fs::File::open(archive)?);
    tar.entries()?.map(|entry| Ok(entry?.path()?.display().to_string())).collect()
}

fn folder(fixture: &Fixture) -> Result<PathBuf> {
    let dir = fixture.node.dir().join("checkpoints");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// What is there of checkpoints that are not done.
fn notes(fixture: &Fixture) -> usize {
    std::fs::read_dir(fixture.node.dir().join("root/checkpoints")).map_or(0, Iterator::count)
}

/// The files and the number of the container that was written down when it had counted to `before`.
async fn goes_on(fixture: &mut Fixture, container: &str, before: u64) -> Result<()> {
    let after = count_beyond(fixture, container, before).await?;
    assert!(after < before + 2000, "it began again or is another one: {after} after {before}");
    assert_eq!(read(fixture, container, "/kept").await?, "written");
    assert_eq!(read(fixture, container, "/etc/passwd").await?, "new");
    let gone = fixture.client.exec(container, &["test", "-e", "/etc/group"], 10).await?;
    assert_eq!(gone.exit_code, 1, "what was removed is back");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_container_is_written_down_runs_on_and_goes_on_elsewhere() -> Result<()> {
    let mut fixture = fixture().await?;
    let before = fixture.node.inventory();
    let main = [container("main", &fixture.image, COUNTER)];
    let (pod, ids) = run(&mut fixture, "first", &main).await?;
    let number = count_beyond(&mut fixture, &ids[0], 5).await?;
    let archive = folder(&fixture)?.join("checkpoint-first.tar");
    checkpoint(&mut fixture, &ids[0], &archive).await?;
    count_beyond(&mut fixture, &ids[0], number).await?;
    assert_eq!(archive.metadata()?.permissions().mode() & 0o777, 0o600);
    let names = names(&archive)?;
    for name in [
        "config.dump",
        "spec.dump",
        "bind.mounts",
        "rootfs-diff.tar",
        "deleted.files",
        "dump.log",
        "stats-dump",
        "checkpoint/inventory.img",
    ] {
        assert!(names.iter().any(|there| there == name), "{name} is not in {names:?}");
    }
    assert_eq!(std::fs::read_dir(folder(&fixture)?)?.count(), 1, "something is left beside it");

    // As a local archive, in another pod.
    let config = container("main", &archive.display().to_string(), "exit 1");
    let pod_config = pod_config(&fixture, "second");
    let second = fixture.client.run_pod(&pod_config).await?;
    let restored = fixture.client.create(&second, &config, &pod_config).await?;
    assert_ne!(restored, ids[0]);
    assert_eq!(fixture.client.container(&restored).await?.state(), v1::ContainerState::ContainerCreated);
    let log = fixture.log("second");
    assert_eq!(log, "", "it runs before its start");
    fixture.client.start(&restored).await?;
    goes_on(&mut fixture, &restored, number).await?;
    let log = fixture.log_of("second", 3).await;
    let said: u64 = log.lines().nth(1).and_then(|line| line.rsplit(' ').next()?.parse().ok()).context(log)?;
    assert!(said > number, "its output goes to the log of its own pod");
    let hostname = fixture.client.exec(&restored, &["hostname"], 10).await?;
    assert_eq!(String::from_utf8_lossy(&hostname.stdout).trim(), "second", "it has its new pod's name");
    count_beyond(&mut fixture, &ids[0], number).await?;

    fixture.client.stop(&restored, 0).await?;
    let ended = fixture.client.wait_for_exit(&restored).await?;
    assert_eq!(ended.exit_code, 137);
    fixture.remove(&second).await?;
    fixture.remove(&pod).await?;
    assert_eq!(notes(&fixture), 0);
    let leaks = fixture.node.leaks_since(&before);
    assert!(leaks.is_empty(), "{leaks:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_checkpoint_image_is_pulled_and_goes_on() -> Result<()> {
    let mut fixture = fixture().await?;
    let main = [container("main", &fixture.image, COUNTER)];
    let (pod, ids) = run(&mut fixture, "first", &main).await?;
    let number = count_beyond(&mut fixture, &ids[0], 5).await?;
    let archive = folder(&fixture)?.join("c.tar");
    checkpoint(&mut fixture, &ids[0], &archive).await?;
    fixture.remove(&pod).await?;
    let before = fixture.node.inventory();
    // As buildah makes it: the archive is the only layer, and the manifest says so.
    for restored in [true, false] {
        let mut recipe = Recipe::new(
            vec![std::fs::read(&archive)?],
            serde_json::json!({"Labels": {"restored": restored.to_string()}}),
        );
        if restored {
            recipe
                .annotations
                .insert("io.kubernetes.cri-o.annotations.checkpoint.name".into(), "main".into());
        }
        let image = recipe.build();
        let tag = if restored { "checkpoint" } else { "plain" };
        fixture.registry.push("saved", &[tag], &image).await?;
        let reference = format!("{}/saved:{tag}", fixture.registry.address());
        fixture.client.pull(&reference).await?;
        let config = container("main", &reference, "exit 1");
        let made = run(&mut fixture, tag, &[config]).await;
        if !restored {
            assert!(made.is_err(), "an image without the annotation is an image like any other");
            continue;
        }
        let (pod, ids) = made?;
        goes_on(&mut fixture, &ids[0], number).await?;
        fixture.remove(&pod).await?;
    }
    fixture.node.remove_all_pods().await?;
    let leaks = fixture.node.leaks_since(&before);
    assert!(leaks.is_empty(), "{leaks:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pod_is_written_down_and_made_again_with_all_its_containers() -> Result<()> {
    let mut fixture = fixture().await?;
    let before = fixture.node.inventory();
    let image = fixture.image.clone();
    let configs = [container("one", &image, COUNTER), container("two", &image, COUNTER)];
    let (pod, ids) = run(&mut fixture, "first", &configs).await?;
    let mut numbers = Vec::new();
    for id in &ids {
        numbers.push(count_beyond(&mut fixture, id, 5).await?);
    }
    let output = fixture.node.dir().join("pod-checkpoint");
    let request = v1::CheckpointPodRequest {
        pod_sandbox_id: pod.clone(),
        output_path: output.display().to_string(),
        ..Default::default()
    };
    fixture.client.runtime.checkpoint_pod(request.clone()).await?;
    for (id, number) in ids.iter().zip(&numbers) {
        count_beyond(&mut fixture, id, *number).await?;
    }
    let again = fixture.client.runtime.checkpoint_pod(request).await.expect_err("there is one already");
    assert_eq!(again.code(), Code::InvalidArgument, "{again:?}");
    assert_eq!(std::fs::read_dir(&output)?.count(), 2, "pod.dump and containers");

    let config = pod_config(&fixture, "again");
    let request = v1::RestorePodRequest {
        checkpoint_path: output.display().to_string(),
        config: Some(config),
        container_configs: configs.to_vec(),
        ..Default::default()
    };
    let mut fewer = request.clone();
    fewer.container_configs.pop();
    let refused = fixture.client.runtime.restore_pod(fewer).await.expect_err("one is missing");
    assert!(refused.message().contains("container_configs"), "{refused:?}");
    let made = fixture.client.runtime.restore_pod(request.clone()).await?.into_inner();
    assert_eq!(made.restored_containers.iter().map(|it| &*it.name).collect::<Vec<_>>(), ["one", "two"]);
    for (restored, number) in made.restored_containers.iter().zip(&numbers) {
        let status = fixture.client.container(&restored.container_id).await?;
        assert_eq!(status.state(), v1::ContainerState::ContainerCreated);
        fixture.client.start(&restored.container_id).await?;
        goes_on(&mut fixture, &restored.container_id, *number).await?;
    }
    let exists = fixture.client.runtime.restore_pod(request.clone()).await.expect_err("the name is taken");
    assert_eq!(exists.code(), Code::AlreadyExists, "{exists:?}");
    fixture.remove(&made.pod_sandbox_id).await?;

    // One that can't be restored leaves nothing of its pod.
    std::fs::write(output.join("containers/two/checkpoint/inventory.img"), "junk")?;
    let failed = fixture.client.runtime.restore_pod(request).await.expect_err("it is damaged");
    assert!(failed.message().contains("criu"), "{failed:?}");
    let pods = fixture.client.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?;
    assert_eq!(pods.into_inner().items.len(), 1, "the first one alone");
    fixture.remove(&pod).await?;
    assert_eq!(notes(&fixture), 0);
    let leaks = fixture.node.leaks_since(&before);
    assert!(leaks.is_empty(), "{leaks:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn execs_go_on_beside_a_checkpoint_and_are_not_part_of_it() -> Result<()> {
    let mut fixture = fixture().await?;
    let main = [container("main", &fixture.image, COUNTER)];
    let (pod, ids) = run(&mut fixture, "busy", &main).await?;
    let number = count_beyond(&mut fixture, &ids[0], 5).await?;
    let archive = folder(&fixture)?.join("busy.tar");
    let (mut client, id) = (fixture.client.clone(), ids[0].clone());
    let long = tokio::spawn(async move { client.exec(&id, &["sh", "-c", "sleep 3; echo done"], 60).await });
    let (mut client, id) = (fixture.client.clone(), ids[0].clone());
    let many = tokio::spawn(async move {
        let mut done = 0;
        for _ in 0..40 {
            let said = client.exec(&id, &["echo", "here"], 60).await?;
            done += usize::from(said.stdout == b"here\n");
        }
        Ok::<_, tonic::Status>(done)
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    checkpoint(&mut fixture, &ids[0], &archive).await?;
    assert_eq!(many.await??, 40, "an exec was lost or refused");
    assert_eq!(long.await??.stdout, b"done\n");
    let (second, restored) =
        run(&mut fixture, "quiet", &[container("main", &archive.display().to_string(), "exit 1")]).await?;
    goes_on(&mut fixture, &restored[0], number).await?;
    let processes = fixture.client.exec(&restored[0], &["ps"], 10).await?;
    let processes = String::from_utf8_lossy(&processes.stdout).into_owned();
    assert!(!processes.contains("echo done"), "an exec was restored:\n{processes}");
    fixture.remove(&second).await?;
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn what_cannot_be_done_is_refused_with_its_reason() -> Result<()> {
    let mut fixture = fixture().await?;
    let image = fixture.image.clone();
    let dir = folder(&fixture)?;
    let location = dir.join("c.tar");
    let mut terminal = container("terminal", &image, "sleep 1000");
    terminal.tty = true;
    let configs = [container("main", &image, COUNTER), terminal, container("over", &image, "exit 0")];
    let (pod, ids) = run(&mut fixture, "refusing", &configs).await?;
    fixture.client.wait_for_exit(&ids[2]).await?;
    let mut check = async |id: &str, location: &Path, code: Code, words: &str| -> Result<()> {
        let refused = checkpoint(&mut fixture, id, location).await.expect_err(words);
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().contains(words), "{refused:?}");
        Ok(())
    };
    check("nosuch", &location, Code::NotFound, "nosuch").await?;
    check(&ids[2], &location, Code::FailedPrecondition, "is not running").await?;
    check(&ids[1], &location, Code::Unimplemented, "terminal").await?;
    check(&ids[0], Path::new("relative.tar"), Code::InvalidArgument, "absolute").await?;
    check(&ids[0], &dir.join("no/such/c.tar"), Code::InvalidArgument, "no folder").await?;
    check(&ids[0], &dir, Code::InvalidArgument, "is a folder").await?;
    assert_eq!(std::fs::read_dir(&dir)?.count(), 0, "a refusal leaves nothing");

    // A file that is no checkpoint, and one that lacks a mount.
    std::fs::write(dir.join("junk.tar"), [7; 8192])?;
    let junk = container("main", &dir.join("junk.tar").display().to_string(), "exit 1");
    let refused = run(&mut fixture, "junk", &[junk]).await.expect_err("junk");
    assert!(format!("{refused:#}").contains("junk.tar"), "{refused:#}");
    let volume = fixture.node.dir().join("volume");
    std::fs::create_dir(&volume)?;
    let mut with_volume = container("main", &image, COUNTER);
    with_volume.mounts.push(v1::Mount {
        container_path: "/data".into(),
        host_path: volume.display().to_string(),
        ..Default::default()
    });
    let (second, volumes_ids) = run(&mut fixture, "volume", &[with_volume.clone()]).await?;
    let number = count_beyond(&mut fixture, &volumes_ids[0], 3).await?;
    checkpoint(&mut fixture, &volumes_ids[0], &location).await?;
    let mut config = container("main", &location.display().to_string(), "exit 1");
    let refused = run(&mut fixture, "without", &[config.clone()]).await.expect_err("no volume");
    assert!(format!("{refused:#}").contains("/data"), "{refused:#}");
    config.mounts = with_volume.mounts;
    let (third, restored) = run(&mut fixture, "with", &[config]).await?;
    goes_on(&mut fixture, &restored[0], number).await?;
    std::fs::write(volume.join("seen"), "from the node")?;
    assert_eq!(read(&mut fixture, &restored[0], "/data/seen").await?, "from the node");
    for pod in [pod, second, third] {
        fixture.remove(&pod).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_node_says_whether_it_can() -> Result<()> {
    for (program, allow, words) in [
        ("/nosuch/criu", "restore", "/nosuch/criu is not installed"),
        (&*criu(), "none", "makes no checkpoints"),
    ] {
        let mut fixture = Fixture::with(settings(program, allow)).await?;
        let told = told(&mut fixture).await?;
        assert_eq!(told["checkpoint"], false, "{told}");
        let (pod, id) = fixture.run("main", &["sleep", "1000"]).await?;
        let location = folder(&fixture)?.join("c.tar");
        let refused = checkpoint(&mut fixture, &id, &location).await.expect_err(words);
        assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
        assert!(refused.message().contains(words), "{refused:?}");
        fixture.remove(&pod).await?;
    }
    let mut fixture = Fixture::with(settings(&criu(), "checkpoint")).await?;
    let told = told(&mut fixture).await?;
    assert_eq!((&told["checkpoint"], &told["restore"]), (&true.into(), &false.into()), "{told}");
    let refused =
        run(&mut fixture, "main", &[container("main", "/c.tar", "exit 1")]).await.expect_err("no restore");
    assert!(format!("{refused:#}").contains("restores nothing"), "{refused:#}");
    Ok(())
}

/// A criu that says its version at once, and takes its time when it is asked to dump: each request has a process of its
/// own, and while `slow` is there the first that comes is the version's.
fn slow_criu(dir: &Path) -> Result<String> {
    let path = dir.join("slow-criu");
    let script = format!(
        "#!/bin/sh\n\
         if [ \"$1\" = swrk ] && [ -e {0}/slow ]; then\n\
         \x20 if [ -e {0}/version ]; then echo >> {0}/dumps; sleep 8; else echo > {0}/version; fi\n\
         fi\n\
         exec {1} \"$@\"\n",
        dir.display(),
        criu()
    );
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn no_container_stays_frozen_whoever_dies() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut fixture = Fixture::with(settings(&slow_criu(dir.path())?, "restore")).await?;
    told(&mut fixture).await?;
    let main = [container("main", &fixture.image, COUNTER)];
    let (pod, ids) = run(&mut fixture, "frozen", &main).await?;
    let folder = folder(&fixture)?;
    let location = folder.join("c.tar").display().to_string();
    let request = v1::CheckpointContainerRequest { container_id: ids[0].clone(), location, timeout: 0 };

    // Its time is over.
    be_slow(dir.path())?;
    let late = v1::CheckpointContainerRequest { timeout: 1, ..request.clone() };
    let refused = fixture.client.runtime.checkpoint_container(late).await.expect_err("it is slow");
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    assert!(is_dumping(dir.path()), "it was given up before it was asked to dump");
    goes_on_counting(&mut fixture, &ids[0]).await?;

    // The monitor dies.
    be_slow(dir.path())?;
    let asked = ask_for(&fixture, request.clone());
    wait_until_dumping(&fixture, dir.path())?;
    let monitor = fixture.node.monitor_of(&pod)?;
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL)?;
    assert!(asked.await?.is_err(), "nobody has finished it");
    goes_on_counting(&mut fixture, &ids[0]).await?;

    // The daemon dies.
    be_slow(dir.path())?;
    let asked = ask_for(&fixture, request.clone());
    wait_until_dumping(&fixture, dir.path())?;
    fixture.node.kill_daemon();
    assert!(asked.await?.is_err(), "nobody has answered it");
    fixture.node.start_daemon().await?;
    fixture.reconnect().await?;
    goes_on_counting(&mut fixture, &ids[0]).await?;
    let begun = Instant::now();
    while std::fs::read_dir(&folder)?.count() + notes(&fixture) > 0 {
        ensure!(begun.elapsed() < PATIENCE, "what was not finished lies about");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // And one that is stopped meanwhile ends.
    be_slow(dir.path())?;
    let asked = ask_for(&fixture, request);
    wait_until_dumping(&fixture, dir.path())?;
    fixture.client.stop(&ids[0], 0).await?;
    assert!(asked.await?.is_err(), "it has ended");
    fixture.remove(&pod).await
}

async fn goes_on_counting(fixture: &mut Fixture, container: &str) -> Result<()> {
    let now = count(fixture, container).await?;
    count_beyond(fixture, container, now).await.map(drop)
}

fn ask_for(
    fixture: &Fixture,
    request: v1::CheckpointContainerRequest,
) -> tokio::task::JoinHandle<Result<(), tonic::Status>> {
    let mut runtime = fixture.client.runtime.clone();
    tokio::spawn(async move { runtime.checkpoint_container(request).await.map(drop) })
}

/// For the next checkpoint.
fn be_slow(dir: &Path) -> Result<()> {
    let _ = std::fs::remove_file(dir.join("version"));
    let _ = std::fs::remove_file(dir.join("dumps"));
    Ok(std::fs::write(dir.join("slow"), "")?)
}

fn is_dumping(dir: &Path) -> bool {
    dir.join("dumps").exists()
}

fn wait_until_dumping(fixture: &Fixture, dir: &Path) -> Result<()> {
    let begun = Instant::now();
    while !is_dumping(dir) || !any_frozen(&fixture.node.cgroup()) {
        ensure!(begun.elapsed() < PATIENCE, "nothing was frozen; its log:\n{}", fixture.node.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// In any hierarchy that can freeze.
fn any_frozen(cgroup: &str) -> bool {
    let said = |dir: PathBuf| {
        let below = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        below.into_iter().any(|dir| {
            let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
            read("freezer.state").trim() == "FROZEN" || read("cgroup.events").contains("frozen 1")
        })
    };
    ["/sys/fs/cgroup/freezer", "/sys/fs/cgroup"]
        .iter()
        .any(|root| said(PathBuf::from(format!("{root}{cgroup}"))))
}

async fn wait_for_freezing(
    fixture: &Fixture,
    asked: &tokio::task::JoinHandle<Result<(), tonic::Status>>,
) -> Result<()> {
    let begun = Instant::now();
    while !any_frozen(&fixture.node.cgroup()) && !asked.is_finished() {
        ensure!(begun.elapsed() < PATIENCE, "nothing was frozen; its log:\n{}", fixture.node.log());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// criu is at it in earnest when it is killed: what it has done to the processes by then must not be their end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_container_goes_on_whenever_its_monitor_dies() -> Result<()> {
    let mut fixture = fixture().await?;
    let main = [container("main", &fixture.image, COUNTER)];
    let (pod, ids) = run(&mut fixture, "killed", &main).await?;
    count_beyond(&mut fixture, &ids[0], 3).await?;
    let folder = folder(&fixture)?;
    let mut broken_off = 0;
    for after_ms in (0..240).step_by(20) {
        let location = folder.join(format!("{after_ms}.tar")).display().to_string();
        let request = v1::CheckpointContainerRequest { container_id: ids[0].clone(), location, timeout: 0 };
        let asked = ask_for(&fixture, request);
        wait_for_freezing(&fixture, &asked).await?;
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        rustix::process::kill_process(fixture.node.monitor_of(&pod)?, rustix::process::Signal::KILL)?;
        broken_off += usize::from(asked.await?.is_err());
        goes_on_counting(&mut fixture, &ids[0])
            .await
            .with_context(|| format!("killed after {after_ms} ms"))?;
    }
    println!("{broken_off} of 12 checkpoints were broken off");
    ensure!(broken_off > 0, "no monitor died in time");
    fixture.remove(&pod).await
}

/// The same with one that is given up, since its time is over or since nobody is left who asked for it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_container_goes_on_whenever_its_checkpoint_is_given_up() -> Result<()> {
    let mut fixture = fixture().await?;
    let main = [container("main", &fixture.image, COUNTER)];
    let (pod, ids) = run(&mut fixture, "late", &main).await?;
    count_beyond(&mut fixture, &ids[0], 3).await?;
    let folder = folder(&fixture)?;
    let request = |name: String| {
        let location = folder.join(name).display().to_string();
        v1::CheckpointContainerRequest { container_id: ids[0].clone(), location, timeout: 0 }
    };
    let mut given_up = 0;
    for after_ms in (20..420).step_by(20) {
        let mut asked = tonic::Request::new(request(format!("{after_ms}.tar")));
        asked.set_timeout(Duration::from_millis(after_ms));
        given_up += usize::from(fixture.client.runtime.checkpoint_container(asked).await.is_err());
        goes_on_counting(&mut fixture, &ids[0])
            .await
            .with_context(|| format!("given up after {after_ms} ms"))?;
    }
    println!("{given_up} of 20 checkpoints were given up");
    ensure!(given_up > 0, "none was late");
    for after_ms in (0..150).step_by(30) {
        let asked = ask_for(&fixture, request(format!("killed-{after_ms}.tar")));
        wait_for_freezing(&fixture, &asked).await?;
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        fixture.node.kill_daemon();
        let _ = asked.await?;
        fixture.node.start_daemon().await?;
        fixture.reconnect().await?;
        goes_on_counting(&mut fixture, &ids[0])
            .await
            .with_context(|| format!("its daemon was killed after {after_ms} ms"))?;
    }
    fixture.remove(&pod).await
}

/// Gives everyone the same address, and takes its time while a file `slow` is beside it.
const PLUGIN: &str = r#"#!/bin/sh
dir=${0%/*}
case $CNI_COMMAND in
  VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}';;
  ADD)
    [ ! -e $dir/slow ] || sleep 3
    echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.9.0.2/24","interface":0}]}';;
esac
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pod_whose_restore_was_late_is_not_there_afterwards() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("odd"), PLUGIN)?;
    std::fs::set_permissions(dir.path().join("odd"), std::fs::Permissions::from_mode(0o755))?;
    let cni = serde_json::json!({"cniVersion": "1.1.0", "name": "odd", "plugins": [{"type": "odd"}]});
    let network = Some(format!("bin_dirs = [\"{}\"]\n", dir.path().display()));
    let options = Options { cni: Some(cni), network, ..settings(&criu(), "restore") };
    let mut fixture = Fixture::with(options).await?;
    told(&mut fixture).await?;
    let configs = [container("main", &fixture.image, COUNTER)];
    let (pod, ids) = run(&mut fixture, "first", &configs).await?;
    let number = count_beyond(&mut fixture, &ids[0], 3).await?;
    let output_path = fixture.node.dir().join("pod-checkpoint").display().to_string();
    let request = v1::CheckpointPodRequest {
        pod_sandbox_id: pod.clone(),
        output_path: output_path.clone(),
        ..Default::default()
    };
    fixture.client.runtime.checkpoint_pod(request).await?;
    fixture.remove(&pod).await?;

    let request = v1::RestorePodRequest {
        checkpoint_path: output_path,
        config: Some(pod_config(&fixture, "again")),
        container_configs: configs.to_vec(),
        ..Default::default()
    };
    std::fs::write(dir.path().join("slow"), "")?;
    let mut late = tonic::Request::new(request.clone());
    late.set_timeout(Duration::from_secs(1));
    fixture.client.runtime.restore_pod(late).await.expect_err("its network takes longer");
    std::fs::remove_file(dir.path().join("slow"))?;
    let begun = Instant::now();
    let made = loop {
        match fixture.client.runtime.restore_pod(request.clone()).await {
            Ok(made) => break made.into_inner(),
            Err(status) => {
                assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
                ensure!(begun.elapsed() < PATIENCE, "it is there still: {status:?}");
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let restored = &made.restored_containers[0].container_id;
    fixture.client.start(restored).await?;
    goes_on(&mut fixture, restored, number).await?;
    fixture.remove(&made.pod_sandbox_id).await
}

/// The kernel knows them by other names than the pod: without the links, and with the blank written as a number.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_mount_behind_a_link_and_one_with_a_blank_in_its_name_go_along() -> Result<()> {
    let mut fixture = fixture().await?;
    let volume = |name: &str| -> Result<PathBuf> {
        let dir = fixture.node.dir().join(name);
        std::fs::create_dir(&dir)?;
        std::fs::write(dir.join("seen"), name)?;
        Ok(dir)
    };
    let (ways, secrets, blank) = (volume("ways")?, volume("secrets")?, volume("blank")?);
    // As an image has it whose /var/run is a link.
    std::os::unix::fs::symlink("/run", ways.join("run"))?;
    let mut main = container("main", &fixture.image, COUNTER);
    let mount = |place: &str, dir: &Path| v1::Mount {
        container_path: place.into(),
        host_path: dir.display().to_string(),
        ..Default::default()
    };
    main.mounts =
        vec![mount("/ways", &ways), mount("/ways/run/secrets", &secrets), mount("/with a blank", &blank)];
    let (pod, ids) = run(&mut fixture, "first", &[main.clone()]).await?;
    assert_eq!(read(&mut fixture, &ids[0], "/run/secrets/seen").await?, "secrets");
    let number = count_beyond(&mut fixture, &ids[0], 3).await?;
    let archive = folder(&fixture)?.join("c.tar");
    checkpoint(&mut fixture, &ids[0], &archive).await?;
    let config = v1::ContainerConfig {
        mounts: main.mounts,
        ..container("main", &archive.display().to_string(), "exit 1")
    };
    let (second, restored) = run(&mut fixture, "second", &[config]).await?;
    goes_on(&mut fixture, &restored[0], number).await?;
    for (path, dir) in [("/run/secrets", &secrets), ("/with a blank", &blank)] {
        std::fs::write(dir.join("later"), path)?;
        assert_eq!(read(&mut fixture, &restored[0], &format!("{path}/later")).await?, path);
    }
    fixture.remove(&second).await?;
    fixture.remove(&pod).await
}
