//! Plugins of the Node Resource Interface: a program over containerd's own stub (`test/nri-plugin`), and hostile peers.
//!
//! What critest's specs about NRI ask for is here too: order and words of events, nothing to be seen of what a hook has
//! not let pass, a failing hook that leaves nothing, plugins in their order, synchronization, and pods' limits.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use berth_test::fixture::Fixture;
use berth_test::node::{Options, container_config};
use berth_test::tools::build_nri_plugin;
use proto::v1;
use serde_json::{Value, json};

/// How long an event may take to be heard.
const PATIENCE: Duration = Duration::from_secs(30);

/// A plugin, the file with its rules, and what it has heard.
struct Plugin {
    process: Child,
    rules: PathBuf,
    log: PathBuf,
}

impl Plugin {
    /// Starts it and waits until it is synchronized.
    async fn start(fixture: &Fixture, index: &str, name: &str, rules: Value) -> Result<Plugin> {
        let plugin = Plugin::spawn(fixture, index, name, rules)?;
        plugin.wait(|event| event["event"] == "Synchronize").await?;
        Ok(plugin)
    }

    fn spawn(fixture: &Fixture, index: &str, name: &str, rules: Value) -> Result<Plugin> {
        let dir = fixture.node.dir();
        let (path, log) = (dir.join(format!("{name}.rules")), dir.join(format!("{name}.heard")));
        write_rules(&path, &log, rules)?;
        let process = Command::new(build_nri_plugin()?)
            .args(["-name", name, "-idx", index, "-socket"])
            .arg(dir.join("nri.sock"))
            .arg("-rules")
            .arg(&path)
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Plugin { process, rules: path, log })
    }

    fn set(&self, rules: Value) -> Result<()> {
        write_rules(&self.rules, &self.log, rules)
    }

    fn heard(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The names of the events of one pod or container.
    fn events_of(&self, id: &str) -> Vec<String> {
        let about = |event: &Value| {
            event["container_id"] == id || (event["pod_id"] == id && event["container_id"] == "")
        };
        let all = self.heard().into_iter().filter(about);
        all.map(|event| event["event"].as_str().unwrap_or_default().to_owned()).collect()
    }

    async fn wait(&self, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        let start = Instant::now();
        loop {
            if let Some(event) = self.heard().into_iter().find(&is_it) {
                return Ok(event);
            }
            ensure!(start.elapsed() < PATIENCE, "not heard; what was: {:#?}", self.heard());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wait_for(&self, name: &str, id: &str) -> Result<Value> {
        self.wait(|event| event["event"] == name && (event["container_id"] == id || event["pod_id"] == id))
            .await
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Replaced as a whole, since the plugin reads it at any time.
fn write_rules(path: &Path, log: &Path, mut rules: Value) -> Result<()> {
    rules["log"] = json!(log);
    let new = path.with_extension("new");
    std::fs::write(&new, rules.to_string())?;
    Ok(std::fs::rename(new, path)?)
}

/// A node that waits for plugins longer than a busy machine keeps them.
async fn patient() -> Result<Fixture> {
    Fixture::with(Options { nri: "request_timeout_ms = 20000\n".into(), ..Options::default() }).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn plugins_hear_of_a_pods_whole_life_in_order() -> Result<()> {
    let mut fixture = patient().await?;
    let plugin = Plugin::start(&fixture, "00", "logger", json!({})).await?;
    let (pod, container) = fixture.run("told", &["sleep", "1000"]).await?;
    fixture.client.stop(&container, 0).await?;
    fixture.client.remove(&container).await?;
    fixture.remove(&pod).await?;
    plugin.wait_for("RemovePodSandbox", &pod).await?;
    assert_eq!(plugin.events_of(&pod), ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]);
    let expected = [
        "CreateContainer",
        // Not told of adjustments: who judges them is asked beside.
        "ValidateContainerAdjustment",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
        "StopContainer",
        "RemoveContainer",
    ];
    assert_eq!(plugin.events_of(&container), expected);
    let run = plugin.wait_for("RunPodSandbox", &pod).await?;
    let told = &run["message"];
    assert_eq!((told["name"].as_str(), told["namespace"].as_str()), (Some("told"), Some("test")));
    assert_eq!(told["uid"], "told-uid");
    assert!(told["ips"][0].as_str().is_some_and(|ip| ip.starts_with("10.")), "{told:#}");
    let create = plugin.wait_for("CreateContainer", &container).await?;
    assert_eq!(create["container"], "main");
    assert_eq!(create["message"]["args"], json!(["sleep", "1000"]));
    let mounts = create["message"]["mounts"].as_array().cloned().unwrap_or_default();
    assert!(mounts.iter().any(|mount| mount["destination"] == "/proc"), "{mounts:#?}");
    let started = plugin.wait_for("PostStartContainer", &container).await?;
    assert!(started["message"]["pid"].as_u64().is_some_and(|pid| pid > 1), "{started:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn the_end_of_a_container_is_told_when_it_ends_by_itself() -> Result<()> {
    let mut fixture = patient().await?;
    let plugin = Plugin::start(&fixture, "00", "logger", json!({})).await?;
    let (pod, container) = fixture.run("fails", &["sh", "-c", "exit 7"]).await?;
    let stop = plugin.wait_for("StopContainer", &container).await?;
    assert_eq!(stop["exit_code"], 7);
    // A pod that is removed with all in it.
    fixture.client.stop_pod(&pod).await?;
    fixture.client.stop_pod(&pod).await?;
    fixture.client.remove_pod(&pod).await?;
    plugin.wait_for("RemovePodSandbox", &pod).await?;
    assert_eq!(plugin.events_of(&pod), ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]);
    let events = plugin.events_of(&container);
    assert_eq!(events[events.len() - 2..], ["StopContainer", "RemoveContainer"]);
    assert_eq!(events.iter().filter(|event| *event == "StopContainer").count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_container_becomes_what_plugins_want() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let options = Options {
        nri: "request_timeout_ms = 20000\n".into(),
        config: format!("[container]\ncdi_spec_dirs = [\"{}/cdi\"]\n", dir.path().display()),
        ..Options::default()
    };
    let mut fixture = Fixture::with(options).await?;
    std::fs::create_dir(dir.path().join("cdi"))?;
    let device = json!({"cdiVersion": "0.6.0", "kind": "vendor.com/card", "devices": [
        {"name": "0", "containerEdits": {"env": ["CARD=zero"]}}]});
    std::fs::write(dir.path().join("cdi/card.json"), device.to_string())?;
    std::fs::write(dir.path().join("given"), "by a plugin")?;
    let hook = dir.path().join("hook.sh");
    std::fs::write(&hook, format!("#!/bin/sh\ncat > {}/hooked\n", dir.path().display()))?;
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let adjust = json!({
        "env": [{"key": "ADDED", "value": "1"}, {"key": "-GONE"}],
        "mounts": [{"destination": "/given", "type": "bind", "source": dir.path(), "options": ["rbind", "ro"]}],
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 333, "soft": 222}],
        "hooks": {"createRuntime": [{"path": hook}]},
        "annotations": {"told.example": "yes"},
        "CDIDevices": [{"name": "vendor.com/card=0"}],
        "linux": {
            "devices": [{"path": "/dev/injected", "type": "c", "major": 1, "minor": 5, "fileMode": {"value": 438}}],
            "resources": {"cpu": {"shares": {"value": 333}}, "memory": {"limit": {"value": 67108864}}},
            "oomScoreAdj": {"value": 321},
            "sysctl": {"net.ipv4.ip_default_ttl": "77"}
        }
    });
    let one =
        Plugin::start(&fixture, "10", "adjuster", json!({"container": "main", "adjust": adjust})).await?;
    let args = json!({"args": ["sh", "-c", "echo $ADDED-$GONE-$PLAIN-$CARD; ulimit -n; cat /given/given; echo; \
        head -c 3 /dev/injected | wc -c; cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_default_ttl; \
        echo x > /given/x || echo read-only; sleep 1000"]});
    let two = Plugin::start(&fixture, "20", "args", json!({"adjust": args})).await?;
    let mut config = container_config("main", &fixture.image, &["sleep", "1"]);
    config.envs = ["GONE", "PLAIN"].map(|key| v1::KeyValue { key: key.into(), value: "0".into() }).to_vec();
    let (pod, container) = fixture.run_with("adjusted", config).await?;
    let log = fixture.log_of("adjusted", 8).await;
    for line in ["1--0-zero", "222", "by a plugin", " 3", "321", "77", "read-only"] {
        assert!(log.contains(line), "{line} is missing in\n{log}");
    }
    assert!(std::fs::read_to_string(dir.path().join("hooked"))?.contains(&container), "the hook ran");
    let status = fixture.client.container(&container).await?;
    let limits = status.resources.and_then(|resources| resources.linux).unwrap_or_default();
    assert_eq!((limits.cpu_shares, limits.memory_limit_in_bytes), (333, 64 << 20));
    // The second plugin saw what the first had wished, and both who owns what.
    let seen = two.wait_for("CreateContainer", &container).await?;
    let env = seen["message"]["env"].to_string();
    assert!(env.contains("ADDED=1") && !env.contains("GONE"), "{env}");
    let judged = one.wait_for("ValidateContainerAdjustment", &container).await?;
    let owners = judged["owners"].to_string();
    assert!(owners.contains("10-adjuster") && owners.contains("20-args"), "{owners}");
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn two_plugins_that_want_the_same_are_named_and_nothing_is_left() -> Result<()> {
    let mut fixture = patient().await?;
    let set = |value: &str| json!({"adjust": {"env": [{"key": "A", "value": value}]}});
    let one = Plugin::start(&fixture, "10", "one", set("1")).await?;
    let two = Plugin::start(&fixture, "20", "two", set("2")).await?;
    let pod_config = fixture.pod_config("conflict");
    let pod = fixture.client.run_pod(&pod_config).await?;
    let before = fixture.node.inventory();
    let config = container_config("main", &fixture.image, &["sleep", "1000"]);
    let refused = fixture.client.create(&pod, &config, &pod_config).await.expect_err("a conflict");
    let words = refused.message().to_owned();
    assert!(words.contains("10-one") && words.contains("20-two") && words.contains("Env \"A\""), "{words}");
    // What was told of is told to be gone.
    let gone = one.wait(|event| event["event"] == "RemoveContainer").await?;
    let create = one.wait(|event| event["event"] == "CreateContainer").await?;
    assert_eq!(gone["container_id"], create["container_id"]);
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());

    // One who takes the other's away first may set it.
    two.set(json!({"adjust": {"env": [{"key": "-A"}, {"key": "A", "value": "2"}]}}))?;
    let container = fixture.client.create(&pod, &config, &pod_config).await?;
    fixture.client.start(&container).await?;
    let env = fixture.client.exec(&container, &["sh", "-c", "echo $A"], 10).await?;
    assert_eq!(text(&env.stdout), "2\n");

    // A judge has the last word.
    two.set(json!({"reject": "not on my node"}))?;
    let other = container_config("other", &fixture.image, &["sleep", "1000"]);
    let refused = fixture.client.create(&pod, &other, &pod_config).await.expect_err("a rejection");
    assert!(
        refused.message().contains("not on my node") && refused.message().contains("20-two"),
        "{refused:?}"
    );
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn nothing_is_seen_of_what_a_hook_has_not_let_pass() -> Result<()> {
    let mut fixture = patient().await?;
    let slow = json!({"slow_ms": {"RunPodSandbox": 1500, "CreateContainer": 1500, "StopPodSandbox": 1500}});
    let plugin = Plugin::start(&fixture, "00", "slow", slow).await?;
    let pod_config = fixture.pod_config("hidden");
    let mut client = fixture.node.client().await?;
    let config = pod_config.clone();
    let making = tokio::spawn(async move { client.run_pod(&config).await });
    let run = plugin.wait(|event| event["event"] == "RunPodSandbox").await?;
    let id = run["pod_id"].as_str().unwrap_or_default().to_owned();
    let list =
        fixture.client.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.into_inner();
    assert!(list.items.iter().all(|pod| pod.id != id), "listed while its hook runs");
    assert!(fixture.client.pod(&id).await.is_err(), "has a status while its hook runs");
    let main = container_config("main", &fixture.image, &["sleep", "1000"]);
    assert!(
        fixture.client.create(&id, &main, &pod_config).await.is_err(),
        "takes a container while its hook runs"
    );
    assert!(!making.is_finished(), "the pod did not wait for its hook");
    let pod = making.await??;
    assert_eq!(pod, id);

    let (mut client, config, of) = (fixture.node.client().await?, main.clone(), pod_config.clone());
    let making = tokio::spawn(async move { client.create(&id, &config, &of).await });
    let create = plugin.wait(|event| event["event"] == "CreateContainer").await?;
    let container_id = create["container_id"].as_str().unwrap_or_default().to_owned();
    assert!(fixture.client.container(&container_id).await.is_err(), "has a status while its hook runs");
    let container = making.await??;
    assert_eq!(container, container_id);
    fixture.client.start(&container).await?;

    let (mut client, id) = (fixture.node.client().await?, pod.clone());
    let stopping = tokio::spawn(async move { client.stop_pod(&id).await });
    plugin.wait_for("StopPodSandbox", &pod).await?;
    let status = fixture.client.container(&container).await?;
    assert_eq!(
        status.state(),
        v1::ContainerState::ContainerExited,
        "the hook ran before the containers ended"
    );
    assert_eq!(fixture.client.pod(&pod).await?.id, pod);
    assert!(!stopping.is_finished(), "the stop did not wait for its hook");
    stopping.await??;
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_hook_that_fails_fails_its_call_and_nothing_else() -> Result<()> {
    let mut fixture = patient().await?;
    let plugin =
        Plugin::start(&fixture, "00", "failing", json!({"fail": {"RunPodSandbox": "no pods today"}})).await?;
    let before = fixture.node.inventory();
    let pod_config = fixture.pod_config("refused");
    let refused = fixture.client.run_pod(&pod_config).await.expect_err("the hook fails");
    assert!(
        refused.message().contains("no pods today") && refused.message().contains("00-failing"),
        "{refused:?}"
    );
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());
    plugin.wait(|event| event["event"] == "RemovePodSandbox").await?;

    plugin.set(json!({"fail": {"CreateContainer": "no containers today"}}))?;
    let pod = fixture.client.run_pod(&pod_config).await?;
    let config = container_config("main", &fixture.image, &["sleep", "1000"]);
    let refused = fixture.client.create(&pod, &config, &pod_config).await.expect_err("the hook fails");
    assert!(refused.message().contains("no containers today"), "{refused:?}");
    let list =
        fixture.client.runtime.list_containers(v1::ListContainersRequest::default()).await?.into_inner();
    assert!(list.items.is_empty(), "{list:?}");

    plugin.set(json!({"fail": {"StartContainer": "not yet"}}))?;
    let container = fixture.client.create(&pod, &config, &pod_config).await?;
    let refused = fixture.client.start(&container).await.expect_err("the hook fails");
    assert!(refused.message().contains("not yet"), "{refused:?}");
    // What has happened can't be refused.
    let fail = json!({"StopContainer": "no", "RemoveContainer": "no", "StopPodSandbox": "no", "RemovePodSandbox": "no"});
    plugin.set(json!({"fail": fail}))?;
    fixture.client.start(&container).await?;
    fixture.client.stop(&container, 0).await?;
    fixture.client.remove(&container).await?;
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn limits_change_as_plugins_wish_and_pods_limits_only_if_they_agree() -> Result<()> {
    let mut fixture = patient().await?;
    let plugin = Plugin::start(&fixture, "00", "limits", json!({})).await?;
    let (other_pod, other) = fixture.run("other", &["sleep", "1000"]).await?;
    let (pod, container) = fixture.run("limited", &["sleep", "1000"]).await?;
    let shares = |id: &str, value: u64| {
        json!({"containerId": id,
        "linux": {"resources": {"cpu": {"shares": {"value": value}}, "pids": {"limit": 50}}}})
    };
    plugin.set(json!({"updates": {"UpdateContainer": [shares(&container, 444), shares(&other, 555)]}}))?;
    let linux = Some(v1::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() });
    let request =
        v1::UpdateContainerResourcesRequest { container_id: container.clone(), linux, ..Default::default() };
    fixture.client.runtime.update_container_resources(request).await?;
    let told = plugin.wait_for("UpdateContainer", &container).await?;
    assert_eq!(told["resources"]["memory"]["limit"]["value"], "67108864");
    for (id, memory, cpu_shares) in [(&container, 64 << 20, 444), (&other, 0, 555)] {
        let status = fixture.client.container(id).await?;
        let limits = status.resources.and_then(|resources| resources.linux).unwrap_or_default();
        assert_eq!((limits.memory_limit_in_bytes, limits.cpu_shares), (memory, cpu_shares));
    }
    let after = plugin.wait_for("PostUpdateContainer", &container).await?;
    assert_eq!(after["message"]["linux"]["resources"]["cpu"]["shares"]["value"], "444");

    // Asked for by the plugin alone; one of a container that is not there fails, and is told.
    let ask = json!({"update": [shares(&container, 666), shares("nobody", 1)]});
    let (new, asked) = (plugin.rules.with_extension("asknew"), plugin.rules.with_extension("rules.ask"));
    std::fs::write(&new, ask.to_string())?;
    std::fs::rename(new, asked)?;
    let outcome = plugin.wait(|event| event["event"] == "Asked").await?;
    assert_eq!((&outcome["failed"], &outcome["error"]), (&json!(1), &json!("")));
    let status = fixture.client.container(&container).await?;
    let limits = status.resources.and_then(|resources| resources.linux).unwrap_or_default();
    assert_eq!(limits.cpu_shares, 666);

    let pod_limits = |cpu_shares| v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.clone(),
        overhead: Some(v1::LinuxContainerResources { cpu_shares: 20, ..Default::default() }),
        resources: Some(v1::LinuxContainerResources { cpu_shares, ..Default::default() }),
    };
    plugin.set(json!({"fail": {"UpdatePodSandbox": "too much"}}))?;
    let refused =
        fixture.client.runtime.update_pod_sandbox_resources(pod_limits(700)).await.expect_err("refused");
    assert!(refused.message().contains("too much"), "{refused:?}");
    plugin.set(json!({"fail": {"PostUpdatePodSandbox": "too late"}}))?;
    fixture.client.runtime.update_pod_sandbox_resources(pod_limits(512)).await?;
    let told = plugin.wait_for("PostUpdatePodSandbox", &pod).await?;
    assert_eq!(told["message"]["linux"]["podResources"]["cpu"]["shares"]["value"], "512");
    assert_eq!(told["message"]["linux"]["podOverhead"]["cpu"]["shares"]["value"], "20");
    assert_eq!(plugin.events_of(&pod).iter().filter(|event| *event == "PostUpdatePodSandbox").count(), 1);
    fixture.remove(&pod).await?;
    fixture.remove(&other_pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_plugin_that_comes_late_hears_of_all_there_is_and_misses_nothing() -> Result<()> {
    let mut fixture = patient().await?;
    let (pod, container) = fixture.run("early", &["sleep", "1000"]).await?;
    // Containers are made while it is synchronized.
    let late = Plugin::spawn(&fixture, "50", "late", json!({"slow_ms": {"Synchronize": 1500}}))?;
    let synchronized = late.wait(|event| event["event"] == "Synchronize").await?;
    let pod_config = fixture.pod_config("early");
    let config = container_config("meanwhile", &fixture.image, &["sleep", "1000"]);
    let meanwhile = fixture.client.create(&pod, &config, &pod_config).await?;
    assert_eq!(synchronized["pods"], json!([pod]));
    assert_eq!(synchronized["containers"], json!([container]));
    late.wait_for("CreateContainer", &meanwhile).await?;

    // It is heard after the one before it, whoever came first.
    let early = Plugin::start(&fixture, "10", "early", json!({})).await?;
    let config = container_config("after", &fixture.image, &["sleep", "1000"]);
    let after = fixture.client.create(&pod, &config, &pod_config).await?;
    let at = |event: Value| event["at_ns"].as_u64().unwrap_or_default();
    let (first, second) =
        (early.wait_for("CreateContainer", &after).await?, late.wait_for("CreateContainer", &after).await?);
    assert!(at(first) < at(second));

    // Containers outlive the daemon, and plugins that come again hear of them.
    drop((early, late));
    fixture.restart_daemon().await?;
    let again = Plugin::start(&fixture, "10", "again", json!({})).await?;
    let synchronized = again.wait(|event| event["event"] == "Synchronize").await?;
    let mut containers: Vec<&str> =
        synchronized["containers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut expected = [container.as_str(), &meanwhile, &after];
    containers.sort_unstable();
    expected.sort_unstable();
    assert_eq!(containers, expected);
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_plugin_that_hangs_or_dies_is_left_behind() -> Result<()> {
    let options = Options { nri: "request_timeout_ms = 4000\n".into(), ..Options::default() };
    let mut fixture = Fixture::with(options).await?;
    let hanging =
        Plugin::start(&fixture, "10", "hanging", json!({"slow_ms": {"RunPodSandbox": 600_000}})).await?;
    let mut dying = Plugin::start(&fixture, "20", "dying", json!({})).await?;
    let began = Instant::now();
    let pod = fixture.client.run_pod(&fixture.pod_config("one")).await?;
    assert!(began.elapsed() >= Duration::from_secs(4), "the hook was not waited for");
    dying.wait_for("RunPodSandbox", &pod).await?;
    dying.process.kill()?;
    dying.process.wait()?;
    let began = Instant::now();
    let other = fixture.client.run_pod(&fixture.pod_config("two")).await?;
    assert_eq!(hanging.events_of(&other), Vec::<String>::new(), "it was cut off, and is asked no more");
    assert!(fixture.node.log().contains("NRI plugin 10-hanging is cut off"), "{}", fixture.node.log());
    println!("a pod after both are gone took {:?}", began.elapsed());
    fixture.remove(&pod).await?;
    fixture.remove(&other).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_plugin_in_the_directory_is_started_configured_and_killed() -> Result<()> {
    let mut fixture = patient().await?;
    let dir = fixture.node.dir().to_path_buf();
    for name in ["nri/plugins", "nri/conf.d"] {
        std::fs::create_dir_all(dir.join(name))?;
    }
    std::fs::copy(build_nri_plugin()?, dir.join("nri/plugins/05-resident"))?;
    let (rules, log) = (dir.join("resident.rules"), dir.join("resident.heard"));
    std::fs::write(dir.join("nri/conf.d/05-resident.conf"), rules.display().to_string())?;
    write_rules(&rules, &log, json!({"fail": {"RunPodSandbox": "resident says no"}}))?;
    std::os::unix::fs::symlink("/bin/true", dir.join("nri/plugins/06-broken"))?;
    fixture.restart_daemon().await?;
    // The very first pod is asked about.
    let refused = fixture.client.run_pod(&fixture.pod_config("first")).await.expect_err("refused");
    assert!(
        refused.message().contains("05-resident") && refused.message().contains("resident says no"),
        "{refused:?}"
    );
    assert!(fixture.node.log().contains("NRI plugin 06-broken is killed"), "{}", fixture.node.log());
    let heard = std::fs::read_to_string(&log)?;
    assert!(heard.contains("\"Configure\"") && heard.contains("berth"), "{heard}");
    let running = || {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let named = |exe: PathBuf| exe.ends_with("nri/plugins/05-resident") && exe.starts_with(&dir);
        processes.filter(|entry| std::fs::read_link(entry.path().join("exe")).is_ok_and(named)).count()
    };
    assert_eq!(running(), 1);
    fixture.node.kill_daemon();
    let start = Instant::now();
    while running() > 0 {
        ensure!(start.elapsed() < PATIENCE, "the plugin outlives its daemon");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::remove_dir_all(dir.join("nri"))?;
    fixture.node.start_daemon().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn hostile_peers_end_themselves_only() -> Result<()> {
    let options = Options {
        nri: "registration_timeout_ms = 3000\nrequest_timeout_ms = 20000\n".into(),
        ..Options::default()
    };
    let mut fixture = Fixture::with(options).await?;
    let good = Plugin::start(&fixture, "10", "good", json!({})).await?;
    let socket = fixture.node.dir().join("nri.sock");
    let hostile: [&[u8]; 5] = [
        // An unknown conversation, a giant frame, a giant message, an answer to nothing, noise.
        &[0, 0, 0, 9, 0, 0, 0, 1, 1],
        &[0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 2, 0, 0, 0, 10, 0xff, 0, 0, 0, 0, 0, 0, 1, 1, 0],
        &[0, 0, 0, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0],
        &[0x47; 4096],
    ];
    for bytes in hostile {
        let mut peer = UnixStream::connect(&socket)?;
        peer.set_read_timeout(Some(Duration::from_secs(2)))?;
        peer.write_all(bytes)?;
        let mut answer = [0; 64];
        let ended = std::io::Read::read(&mut peer, &mut answer);
        ensure!(
            matches!(ended, Ok(0)) || ended.as_ref().is_err_and(|e| e.raw_os_error() == Some(104)),
            "it is still talked to after {:?}: {ended:?}",
            &bytes[..bytes.len().min(18)]
        );
    }
    // Many who say nothing: as many as there are places are waited for, and no longer than their time.
    let silent: Vec<UnixStream> = (0..80).map(|_| UnixStream::connect(&socket)).collect::<Result<_, _>>()?;
    let (pod, container) = fixture.run("unharmed", &["sleep", "1000"]).await?;
    good.wait_for("PostStartContainer", &container).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let late = Plugin::start(&fixture, "20", "late", json!({})).await?;
    drop((silent, late));
    fixture.remove(&pod).await?;
    good.wait_for("RemovePodSandbox", &pod).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn without_external_connections_nobody_comes() -> Result<()> {
    let options = Options { nri: "external_connections = false\n".into(), ..Options::default() };
    let mut fixture = Fixture::with(options).await?;
    let pod = fixture.client.run_pod(&fixture.pod_config("alone")).await?;
    assert!(!fixture.node.dir().join("nri.sock").exists());
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn the_operator_has_the_last_word_on_what_plugins_do_and_on_which_of_them_are_needed() -> Result<()> {
    let nri = "request_timeout_ms = 20000\n[nri.default_validator]\nenable = true\n\
        reject_oci_hook_adjustment = true\ntolerate_missing_plugins_annotation = \"lenient.example\"\n";
    let mut fixture = Fixture::with(Options { nri: nri.into(), ..Options::default() }).await?;
    let mut pod_config = fixture.pod_config("judged");
    let required = "required-plugins.noderesource.dev/container.main";
    pod_config.annotations.insert(required.into(), "[\"hooker\"]".into());
    let pod = fixture.client.run_pod(&pod_config).await?;
    let before = fixture.node.inventory();
    let config = container_config("main", &fixture.image, &["sleep", "1000"]);

    // No plugin is there at all, and one is needed.
    let missing = fixture.client.create(&pod, &config, &pod_config).await.expect_err("nobody was asked");
    assert!(
        missing.message().contains("default-validator") && missing.message().contains("hooker"),
        "{missing:?}"
    );

    let adjust = json!({"hooks": {"createRuntime": [{"path": "/bin/true"}]}});
    let plugin = Plugin::start(&fixture, "10", "hooker", json!({"adjust": adjust})).await?;
    let hooks = fixture.client.create(&pod, &config, &pod_config).await.expect_err("a hook is added");
    let words = hooks.message();
    assert!(words.contains("10-hooker") && words.contains("reject_oci_hook_adjustment"), "{words}");
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());

    plugin.set(json!({"adjust": {"env": [{"key": "A", "value": "1"}]}}))?;
    let container = fixture.client.create(&pod, &config, &pod_config).await?;
    fixture.client.start(&container).await?;
    let env = fixture.client.exec(&container, &["sh", "-c", "echo $A"], 10).await?;
    assert_eq!(text(&env.stdout), "1\n");
    fixture.remove(&pod).await
}
