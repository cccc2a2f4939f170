//! Pods of several handlers side by side on one node: berth's own runtime for those that are trusted, another one with a
//! tighter filter and other rules for those that are not.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::path::Path;

use anyhow::Result;
use berth_test::fixture::Fixture;
use berth_test::node::{Options, container_config};
use proto::v1;
use tonic::Code;

const RUNC: &str = "/usr/sbin/runc";

/// A pod of a handler with one container that runs; their ids.
async fn run(fixture: &mut Fixture, name: &str, handler: &str) -> Result<(String, String)> {
    let pod_config = fixture.pod_config(name);
    let request =
        v1::RunPodSandboxRequest { config: Some(pod_config.clone()), runtime_handler: handler.into() };
    let pod = fixture.client.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
    let mut config = container_config("main", &fixture.image, &["sh", "-c", "echo begun; exec sleep 1000"]);
    config.linux.get_or_insert_default().security_context = Some(v1::LinuxContainerSecurityContext {
        seccomp: Some(v1::SecurityProfile::default()),
        ..Default::default()
    });
    let container = fixture.client.create(&pod, &config, &pod_config).await?;
    fixture.client.start(&container).await?;
    Ok((pod, container))
}

async fn says(fixture: &mut Fixture, container: &str, script: &str) -> Result<String> {
    let answer = fixture.client.exec(container, &["sh", "-c", script], 20).await?;
    Ok(String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn trusted_and_untrusted_pods_live_side_by_side() -> Result<()> {
    let profile_dir = tempfile::tempdir()?;
    let profile = profile_dir.path().join("untrusted.json");
    // All but one call, so that it is seen whose filter a container has.
    let filter = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]});
    std::fs::write(&profile, filter.to_string())?;
    let config = format!(
        "[runtime.handlers.untrusted]\npath = \"{RUNC}\"\nseccomp_profile = \"{}\"\nmonitor_cgroup = \"pod\"\n",
        profile.display()
    );
    let mut fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    let before = fixture.node.inventory();
    let (trusted, own) = run(&mut fixture, "trusted", "").await?;
    let (untrusted, other) = run(&mut fixture, "untrusted", "untrusted").await?;
    for (name, container, may_make) in [("trusted", &own, true), ("untrusted", &other, false)] {
        assert!(fixture.log_of(name, 1).await.ends_with(" stdout F begun\n"), "{name}");
        let made = says(&mut fixture, container, "mkdir /made && echo made").await?;
        assert_eq!(made == "made", may_make, "{name}: {made}");
        let ip = fixture.client.pod(if may_make { &trusted } else { &untrusted }).await?;
        assert!(ip.network.is_some_and(|network| network.ip.starts_with("10.")), "{name}");
    }
    assert_eq!(fixture.client.pod(&untrusted).await?.runtime_handler, "untrusted");
    assert_eq!(fixture.client.pod(&trusted).await?.runtime_handler, "");
    let status = fixture.client.runtime.status(v1::StatusRequest::default()).await?.into_inner();
    let handlers: Vec<&str> = status.runtime_handlers.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(handlers, ["", "berth", "untrusted"]);

    let config = Some(fixture.pod_config("unknown"));
    let request = v1::RunPodSandboxRequest { config, runtime_handler: "nobody".into() };
    let refused = fixture.client.runtime.run_pod_sandbox(request).await.expect_err("an unknown handler");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("nobody"), "{refused:?}");

    fixture.remove(&untrusted).await?;
    assert!(says(&mut fixture, &own, "echo still").await? == "still");
    fixture.remove(&trusted).await?;
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    Ok(())
}

/// The monitor's cgroup in the hierarchy of memory, or in the only one.
fn cgroup_of_monitor(fixture: &Fixture, pod: &str) -> String {
    let monitor = fixture.node.monitor_of(pod).expect("the pod's monitor").as_raw_nonzero();
    let cgroups = std::fs::read_to_string(format!("/proc/{monitor}/cgroup")).unwrap_or_default();
    let of =
        |line: &str| line.split_once(":memory:").or(line.split_once("::")).map(|(_, path)| path.to_owned());
    cgroups
        .lines()
        .filter(|line| line.contains(":memory:"))
        .chain(cgroups.lines())
        .find_map(of)
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_monitor_lives_in_the_cgroup_that_its_handler_names() -> Result<()> {
    let named = Removed(format!("/berth-test-monitors-{}", std::process::id()));
    let Removed(named_path) = &named;
    let config = format!(
        "[runtime.handlers.in-pod]\npath = \"{RUNC}\"\nmonitor_cgroup = \"pod\"\n\
         [runtime.handlers.named]\npath = \"{RUNC}\"\nmonitor_cgroup = \"{named_path}\"\n"
    );
    let mut fixture = Fixture::with(Options { config, ..Options::default() }).await?;
    let own = format!("{}/", fixture.node.cgroup());
    let daemons = cgroup_of_daemon();
    for (handler, expected) in
        [("", daemons.as_str()), ("in-pod", own.trim_end_matches('/')), ("named", named_path)]
    {
        let (pod, container) = run(&mut fixture, &format!("cg-{handler}"), handler).await?;
        assert_eq!(cgroup_of_monitor(&fixture, &pod), expected, "handler {handler:?}");
        assert_eq!(says(&mut fixture, &container, "echo well").await?, "well");
        fixture.remove(&pod).await?;
    }
    Ok(())
}

/// A cgroup that monitors make for themselves and leave empty; removed in all hierarchies, also when the test fails.
struct Removed(String);

impl Drop for Removed {
    fn drop(&mut self) {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([root.to_owned()]) {
            let _ = std::fs::remove_dir(hierarchy.join(self.0.trim_start_matches('/')));
        }
    }
}

/// Monitors that nobody puts anywhere stay where the daemon is, as this test is.
fn cgroup_of_daemon() -> String {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let memory = cgroups.lines().find_map(|line| line.split_once(":memory:"));
    memory.or(cgroups.split_once("::")).map(|(_, path)| path.trim().to_owned()).unwrap_or_default()
}
