//! Other OCI runtimes as handlers, through a pod's whole life: crun, runc with a root of its own, and berth's own
//! runtime as a command. What each says that it can do is what Status tells, and what it can't do is refused.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_test::fixture::Fixture;
use berth_test::node::{Options, container_config};
use berth_test::programs::Programs;
use proto::v1;
use tonic::Code;

const RUNC: &str = "/usr/sbin/runc";
const CRUN: &str = "/usr/bin/crun";

/// crun takes a controller in the cgroup2 beside v1's hierarchies for a reason not to run, so it does not see them.
const HIDING: &str = r#"#!/bin/sh
controllers=/sys/fs/cgroup/unified/cgroup.controllers
[ -e $controllers ] || exec /usr/bin/crun "$@"
exec unshare --mount sh -c 'mount --bind /dev/null "$0" && exec /usr/bin/crun "$@"' $controllers "$@"
"#;

fn write_program(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)?;
    Ok(std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?)
}

async fn run_pod(fixture: &mut Fixture, name: &str, handler: &str) -> Result<String, tonic::Status> {
    let config = Some(fixture.pod_config(name));
    let request = v1::RunPodSandboxRequest { config, runtime_handler: handler.into() };
    Ok(fixture.client.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
}

/// A pod of a handler with one container that runs; their ids.
async fn run(
    fixture: &mut Fixture,
    name: &str,
    handler: &str,
    change: impl FnOnce(&mut v1::ContainerConfig),
) -> Result<(String, String)> {
    let pod = run_pod(fixture, name, handler).await?;
    let script = "trap 'echo told; exit 7' TERM; echo begun; while :; do sleep 0.1; done";
    let mut config = container_config("main", &fixture.image, &["sh", "-c", script]);
    change(&mut config);
    let container = fixture.client.create(&pod, &config, &fixture.pod_config(name)).await?;
    fixture.client.start(&container).await?;
    Ok((pod, container))
}

async fn says(fixture: &mut Fixture, container: &str, script: &str) -> Result<String> {
    let answer = fixture.client.exec(container, &["sh", "-c", script], 20).await?;
    Ok(String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).trim().to_owned())
}

async fn memory_limit(fixture: &mut Fixture, container: &str) -> Result<i64> {
    let resources = fixture.client.container(container).await?.resources.context("resources")?;
    Ok(resources.linux.context("of Linux")?.memory_limit_in_bytes)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn crun_makes_a_pods_containers_from_first_to_last() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (crun, root) = (dir.path().join("crun"), dir.path().join("state"));
    write_program(&crun, HIDING)?;
    let config =
        format!("[runtime.handlers.crun]\npath = \"{}\"\nroot = \"{}\"\n", crun.display(), root.display());
    let mut fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    let before = fixture.node.inventory();
    let limits = |bytes: i64| v1::LinuxContainerResources {
        memory_limit_in_bytes: bytes,
        cpu_shares: 512,
        ..Default::default()
    };
    let (pod, container) = run(&mut fixture, "by-crun", "crun", |config| {
        config.linux.get_or_insert_default().resources = Some(limits(64 << 20));
    })
    .await?;
    assert!(fixture.log_of("by-crun", 1).await.ends_with(" stdout F begun\n"));
    // Its own record is of crun's making, under the root that was given.
    let status: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.join(&container).join("status"))?)?;
    assert_eq!(status["pid"].as_i64(), Some(main_pid(&mut fixture, &container).await?), "{status}");
    let failed = fixture.client.exec(&container, &["sh", "-c", "echo out; echo err >&2; exit 3"], 20).await?;
    assert_eq!((failed.exit_code, &*failed.stdout, &*failed.stderr), (3, &b"out\n"[..], &b"err\n"[..]));

    let request = v1::ContainerStatsRequest { container_id: container.clone() };
    let stats = fixture.client.runtime.container_stats(request).await?.into_inner().stats.context("stats")?;
    let memory = stats.memory.and_then(|memory| memory.usage_bytes).context("memory")?.value;
    assert!((4096..64 << 20).contains(&memory), "{memory}");
    assert!(stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).is_some_and(|used| used.value > 0));
    assert_eq!(memory_limit(&mut fixture, &container).await?, 64 << 20);
    let request = v1::UpdateContainerResourcesRequest {
        container_id: container.clone(),
        linux: Some(limits(96 << 20)),
        ..Default::default()
    };
    fixture.client.runtime.update_container_resources(request).await?;
    assert_eq!(kernel_memory_limit(&mut fixture, &container).await?, 96 << 20);

    // The next daemon goes on with it, and a stop is heard by the process.
    fixture.restart_daemon().await?;
    assert_eq!(says(&mut fixture, &container, "echo still").await?, "still");
    fixture.client.stop(&container, 20).await?;
    let ended = fixture.client.container(&container).await?;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (7, "Error"), "{ended:?}");
    assert!(fixture.log("by-crun").ends_with(" stdout F told\n"), "{}", fixture.log("by-crun"));
    fixture.client.remove(&container).await?;
    assert!(!root.join(&container).exists(), "crun has forgotten it");

    // Out of memory is told, whoever made the container.
    let pod_config = fixture.pod_config("by-crun");
    let mut config =
        container_config("eater", &fixture.image, &["sh", "-c", "a=x; while :; do a=$a$a; done"]);
    config.linux.get_or_insert_default().resources = Some(limits(16 << 20));
    let eater = fixture.client.create(&pod, &config, &pod_config).await?;
    fixture.client.start(&eater).await?;
    let ended = fixture.client.wait_for_exit(&eater).await?;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "OOMKilled"), "{ended:?}");
    fixture.remove(&pod).await?;
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(&root)?.count(), 0, "crun's root is empty");
    Ok(())
}

/// As the host numbers it.
async fn main_pid(fixture: &mut Fixture, container: &str) -> Result<i64> {
    let request = v1::ContainerStatusRequest { container_id: container.into(), verbose: true };
    let info = fixture.client.runtime.container_status(request).await?.into_inner().info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("info")?)?;
    info["pid"].as_i64().with_context(|| format!("a pid in {info}"))
}

/// Of the container's cgroup, whichever version it is.
async fn kernel_memory_limit(fixture: &mut Fixture, container: &str) -> Result<u64> {
    let pid = main_pid(fixture, container).await?;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let v1 = cgroups.lines().find_map(|line| line.split_once(":memory:"));
    let v2 = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    let file = match (v1, v2) {
        (Some((_, path)), _) => format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"),
        (None, Some(path)) => format!("/sys/fs/cgroup{path}/memory.max"),
        (None, None) => anyhow::bail!("no cgroup of memory: {cgroups}"),
    };
    Ok(std::fs::read_to_string(&file).with_context(|| file.clone())?.trim().parse()?)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_handlers_own_root_has_its_state_and_nobody_elses() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("runc-state");
    let config = format!(
        "[runtime.handlers.apart]\npath = \"{RUNC}\"\nroot = \"{}\"\n[runtime.handlers.plain]\npath = \"{RUNC}\"\n",
        root.display()
    );
    let mut fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    let (apart, own) = run(&mut fixture, "apart", "apart", |_| {}).await?;
    let (plain, other) = run(&mut fixture, "plain", "plain", |_| {}).await?;
    let plain_root = fixture.node.run_dir().join("runtime-plain");
    assert_eq!(listed(&root)?, [(own.clone(), "running".to_owned())]);
    assert_eq!(listed(&plain_root)?, [(other.clone(), "running".to_owned())]);
    fixture.client.stop(&own, 0).await?;
    fixture.remove(&apart).await?;
    assert_eq!(listed(&root)?, []);
    assert_eq!(listed(&plain_root)?, [(other, "running".to_owned())]);
    fixture.remove(&plain).await
}

/// What runc knows under a root: ids and states.
fn listed(root: &Path) -> Result<Vec<(String, String)>> {
    let output = Command::new(RUNC).arg("--root").arg(root).args(["list", "--format", "json"]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Option<Vec<serde_json::Value>> = serde_json::from_slice(&output.stdout)?;
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(list.unwrap_or_default().iter().map(|one| (word(&one["id"]), word(&one["status"]))).collect())
}

async fn status(fixture: &mut Fixture) -> Result<v1::StatusResponse> {
    Ok(fixture.client.runtime.status(v1::StatusRequest::default()).await?.into_inner())
}

/// A handler's name, and whether it has recursive read-only mounts and users.
fn told(status: &v1::StatusResponse) -> Vec<(&str, bool, bool)> {
    let features = |it: &v1::RuntimeHandler| it.features.unwrap_or_default();
    let row = |it| (features(it).recursive_read_only_mounts, features(it).user_namespaces);
    status.runtime_handlers.iter().map(|it| (it.name.as_str(), row(it).0, row(it).1)).collect()
}

/// A pod with users of its own, and one of its volumes that belongs to them.
fn with_users(config: &mut v1::PodSandboxConfig) -> v1::IdMapping {
    let map = v1::IdMapping { host_id: 700_000, container_id: 0, length: 65_536 };
    let users = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: vec![map], gids: vec![map] };
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().userns_options = Some(users);
    map
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn what_a_handler_can_do_is_told_and_what_it_cannot_is_refused() -> Result<()> {
    let ours = Programs::built().runtime;
    let config = format!(
        "[runtime.handlers.crun]\npath = \"{CRUN}\"\n[runtime.handlers.gone]\npath = \"/nowhere/runtime\"\n\
         [runtime.handlers.ours]\npath = \"{}\"\n[runtime.handlers.runc]\npath = \"{RUNC}\"\n",
        ours.display()
    );
    let mut fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    // Of Debian 12, crun has no such command, and runc does not say that it maps the users of mounts.
    let crun = said_by(CRUN);
    let runc = said_by(RUNC);
    let expected = [
        ("", true, true),
        ("berth", true, true),
        ("crun", crun.0, crun.1),
        ("ours", true, true),
        ("runc", runc.0, runc.1),
    ];
    assert_eq!(told(&status(&mut fixture).await?), expected);
    assert!(runc.0, "runc has had recursive read-only mounts since 1.1");

    let refused = run_pod(&mut fixture, "gone", "gone").await.expect_err("no program");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("/nowhere/runtime"), "{refused:?}");

    let volume = tempfile::tempdir()?;
    let below = volume.path().join("below");
    std::fs::create_dir(&below)?;
    let _mounted = Mounted::tmpfs(&below)?;
    let read_only = v1::Mount {
        host_path: volume.path().display().to_string(),
        container_path: "/volume".into(),
        readonly: true,
        recursive_read_only: true,
        ..Default::default()
    };
    for (handler, can) in [("crun", crun.0), ("ours", true), ("runc", true)] {
        let pod = run_pod(&mut fixture, &format!("rro-{handler}"), handler).await?;
        let mut config = container_config("main", &fixture.image, &["sleep", "1000"]);
        config.mounts = vec![read_only.clone()];
        let pod_config = fixture.pod_config(&format!("rro-{handler}"));
        match fixture.client.create(&pod, &config, &pod_config).await {
            Ok(container) => {
                assert!(can, "{handler} was let make what it can't");
                fixture.client.start(&container).await?;
                let wrote = says(&mut fixture, &container, "echo x > /volume/below/file").await?;
                assert!(wrote.contains("Read-only file system"), "{handler}: {wrote}");
            }
            Err(refused) => {
                assert!(!can, "{handler}: {refused:?}");
                assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
                assert!(refused.message().contains("RROUnsupported"), "{refused:?}");
            }
        }
        fixture.remove(&pod).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_pod_with_users_of_its_own_is_made_by_a_handler_that_can() -> Result<()> {
    let ours = Programs::built().runtime;
    let config = format!(
        "[runtime.handlers.ours]\npath = \"{}\"\n[runtime.handlers.crun]\npath = \"{CRUN}\"\n",
        ours.display()
    );
    let mut fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    let volume = tempfile::tempdir()?;
    std::fs::write(volume.path().join("of-root"), "")?;
    let mut pod_config = fixture.pod_config("users");
    let map = with_users(&mut pod_config);
    let asked = |handler: &str| v1::RunPodSandboxRequest {
        config: Some(pod_config.clone()),
        runtime_handler: handler.into(),
    };
    if !said_by(CRUN).1 {
        let refused = fixture.client.runtime.run_pod_sandbox(asked("crun")).await.expect_err("it can't");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("userns_options"), "{refused:?}");
    }
    let pod = fixture.client.runtime.run_pod_sandbox(asked("ours")).await?.into_inner().pod_sandbox_id;
    let script =
        "cat /proc/self/uid_map; stat -c %u:%g /bin /volume/of-root; touch /new /volume/new && echo made";
    let mut config = container_config("main", &fixture.image, &["sh", "-c", script]);
    config.mounts = vec![v1::Mount {
        host_path: volume.path().display().to_string(),
        container_path: "/volume".into(),
        uid_mappings: vec![map],
        gid_mappings: vec![map],
        ..Default::default()
    }];
    let namespace_options = pod_config.linux.clone().unwrap_or_default().security_context;
    config.linux.get_or_insert_default().security_context = Some(v1::LinuxContainerSecurityContext {
        namespace_options: namespace_options.and_then(|security| security.namespace_options),
        ..Default::default()
    });
    let container = fixture.client.create(&pod, &config, &pod_config).await?;
    fixture.client.start(&container).await?;
    assert_eq!(fixture.client.wait_for_exit(&container).await?.exit_code, 0);
    let log = fixture.log("users");
    let lines: Vec<&str> = log.lines().filter_map(|line| line.split(" F ").nth(1)).collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["0", "700000", "65536"], "{log}");
    assert_eq!(lines[1..], ["0:0", "0:0", "made"], "the layers and the volume show the pod's root: {log}");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(volume.path().join("new"))?.uid(), 0, "the volume keeps the host's ids");
    fixture.remove(&pod).await
}

/// What a runtime's own command says, read here by other means than the daemon's.
fn said_by(program: &str) -> (bool, bool) {
    let output = Command::new(program).arg("features").output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let said: serde_json::Value = serde_json::from_slice(&text.unwrap_or_default()).unwrap_or_default();
    let has_rro = said["mountOptions"].as_array().is_some_and(|all| all.iter().any(|one| one == "rro"));
    (has_rro, said["linux"]["mountExtensions"]["idmap"]["enabled"] == true)
}

/// A tmpfs, gone when dropped.
struct Mounted<'a>(&'a Path);

impl Mounted<'_> {
    fn tmpfs(path: &Path) -> Result<Mounted<'_>> {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, None)?;
        Ok(Mounted(path))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// How Status has it that containers can be made: whether, the reason and the message.
async fn runtime_ready(fixture: &mut Fixture) -> Result<(bool, String, String)> {
    let conditions = status(fixture).await?.status.unwrap_or_default().conditions;
    let ready = conditions.into_iter().find(|it| it.r#type == "RuntimeReady").context("RuntimeReady")?;
    Ok((ready.status, ready.reason, ready.message))
}

async fn until_ready_is(fixture: &mut Fixture, wanted: bool) -> Result<()> {
    let begun = Instant::now();
    while runtime_ready(fixture).await?.0 != wanted {
        ensure!(begun.elapsed() < Duration::from_secs(15), "RuntimeReady is not {wanted}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_node_that_can_make_no_container_says_so_until_it_can() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("runc");
    let config = format!(
        "[runtime]\ndefault_handler = \"soon\"\n[runtime.handlers.soon]\npath = \"{}\"\n",
        program.display()
    );
    let mut fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    let (ready, reason, message) = runtime_ready(&mut fixture).await?;
    assert_eq!((ready, reason.as_str()), (false, "RuntimeMissing"), "{message}");
    assert!(message.contains("soon") && message.contains(&program.display().to_string()), "{message}");
    let refused = run_pod(&mut fixture, "early", "").await.expect_err("no program");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    // The same node makes pods of a handler that is there.
    let other = run_pod(&mut fixture, "other", "berth").await?;
    fixture.remove(&other).await?;

    std::fs::copy(RUNC, &program)?;
    until_ready_is(&mut fixture, true).await?;
    let (pod, container) = run(&mut fixture, "late", "", |_| {}).await?;
    assert_eq!(says(&mut fixture, &container, "echo well").await?, "well");
    fixture.remove(&pod).await?;
    std::fs::remove_file(&program)?;
    until_ready_is(&mut fixture, false).await?;

    let (config_file, good) = (fixture.node.config_file(), Programs::built().conmon);
    let text = std::fs::read_to_string(&config_file)?.replace("\"soon\"", "\"berth\"");
    for (monitor, words) in [("/bin/false", "ended with"), ("/bin/echo", "no berth-conmon")] {
        std::fs::write(&config_file, text.replace(&good.display().to_string(), monitor))?;
        fixture.restart_daemon().await?;
        let (ready, reason, message) = runtime_ready(&mut fixture).await?;
        assert_eq!((ready, reason.as_str()), (false, "MonitorUnusable"), "{message}");
        assert!(message.contains(monitor) && message.contains(words), "{message}");
    }
    std::fs::write(&config_file, text)?;
    fixture.restart_daemon().await?;
    assert_eq!(runtime_ready(&mut fixture).await?, (true, String::new(), String::new()));
    Ok(())
}
