//! exec: joins everything, gives an exit code, and says at once what cannot be run.

use serde_json::json;

use crate::bundle::{Bundle, Said, is_root, wait_until};
use crate::killed;

#[test]
fn exec_joins_the_namespaces_and_the_cgroup() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    for name in ["pid", "net", "ipc", "uts", "mnt", "cgroup"] {
        let said = bundle.say(&["exec", "ID", "readlink", &format!("/proc/self/ns/{name}")]);
        let init = std::fs::read_link(format!("/proc/{}/ns/{name}", bundle.pid())).unwrap();
        assert_eq!(Some(said.ok()), init.to_str(), "{name}");
    }
    assert_eq!(bundle.say(&["exec", "ID", "hostname"]).ok(), "berth-test");
    let cgroups = bundle.say(&["exec", "ID", "cat", "/proc/self/cgroup"]);
    assert!(cgroups.ok().lines().all(|line| line.ends_with(":/")), "{}", cgroups.out);
}

#[test]
fn exec_answers_exit_codes_and_errors() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    assert_eq!(bundle.say(&["exec", "ID", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(bundle.say(&["exec", "ID", "sh", "-c", "kill -9 $$"]).code, 137);
    let said = bundle.say(&["exec", "ID", "nosuch"]);
    said.refused(&["nosuch", "No such file"]);
    assert_eq!(said.code, 255);
    bundle.say(&["exec", "ID", "/etc"]).refused(&["/etc", "Permission denied"]);
    bundle.say(&["exec", "--cwd", "/nosuch", "ID", "true"]).refused(&["working directory", "/nosuch"]);
    bundle.say(&["exec", "nosuch", "true"]).refused(&["does not exist"]);
}

#[test]
fn exec_takes_user_environment_and_directory() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    let said = bundle.say(&["exec", "-u", "1000:2000", "-g", "3000", "ID", "id"]);
    assert_eq!(said.ok(), "uid=1000 gid=2000 groups=3000");
    assert_eq!(
        bundle.say(&["exec", "-e", "A=b c", "--cwd", "/tmp", "ID", "sh", "-c", "echo $A $PWD"]).ok(),
        "b c /tmp"
    );
    for user in ["root", "1000:", ":1000", "4294967296", "-1", "4294967295"] {
        bundle.say(&["exec", &format!("--user={user}"), "ID", "id"]).refused(&["is not UID"]);
    }
}

#[test]
fn exec_runs_a_process_from_a_file() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    let process = json!({"args": ["/bin/sh", "-c", "umask; id -u"], "cwd": "/", "user": {"uid": 7, "gid": 7, "umask": 63}});
    let path = bundle.path().join("process.json");
    std::fs::write(&path, serde_json::to_vec(&process).unwrap()).unwrap();
    assert_eq!(bundle.say(&["exec", "-p", path.to_str().unwrap(), "ID"]).ok(), "0077\n7");
}

#[test]
fn a_stopped_container_takes_no_exec() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exit 0");
    bundle.start();
    bundle.wait_for("stopped");
    bundle.say(&["exec", "ID", "true"]).refused(&["container not running", "is stopped"]);
}

#[test]
fn exec_gets_the_containers_filter() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    });
    bundle.start();
    bundle.say(&["exec", "ID", "mkdir", "/tmp/x"]).refused(&["Operation not permitted"]);
    assert_eq!(bundle.say(&["exec", "ID", "grep", "Seccomp:", "/proc/self/status"]).ok(), "Seccomp:\t2");
}

/// Two CPUs are needed to tell one from the other.
#[test]
fn an_exec_runs_on_the_cpus_it_was_given_and_the_init_does_not() {
    if !is_root() {
        return;
    }
    let cpus = std::thread::available_parallelism().unwrap().get();
    if cpus < 2 {
        return println!("skipped: this machine has one CPU");
    }
    let mut bundle = Bundle::new("grep Cpus_allowed_list /proc/self/status; exec sleep 100");
    bundle.spec["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "1"});
    bundle.start();
    wait_until(|| !bundle.output().is_empty(), "written");
    assert_ne!(bundle.output().split_whitespace().last(), Some("1"), "the init");
    let allowed = |bundle: &Bundle| {
        let said = bundle.say(&["exec", "ID", "grep", "Cpus_allowed_list", "/proc/self/status"]);
        said.ok().split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(allowed(&bundle), "1");
    let process = bundle.path().join("process.json");
    let with = |affinity: serde_json::Value| {
        let mut process = bundle.spec["process"].clone();
        process["args"] = json!(["grep", "Cpus_allowed_list", "/proc/self/status"]);
        process["execCPUAffinity"] = affinity;
        process
    };
    std::fs::write(&process, with(json!({"initial": "0"})).to_string()).unwrap();
    let said = bundle.say(&["exec", "-p", process.to_str().unwrap(), "ID"]);
    assert_eq!(said.ok().split_whitespace().last(), Some("0"));
    std::fs::write(&process, with(json!({"final": "4000"})).to_string()).unwrap();
    bundle
        .say(&["exec", "-p", process.to_str().unwrap(), "ID"])
        .refused(&["CPU affinity", "Invalid argument"]);
}

#[test]
fn an_exec_that_cannot_be_handed_over_does_not_go_on() {
    if !is_root() {
        return;
    }
    /// Who goes on holds nothing of ours.
    const QUIET: &str = "exec sleep 101 >/dev/null 2>&1";
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    let alone = || bundle.say(&["ps", "--format", "json", "ID"]).ok().split(',').count() == 1;
    bundle.say(&["exec", "-d", "--pid-file", "/nosuch/pid", "ID", "sh", "-c", QUIET]).refused(&["/nosuch"]);
    assert!(alone(), "it runs on without a pid file");
    let words = ["exec", "-d", "-t", "--console-socket", "/nosuch/socket", "ID", "sleep", "101"];
    bundle.say(&words).refused(&["/nosuch/socket"]);
    assert!(alone(), "it runs on with a terminal that nobody holds");
}

/// Our writes are slow here; the process may not be quicker.
#[test]
fn an_exec_begins_with_the_oom_score_that_it_was_given() {
    if !killed::can_run() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    let mut process = bundle.spec["process"].clone();
    process["args"] = json!(["cat", "/proc/self/oom_score_adj"]);
    process["oomScoreAdj"] = json!(321);
    std::fs::write(bundle.path().join("process.json"), process.to_string()).unwrap();
    let own = bundle.command(&["exec", "-p", "process.json", &bundle.id]);
    let output = std::process::Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-e", "inject=write:delay_enter=200000"])
        .arg(own.get_program())
        .args(own.get_args())
        .current_dir(bundle.path())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(Said::from(output).ok(), "321");
}
