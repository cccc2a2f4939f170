//! The six hooks: where they run, what they are told, and what follows when they fail.

use std::fs;

use serde_json::{Value, json};

use crate::bundle::{Bundle, is_root, wait_until};

/// Writes its name, its mount namespace, and the status and pid that it was told, into the log.
fn telling(name: &str, log: &str) -> Value {
    let script = format!(
        "read -r state; status=${{state#*'\"status\":\"'}}; pid=${{state#*'\"pid\":'}}; \
         echo {name} $(readlink /proc/self/ns/mnt) ${{status%%'\"'*}} ${{pid%%,*}} $SAID >> {log}"
    );
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin", "SAID=this"], "timeout": 20}])
}

#[test]
fn each_hook_runs_in_its_namespace_with_the_state_of_its_moment() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("echo main $(readlink /proc/self/ns/mnt) >> /log; exec sleep 100");
    let log = bundle.rootfs().join("log").display().to_string();
    bundle.spec["hooks"] = json!({
        "prestart": telling("prestart", &log), "createRuntime": telling("createRuntime", &log),
        "createContainer": telling("createContainer", &log), "startContainer": telling("startContainer", "/log"),
        "poststart": telling("poststart", &log), "poststop": telling("poststop", &log)
    });
    bundle.start();
    wait_until(|| fs::read_to_string(&log).unwrap().contains("main "), "run");
    let pid = bundle.pid().to_string();
    let inside = fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap().display().to_string();
    let outside = fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string();
    bundle.say(&["delete", "--force", "ID"]).ok();
    let text = fs::read_to_string(&log).unwrap();
    let line = |name: &str| -> Vec<&str> {
        text.lines()
            .find(|line| line.starts_with(&format!("{name} ")))
            .unwrap_or_default()
            .split(' ')
            .collect()
    };
    // The pid is as seen from where the hook runs (runtime.md, "State").
    for (name, namespace, status, pid) in [
        ("prestart", &outside, "creating", pid.as_str()),
        ("createRuntime", &outside, "creating", &pid),
        ("createContainer", &inside, "creating", "1"),
        ("startContainer", &inside, "created", "1"),
        ("poststart", &outside, "running", &pid),
    ] {
        assert_eq!(line(name), [name, namespace, status, pid, "this"], "{text}");
    }
    assert_eq!(line("poststop")[..3], ["poststop", outside.as_str(), "stopped"]);
    assert_eq!(line("main"), ["main", inside.as_str()]);
    let order: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    let at = |name: &str| order.iter().position(|other| *other == name).unwrap();
    assert!(at("prestart") < at("createRuntime") && at("createRuntime") < at("createContainer"));
    assert!(at("createContainer") < at("startContainer") && at("startContainer") < at("main"));
}

#[test]
fn one_that_fails_before_the_program_keeps_it_from_running() {
    if !is_root() {
        return;
    }
    for name in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let mut bundle = Bundle::new("touch /ran");
        let marker = bundle.path().join("stopped");
        let touch = json!([{"path": "/bin/touch", "args": ["touch", marker]}]);
        bundle.spec["hooks"] =
            json!({name: [{"path": "/bin/true"}, {"path": "/bin/false"}], "poststop": touch});
        bundle.run().refused(&["hook /bin/false failed: exit status: 1", &format!("(hooks.{name}[1])")]);
        assert!(!bundle.rootfs().join("ran").exists(), "{name}");
        assert!(marker.exists(), "poststop hooks run for a container that was created: {name}");
        assert_eq!(bundle.status(), "none", "{name}");
    }
}

#[test]
fn a_hook_inside_that_is_missing_or_hangs_is_told_of_as_one_outside() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    for name in ["createRuntime", "createContainer"] {
        let place = format!("(hooks.{name}[0])");
        for (hook, words) in [
            (json!({"path": "/nosuch"}), ["hook /nosuch failed: No such file", &place]),
            (
                json!({"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}),
                ["hook /bin/sleep failed: it did not end within 1 s", &place],
            ),
            (
                json!({"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $$"]}),
                ["hook /bin/sh failed: signal: 9", &place],
            ),
        ] {
            bundle.spec["hooks"] = json!({name: [hook]});
            bundle.run().refused(&words);
        }
    }
}

#[test]
fn start_tells_of_a_start_container_hook_that_fails_or_hangs() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("touch /ran");
    for (hook, words) in [
        (json!({"path": "/bin/false"}), ["hook /bin/false failed", "exit status: 1"]),
        (json!({"path": "/nosuch"}), ["hook /nosuch failed: No such file", "(hooks.startContainer[0])"]),
        (
            json!({"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}),
            ["hook /bin/sleep failed", "within 1 s"],
        ),
    ] {
        bundle.spec["hooks"] = json!({"startContainer": [hook]});
        bundle.create();
        bundle.say(&["start", "ID"]).refused(&words);
        bundle.wait_for("stopped");
        bundle.say(&["delete", "ID"]).ok();
    }
    assert!(!bundle.rootfs().join("ran").exists());
}

#[test]
fn a_poststart_hook_that_fails_stops_the_container_and_a_poststop_hook_that_fails_is_a_warning() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.spec["hooks"] = json!({"poststart": [{"path": "/bin/false"}]});
    bundle.create();
    bundle.say(&["start", "ID"]).refused(&["hook /bin/false failed"]);
    bundle.wait_for("stopped");
    bundle.say(&["delete", "ID"]).ok();
    let marker = bundle.path().join("stopped");
    let touch = json!({"path": "/bin/touch", "args": ["touch", marker]});
    bundle.spec["hooks"] = json!({"poststop": [{"path": "/bin/false"}, touch]});
    bundle.spec["process"]["args"] = json!(["true"]);
    let said = bundle.run();
    said.ok();
    assert!(
        said.err.contains("poststop hook /bin/false failed: exit status: 1 (hooks.poststop[0])"),
        "{}",
        said.err
    );
    assert!(marker.exists(), "the next one runs all the same");
}

/// crun's hooks that read nothing killed it by SIGPIPE; a large state would block a pipe.
#[test]
fn a_hook_need_not_read_its_state() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["annotations"] = json!({"large": "x".repeat(200_000)});
    bundle.spec["hooks"] =
        json!({"createRuntime": [{"path": "/bin/true"}], "poststop": [{"path": "/bin/true"}]});
    bundle.run().ok();
}
