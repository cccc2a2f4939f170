//! The command line itself: what engines written for runc say to it, and what they read from it.

use std::fs;
use std::os::unix::process::CommandExt as _;

use serde_json::{Value, json};

use crate::bundle::{Bundle, is_root};

#[test]
fn help_names_every_command_and_what_it_takes() {
    let bundle = Bundle::new("true");
    let all = bundle.say(&["help"]);
    for command in ["create", "ps", "pause", "resume", "update", "events", "features"] {
        assert!(all.ok().contains(command), "{command}");
        let told = bundle.say(&["help", command]);
        assert!(told.ok().contains(&format!("berth-runtime {command}")), "{}", told.out);
        assert_eq!(bundle.say(&[command, "--help"]).ok(), told.ok());
    }
    bundle.say(&["nosuch"]).refused(&["there is no command"]);
    bundle.say(&["--nosuch", "list"]).refused(&["--nosuch"]);
    bundle.say(&["--rootless", "maybe", "list"]).refused(&["--rootless"]);
}

#[test]
fn list_and_state_say_what_runcs_say() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    assert_eq!(bundle.say(&["list", "-f", "json"]).ok(), "null");
    bundle.spec["annotations"] = json!({"a": "b"});
    bundle.start();
    let state: Value = serde_json::from_str(bundle.say(&["state", "ID"]).ok()).unwrap();
    let list: Value = serde_json::from_str(bundle.say(&["list", "-format=json"]).ok()).unwrap();
    assert_eq!(list[0], state);
    assert_eq!(state["rootfs"], json!(bundle.rootfs()));
    assert_eq!((&state["status"], &state["annotations"]["a"]), (&json!("running"), &json!("b")));
    let table = bundle.say(&["list"]);
    let lines: Vec<Vec<&str>> = table.ok().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert_eq!(lines[1].len(), 6, "{}", table.out);
    assert_eq!(lines[1][5], "root");
}

#[test]
fn run_keeps_the_container_when_told_to() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exit 3");
    bundle.write();
    assert_eq!(bundle.say(&["run", "--keep", "ID"]).code, 3);
    assert_eq!(bundle.status(), "stopped");
    bundle.say(&["delete", "ID"]).ok();
}

#[test]
fn a_root_that_cannot_be_pivoted_from_is_covered() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("ls /; cat /proc/1/comm; readlink /proc/self/root");
    bundle.write();
    let said = bundle.say(&["run", "--no-pivot", "ID"]);
    assert_eq!(said.ok(), "bin\ndev\netc\nproc\nsys\ntmp\nsh\n/");
}

#[test]
fn descriptors_are_kept_and_must_be_there() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("cat <&3; echo $LISTEN_FDS:$LISTEN_PID");
    bundle.write();
    fs::write(bundle.path().join("message"), "kept\n").unwrap();
    let with_three = |words: &[&str], listen: bool| {
        // The shell puts the file at 3, and `exec` keeps its own number for LISTEN_PID.
        let listen = if listen { "LISTEN_FDS=1 LISTEN_PID=$$" } else { "A=a" };
        let words = words.join(" ");
        let (root, program) = (bundle.path().join("state"), env!("CARGO_BIN_EXE_berth-runtime"));
        let script = format!(
            "exec 3<{}; export {listen}; exec {program} --root {} {words} {}",
            bundle.path().join("message").display(),
            root.display(),
            bundle.id
        );
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script]).current_dir(bundle.path()).process_group(0);
        crate::bundle::Said::from(command.output().unwrap())
    };
    assert_eq!(with_three(&["run", "--preserve-fds", "1"], false).ok(), "kept\n:");
    assert_eq!(with_three(&["run"], true).ok(), "kept\n1:1");
    with_three(&["run", "--preserve-fds", "2"], false).refused(&["descriptor 4"]);
}

#[test]
fn exec_takes_runcs_options() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.spec["process"]["user"] = json!({"uid": 0, "gid": 44});
    bundle.start();
    assert_eq!(bundle.say(&["exec", "-u", "7", "ID", "sh", "-c", "id -u; id -g"]).ok(), "7\n44");
    let caps = |words: &[&str]| {
        let words =
            [&["exec"], words, &["ID", "grep", "-E", "CapEff|NoNewPrivs", "/proc/self/status"]].concat();
        bundle.say(&words).ok().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(caps(&[])[1], "0000000000000021");
    assert_eq!(caps(&["--cap", "CAP_NET_RAW"])[1], "0000000000002021");
    assert_eq!(caps(&[])[3], "1");
    assert_eq!(caps(&["--no-new-privs=false"])[3], "0");
    bundle.say(&["exec", "--console-socket", "/nosuch", "-t", "ID", "true"]).refused(&["--console-socket"]);
    let pid_file = bundle.path().join("exec.pid");
    bundle.say(&["exec", "--pid-file", pid_file.to_str().unwrap(), "ID", "true"]).ok();
    assert!(fs::read_to_string(&pid_file).unwrap().parse::<i32>().unwrap() > 1);
}

#[test]
fn flags_take_the_values_of_gos() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    for no in ["0", "f", "F", "false", "FALSE", "False"] {
        let flag = |name: &str| format!("--{name}={no}");
        assert!(bundle.say(&["list", &flag("quiet")]).ok().contains("STATUS"), "{no}");
        bundle.say(&["delete", &flag("force"), "ID"]).refused(&["container"]);
        assert_eq!(bundle.say(&["exec", &flag("tty"), &flag("detach"), "ID", "tty"]).out, "not a tty\n");
        assert_eq!(bundle.say(&["exec", &flag("ignore-paused"), "ID", "echo", "x"]).ok(), "x");
        assert!(bundle.say(&[&flag("systemd-cgroup"), "list"]).ok().contains(&bundle.id));
        bundle.say(&["kill", &flag("all"), "ID", "CONT"]).ok();
    }
    for yes in ["1", "t", "T", "true", "TRUE", "True"] {
        assert_eq!(bundle.say(&["list", &format!("-q={yes}")]).ok(), bundle.id, "{yes}");
    }
    bundle.say(&["delete", "--force=yes", "ID"]).refused(&["--force", "yes"]);
    assert_eq!(bundle.status(), "running");
}

#[test]
fn a_pid_file_goes_through_no_link_that_was_laid_in_its_way() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("true");
    bundle.write();
    let victim = bundle.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    for name in ["pid", ".pid"] {
        std::os::unix::fs::symlink(&victim, bundle.path().join(name)).unwrap();
    }
    bundle.say(&["run", "--pid-file", "pid", "ID"]).ok();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    let pid = bundle.path().join("pid");
    assert!(fs::symlink_metadata(&pid).unwrap().is_file());
    assert!(fs::read_to_string(&pid).unwrap().parse::<i32>().unwrap() > 1);
    assert!(fs::symlink_metadata(bundle.path().join(".pid")).is_err());
}

#[test]
fn exec_joins_a_cgroup_below_the_containers() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    // Without a cgroup namespace the paths are the host's.
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "cgroup");
    bundle.start();
    let dir = format!("/sys/fs/cgroup/pids/{}/below", bundle.id);
    if fs::create_dir(&dir).is_err() {
        println!("skipped: no cgroup v1 controller pids here");
        return;
    }
    let said = bundle.say(&["exec", "--cgroup", "pids:/below", "ID", "grep", "pids", "/proc/self/cgroup"]);
    assert!(said.ok().ends_with(&format!(":pids:/{}/below", bundle.id)), "{}", said.out);
    bundle.say(&["exec", "--cgroup", "pids:/nosuch", "ID", "true"]).refused(&["nosuch"]);
    bundle.say(&["exec", "--cgroup", "pids:../..", "ID", "true"]).refused(&["leads out"]);
    bundle.say(&["exec", "--cgroup", "pids:/below", "--cgroup", "/x", "ID", "true"]).refused(&["--cgroup"]);
}

#[test]
fn a_container_without_a_pid_namespace_dies_whole() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("sleep 100 & exec sleep 101");
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "proc");
    bundle.start();
    let pids = || serde_json::from_str::<Vec<i32>>(bundle.say(&["ps", "-f", "json", "ID"]).ok()).unwrap();
    crate::bundle::wait_until(|| pids().len() == 2, "two");
    let all = pids();
    bundle.say(&["kill", "ID", "KILL"]).ok();
    let gone = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    crate::bundle::wait_until(|| all.iter().all(gone), "gone");
}

#[test]
fn what_was_cut_short_is_listed_and_can_be_deleted() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("true");
    let dir = bundle.path().join("state").join(&bundle.id);
    // Killed between its directory and its record.
    fs::create_dir_all(&dir).unwrap();
    assert!(bundle.say(&["list"]).ok().contains("creating"));
    bundle.say(&["delete", "--force", "ID"]).ok();
    // A disk that lost power.
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("state.json"), "").unwrap();
    assert!(bundle.say(&["list"]).ok().contains("stopped"));
    bundle.say(&["delete", "ID"]).refused(&["state.json"]);
    bundle.say(&["delete", "--force", "ID"]).ok();
    assert_eq!(bundle.say(&["list", "-q"]).ok(), "");
}

#[test]
fn a_container_of_an_earlier_boot_has_stopped_and_its_number_is_anothers() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    let pid = bundle.pid();
    let record = bundle.path().join("state").join(&bundle.id).join("state.json");
    let mut text: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    let before = text.clone();
    // The process with that number and the one in that cgroup are those of the present boot.
    text["boot_id"] = json!("00000000-0000-0000-0000-000000000000");
    fs::write(&record, serde_json::to_vec(&text).unwrap()).unwrap();
    assert_eq!(bundle.status(), "stopped");
    bundle.say(&["kill", "ID", "KILL"]).refused(&["container not running"]);
    bundle.say(&["kill", "--all", "ID", "KILL"]).refused(&["container not running"]);
    bundle.say(&["exec", "ID", "true"]).refused(&["container not running"]);
    bundle.say(&["delete", "ID"]).ok();
    let alive = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert!(!alive.contains(") Z "), "{alive}");
    // Taken away by the record that is true.
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    fs::write(&record, serde_json::to_vec(&before).unwrap()).unwrap();
}
