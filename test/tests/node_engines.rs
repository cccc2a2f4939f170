//! berth-runtime inside other people's engines: Debian's podman, as root and as an ordinary user, and Debian's
//! containerd with its runc shim.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_test::bench::containerd::Containerd;
use berth_test::engine::{Account, Podman};
use berth_test::image::{Layer, Recipe};
use berth_test::programs::{Programs, target_dir};
use berth_test::registry::DockerRegistry;
use berth_test::stand_ins;
use serde_json::{Value, json};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        ensure!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
#[ignore = "needs root and a network namespace: cargo xtask node"]
fn podman_runs_pauses_limits_and_removes_containers() -> Result<()> {
    let podman = Podman::of_root()?;
    assert_eq!(podman.ok(&["run", "--rm", "test", "echo", "from podman"])?.trim(), "from podman");
    let mut limited =
        vec!["run", "-d", "--name", "a", "--memory", "64m", "--pids-limit", "50", "--cpus", "0.5"];
    limited.extend(["--stop-timeout", "1", "test", "sh", "-c", "echo begun; exec sleep 1000"]);
    podman.ok(&limited)?;
    assert_eq!(podman.ok(&["exec", "a", "sh", "-c", "echo $((6 * 7)); id -u"])?, "42\n0\n");
    assert_eq!(
        podman.ok(&[
            "exec",
            "-u",
            "7:8",
            "-w",
            "/tmp",
            "-e",
            "A=b",
            "a",
            "sh",
            "-c",
            "id -u; id -g; echo $A; pwd"
        ])?,
        "7\n8\nb\n/tmp\n"
    );
    assert!(podman.ok(&["exec", "-t", "a", "tty"])?.starts_with("/dev/pts/"));
    assert_eq!(podman.say(&["exec", "a", "sh", "-c", "exit 9"])?.status.code(), Some(9));
    assert!(podman.ok(&["logs", "a"])?.contains("begun"));
    let limit = podman.cgroup_file("a", "memory", "memory.limit_in_bytes")?;
    assert_eq!(limit, (64 << 20).to_string());
    podman.ok(&["update", "--memory", "96m", "a"])?;
    assert_eq!(podman.cgroup_file("a", "memory", "memory.limit_in_bytes")?, (96 << 20).to_string());
    assert_eq!(podman.cgroup_file("a", "pids", "pids.max")?, "50");
    podman.ok(&["pause", "a"])?;
    assert_eq!(podman.inspect("a", "{{.State.Status}}")?, "paused");
    assert!(!podman.say(&["exec", "a", "true"])?.status.success());
    podman.ok(&["unpause", "a"])?;
    assert_eq!(podman.inspect("a", "{{.State.Status}}")?, "running");
    assert!(podman.ok(&["top", "a"])?.contains("sleep 1000"));
    let pids = podman.ok(&["stats", "--no-stream", "--format", "{{.PIDs}}", "a"])?;
    assert_eq!(pids.trim(), "1");
    podman.ok(&["stop", "a"])?;
    assert_eq!(podman.inspect("a", "{{.State.Status}} {{.State.ExitCode}}")?, "exited 137");
    podman.ok(&["start", "a"])?;
    podman.ok(&["kill", "a"])?;
    wait_until("killed", || podman.inspect("a", "{{.State.Status}}").is_ok_and(|status| status == "exited"))?;
    podman.ok(&["rm", "a"])?;
    Ok(())
}

#[test]
#[ignore = "needs root and a network namespace: cargo xtask node"]
fn podman_gets_terminals_user_namespaces_and_exit_codes() -> Result<()> {
    let podman = Podman::of_root()?;
    assert!(
        podman.ok(&["run", "--rm", "-t", "test", "sh", "-c", "tty && stty size"])?.starts_with("/dev/pts/0")
    );
    let maps = podman.ok(&[
        "run",
        "--rm",
        "--uidmap",
        "0:100000:5000",
        "test",
        "sh",
        "-c",
        "id -u; cat /proc/self/uid_map",
    ])?;
    assert_eq!(maps.split_whitespace().collect::<Vec<_>>(), ["0", "0", "100000", "5000"]);
    let code = |args: &[&str]| {
        podman.say(&[&["run", "--rm", "test"], args].concat()).map(|output| output.status.code())
    };
    assert_eq!(code(&["nosuch"])?, Some(127));
    assert_eq!(code(&["/etc"])?, Some(126));
    assert_eq!(code(&["sh", "-c", "exit 7"])?, Some(7));
    let privileged =
        podman.ok(&["run", "--rm", "--privileged", "test", "sh", "-c", "ls /dev | grep -c ."])?;
    assert!(privileged.trim().parse::<u32>()? > 15, "the host's devices are there: {privileged}");
    let bare =
        ["run", "--rm", "--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "test", "sh", "-c"];
    let bare = [&bare[..], &["grep CapEff /proc/self/status; touch /x"]].concat();
    let said = podman.say(&bare)?;
    let said = text(&said);
    assert!(said.contains("CapEff:\t0000000000000000") && said.contains("Read-only file system"), "{said}");
    let copied =
        ["run", "--rm", "--read-only", "test", "sh", "-c", "echo x > /tmp/x && echo y > /run/y && echo fine"];
    assert_eq!(podman.ok(&copied)?.trim(), "fine");
    Ok(())
}

#[test]
#[ignore = "needs root and a network namespace: cargo xtask node"]
fn podman_of_an_ordinary_user_runs_containers() -> Result<()> {
    let account = Account::make()?;
    let podman = Podman::of_user(&account)?;
    let said = podman.ok(&[
        "run",
        "--rm",
        "test",
        "sh",
        "-c",
        "id -u; echo x > /dev/null; cat /proc/self/uid_map",
    ])?;
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[..4], ["0", "0", &account.uid().to_string(), "1"], "{said}");
    podman.ok(&["run", "-d", "--name", "b", "--stop-timeout", "1", "test", "sleep", "1000"])?;
    assert_eq!(podman.ok(&["exec", "b", "id", "-u"])?.trim(), "0");
    assert!(podman.ok(&["exec", "-t", "b", "tty"])?.starts_with("/dev/pts/"));
    assert!(podman.ok(&["top", "b"])?.contains("sleep 1000"));
    podman.ok(&["stop", "b"])?;
    assert_eq!(podman.inspect("b", "{{.State.Status}}")?, "exited");
    podman.ok(&["rm", "b"])?;
    let kept = podman.ok(&["run", "--rm", "--userns=keep-id", "test", "id", "-u"])?;
    assert_eq!(kept.trim(), account.uid().to_string());
    Ok(())
}

/// crictl with containerd's endpoint.
struct Crictl(String);

impl Crictl {
    fn say(&self, args: &[&str]) -> Result<Output> {
        Command::new(target_dir().join("tools/crictl"))
            .args(["--config", "/dev/null", "--runtime-endpoint", &self.0, "--image-endpoint", &self.0])
            .args(args)
            .output()
            .context("running crictl")
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.say(args)?;
        ensure!(output.status.success(), "crictl {args:?}: {}", text(&output));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// Taken away whatever happens: a shim that stays holds mounts below a folder that is about to go.
struct Pod<'a> {
    crictl: &'a Crictl,
    id: String,
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        for command in ["stopp", "rmp"] {
            if let Err(error) = self.crictl.ok(&[command, &self.id]) {
                eprintln!("{error:#}");
            }
        }
    }
}

fn write_json(file: &Path, value: &Value) -> Result<String> {
    std::fs::write(file, value.to_string())?;
    Ok(file.display().to_string())
}

fn bridge(dir: &Path) -> Result<()> {
    let ipam =
        json!({"type": "host-local", "dataDir": dir.join("ipam"), "ranges": [[{"subnet": "10.117.0.0/24"}]]});
    let bridge = json!({"type": "bridge", "bridge": "berth-engine0", "isGateway": true, "ipam": ipam});
    let list = json!({"cniVersion": "1.0.0", "name": "engine", "plugins": [bridge]});
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("10-engine.conflist"), list.to_string())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn containerd_runs_pods_with_it() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("berth-engine-").tempdir()?;
    let registry = DockerRegistry::start(&dir.path().join("registry"))?;
    let programs = Programs::built();
    let pause = Layer::new().file("pause", 0o755, &std::fs::read(&programs.stand_in)?).finish();
    registry
        .push("pause", &["test"], &Recipe::new(vec![pause], json!({"Entrypoint": ["/pause"]})).build())
        .await?;
    registry.push("busybox", &["test"], &stand_ins::busybox(&programs)?).await?;
    bridge(&dir.path().join("cni"))?;
    let host = registry.address();
    let sandbox_image = format!("{host}/pause:test");
    let containerd =
        Containerd::start_with_runtime(&dir.path().join("cni"), &sandbox_image, &programs.runtime).await?;
    let crictl = Crictl(format!("unix://{}", containerd.socket().display()));
    let image = format!("{host}/busybox:test");
    crictl.ok(&["pull", &image])?;

    let pod = json!({"metadata": {"name": "engine", "namespace": "default", "uid": "engine-uid", "attempt": 1},
        "hostname": "engine", "log_directory": dir.path().join("logs"), "linux": {"cgroup_parent": "/berth-engine-test"}});
    let container = json!({"metadata": {"name": "main"}, "image": {"image": image}, "log_path": "main.log",
        "command": ["sh", "-c", "echo from the pod; exec sleep 1000"],
        "linux": {"resources": {"memory_limit_in_bytes": 64 << 20}}});
    let pod_file = write_json(&dir.path().join("pod.json"), &pod)?;
    let container_file = write_json(&dir.path().join("container.json"), &container)?;
    std::fs::create_dir_all(dir.path().join("logs"))?;
    {
        let pod = Pod { crictl: &crictl, id: crictl.ok(&["runp", &pod_file])? };
        tour(&crictl, &pod.id, &container_file, &pod_file, &programs.runtime)?;
    }
    assert!(!crictl.ok(&["pods"])?.contains("engine"));
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
        // containerd makes the pod's parent and leaves it, as the kubelet's it is.
        std::fs::remove_dir(hierarchy.path().join("berth-engine-test")).ok();
        assert!(!hierarchy.path().join("berth-engine-test").exists(), "{}", hierarchy.path().display());
    }
    Ok(())
}

fn tour(crictl: &Crictl, pod: &str, container_file: &str, pod_file: &str, runtime: &Path) -> Result<()> {
    let id = crictl.ok(&["create", pod, container_file, pod_file])?;
    crictl.ok(&["start", &id])?;
    let inspected: Value = serde_json::from_str(&crictl.ok(&["inspect", &id])?)?;
    assert_eq!(inspected["status"]["state"], "CONTAINER_RUNNING");
    let pid = inspected["info"]["pid"].as_u64().context("a pid")?;
    // It is ours that made it: the record is in our form, which has the clone flags of its namespaces.
    let root = inspected["info"]["runtimeOptions"]["binary_name"].as_str().unwrap_or_default();
    assert_eq!(root, runtime.display().to_string());
    assert_eq!(crictl.ok(&["exec", "--sync", &id, "hostname"])?, "engine");
    assert_eq!(crictl.ok(&["exec", &id, "echo", "streamed"])?, "streamed");
    assert!(!crictl.say(&["exec", "--sync", &id, "false"])?.status.success());
    assert!(text(&crictl.say(&["exec", "--sync", &id, "nosuch"])?).contains("not found in $PATH"));
    assert!(crictl.ok(&["logs", &id])?.contains("from the pod"));
    wait_until("statistics", || crictl.ok(&["stats", &id]).is_ok_and(|stats| stats.contains("main")))?;
    crictl.ok(&["update", "--memory", &(96 << 20).to_string(), &id])?;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let memory =
        cgroups.lines().find_map(|line| line.split_once(":memory:").map(|(_, path)| path.to_owned()));
    let limit = match memory {
        Some(path) => std::fs::read_to_string(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"))?,
        None => {
            let path = cgroups.lines().find_map(|line| line.strip_prefix("0::")).context("a cgroup")?;
            std::fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max"))?
        }
    };
    assert_eq!(limit.trim(), (96 << 20).to_string());
    crictl.ok(&["stop", "--timeout", "0", &id])?;
    let inspected: Value = serde_json::from_str(&crictl.ok(&["inspect", &id])?)?;
    assert_eq!(
        (&inspected["status"]["state"], &inspected["status"]["exitCode"]),
        (&json!("CONTAINER_EXITED"), &json!(137))
    );
    crictl.ok(&["rm", &id])?;
    Ok(())
}
