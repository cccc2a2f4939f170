//! create, start, state, kill, delete, run and list.

use serde_json::json;

use crate::bundle::{Bundle, is_root, wait_until};
use crate::killed;

#[test]
fn a_container_is_created_started_killed_and_deleted() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("echo started; exec sleep 100");
    bundle.create();
    assert_eq!(bundle.status(), "created");
    assert_eq!(bundle.output(), "", "nothing runs before start");
    bundle.say(&["start", "ID"]).ok();
    assert_eq!(bundle.status(), "running");
    wait_until(|| bundle.output() == "started\n", "started");
    bundle.say(&["delete", "ID"]).refused(&["running"]);
    bundle.say(&["start", "ID"]).refused(&["is running, not created"]);
    bundle.say(&["kill", "ID", "KILL"]).ok();
    bundle.wait_for("stopped");
    bundle.say(&["kill", "ID", "KILL"]).refused(&["stopped"]);
    bundle.say(&["delete", "ID"]).ok();
    bundle.say(&["state", "ID"]).refused(&["does not exist"]);
    bundle.say(&["delete", "ID"]).refused(&["does not exist"]);
    bundle.say(&["delete", "--force", "ID"]).ok();
}

#[test]
fn a_created_container_can_be_deleted_before_it_starts() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("true");
    bundle.create();
    let pid = bundle.pid();
    bundle.say(&["delete", "--force", "ID"]).ok();
    wait_until(|| !std::path::Path::new(&format!("/proc/{pid}/exe")).exists(), "gone");
}

#[test]
fn an_id_is_taken_once() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("sleep 100");
    bundle.start();
    bundle.say(&["create", "ID"]).refused(&["exists"]);
    assert_eq!(bundle.status(), "running", "the first one is untouched");
}

#[test]
fn run_answers_the_containers_exit_code() {
    if !is_root() {
        return;
    }
    assert_eq!(Bundle::new("exit 42").run().code, 42);
    assert_eq!(
        Bundle::new("kill -9 $$; sleep 1").run().code,
        0,
        "init is deaf to its own namespace's signals"
    );
    assert_eq!(Bundle::new("echo out; echo err >&2").run().ok(), "out");
}

#[test]
fn a_signal_from_outside_shows_in_the_exit_code() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.write();
    let mut run = bundle.command(&["run", &bundle.id]).stdin(std::process::Stdio::null()).spawn().unwrap();
    bundle.wait_for("running");
    bundle.say(&["kill", "ID", "9"]).ok();
    assert_eq!(run.wait().unwrap().code(), Some(137));
}

#[test]
fn list_shows_what_there_is() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    assert_eq!(bundle.say(&["list", "-q"]).ok(), "");
    bundle.start();
    assert_eq!(bundle.say(&["list", "-q"]).ok(), bundle.id);
    let said = bundle.say(&["list", "--format", "json"]);
    let list: serde_json::Value = serde_json::from_str(said.ok()).unwrap();
    assert_eq!(list[0]["status"], "running");
}

#[test]
fn a_create_that_fails_leaves_nothing_and_names_the_object() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["process"]["args"] = json!(["nosuch"]);
    bundle.run().refused(&["nosuch", "No such file"]);
    bundle.spec["process"]["args"] = json!(["/etc"]);
    bundle.run().refused(&["/etc", "Permission denied"]);
    bundle.spec["process"]["args"] = json!(["true"]);
    bundle.spec["root"]["path"] = json!("nosuch");
    bundle.run().refused(&["opening the root file system", "nosuch"]);
    bundle.spec["root"]["path"] = json!("rootfs");
    bundle.mount(json!({"destination": "/x", "type": "nosuchfs"}));
    bundle.run().refused(&["mounting /x", "No such device"]);
    bundle.spec["mounts"].as_array_mut().unwrap().pop();
    bundle.bind(std::path::Path::new("/nosuch"), "/x", &["bind"]);
    bundle.run().refused(&["mount source /nosuch"]);
    bundle.spec["mounts"].as_array_mut().unwrap().pop();
    bundle.run().ok();
}

#[test]
fn a_record_whose_maker_died_early_is_deleted() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("true");
    std::fs::create_dir_all(bundle.path().join("state").join(&bundle.id)).unwrap();
    bundle.say(&["delete", "--force", "ID"]).ok();
}

#[test]
fn hooks_run_at_their_points_with_the_state() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("echo main >> /log");
    let log = bundle.rootfs().join("log");
    let outside = |name: &str| {
        let script = format!("grep -o '\"status\":\"[a-z]*\"' >> {0}; echo {name} >> {0}", log.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 10}])
    };
    bundle.spec["hooks"] = json!({
        "createRuntime": outside("createRuntime"),
        "createContainer": outside("createContainer"),
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo startContainer >> /log"], "env": ["PATH=/bin"]}],
        "poststart": outside("poststart"),
        "poststop": outside("poststop"),
    });
    bundle.run().ok();
    let text = std::fs::read_to_string(&log).unwrap();
    for (before, after) in [
        ("\"status\":\"creating\"\ncreateRuntime", "createContainer"),
        ("createContainer", "startContainer"),
        ("startContainer", "main"),
        ("main", "\"status\":\"stopped\"\npoststop"),
    ] {
        assert!(text.find(before).unwrap() < text.find(after).unwrap(), "{text}");
    }
    assert!(text.contains("poststart"), "{text}");
}

#[test]
fn a_hook_that_fails_or_hangs_ends_the_create() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    bundle.run().refused(&["hook /bin/false failed"]);
    bundle.spec["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]});
    bundle.run().refused(&["within 1 s"]);
}

#[test]
fn errors_reach_the_log_as_json() {
    let bundle = Bundle::new("true");
    let log = bundle.path().join("log.json");
    let log_path = log.to_str().unwrap();
    let said = bundle.say(&["--log", log_path, "--log-format", "json", "start", "nosuch"]);
    assert_eq!(said.code, 1);
    let line: serde_json::Value = serde_json::from_slice(&std::fs::read(&log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], "container nosuch does not exist");
}

#[test]
fn a_create_killed_at_any_moment_can_be_taken_away() {
    if !is_root() {
        return;
    }
    for delay_us in (0..40).map(|step| step * 250) {
        let bundle = Bundle::new("sleep 100");
        bundle.write();
        let null = std::process::Stdio::null;
        let mut command = bundle.command(&["create", &bundle.id]);
        let mut create = command.stdin(null()).stdout(null()).stderr(null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(delay_us));
        create.kill().unwrap();
        create.wait().unwrap();
        // Dropping the bundle deletes it, and looks for what is left.
    }
}

#[test]
fn a_container_starts_within_a_mebibyte() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("");
    bundle.spec["process"]["args"] = json!(["true"]);
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 1 << 20});
    bundle.run().ok();
}

/// The directory is gone before the cgroup is made: what is known of it is in the maker's memory alone.
#[test]
fn a_create_whose_record_is_taken_away_leaves_no_cgroup() {
    if !killed::can_run() {
        return;
    }
    let bundle = Bundle::new("true");
    bundle.write();
    let own = bundle.command(&["create", &bundle.id]);
    let mut create = std::process::Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-e", "inject=mkdir,mkdirat:delay_enter=150000"])
        .arg(own.get_program())
        .args(own.get_args())
        .current_dir(bundle.path())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let record = bundle.path().join("state").join(&bundle.id).join("state.json");
    wait_until(|| record.exists(), "recorded");
    bundle.say(&["delete", "--force", "ID"]).ok();
    assert!(!create.wait().unwrap().success());
    assert_eq!(bundle.leftovers(), Vec::<String>::new());
}
