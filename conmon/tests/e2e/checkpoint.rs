//! Containers that are frozen for a checkpoint: who lets them run on, and what waits meanwhile. What criu writes is
//! looked at by the node's tests; here a script stands for it, since containers are frozen before it is asked anything.

use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use conmon_protocol::{Answer, Ask, Dump, RefusalKind};
use serde_json::Value;

use crate::harness::{Pod, cgroups, eventually, exec_plan, pipe};

const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
const FAILS: &str = "exit 1";
const HANGS: &str = "exec sleep 1000";

fn ask(pod: &Pod, script: &str, patience_ms: u64) -> Ask {
    let criu = pod.run.path().join("criu");
    std::fs::write(&criu, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&criu, std::fs::Permissions::from_mode(0o755)).unwrap();
    let dir = |name: &str| -> PathBuf { pod.run.path().join(name) };
    let dumps = vec![Dump { container_id: "c1".into(), dir: dir("images"), work_dir: dir("work") }];
    Ask::Checkpoint { dumps, criu, patience_ms }
}

fn is_frozen(pod: &Pod) -> bool {
    cgroups(&pod.cgroup_parent).iter().any(|dir| {
        let says = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        says("freezer.state").trim() == "FROZEN" || says("cgroup.events").contains("frozen 1")
    })
}

fn wait_until_frozen(pod: &Pod) {
    eventually("it is frozen", || is_frozen(pod));
}

fn assert_counts_on(pod: &Pod) {
    assert!(!is_frozen(pod), "it is frozen still");
    let lines = pod.log("c1").lines().count();
    eventually("it counts on", || pod.log("c1").lines().count() > lines + 2);
}

/// As with systemd, where the monitor knows the scope, and the runtime freezes the cgroup below it.
#[test]
fn what_is_frozen_below_the_scope_that_the_monitor_knows_runs_on() {
    let Some(mut pod) = Pod::made() else { return };
    pod.run("c1", COUNTER);
    pod.wait_log("c1", "F 3");
    pod.kill_monitor();
    let path = pod.container_dir("c1").join("monitor");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(record["cgroup"], format!("{}/berth-c1", pod.cgroup_parent));
    record["cgroup"] = pod.cgroup_parent.clone().into();
    std::fs::write(&path, record.to_string()).unwrap();
    pod.start_monitor();

    let fails = ask(&pod, FAILS, 10_000);
    let failed = pod.daemon.ask(fails).unwrap_err();
    assert_eq!(failed.kind, RefusalKind::Failed, "{failed}");
    assert_counts_on(&pod);

    let late = ask(&pod, HANGS, 300);
    let failed = pod.daemon.ask(late).unwrap_err();
    assert_eq!(failed.kind, RefusalKind::TimedOut, "{failed}");
    assert_counts_on(&pod);

    let hangs = ask(&pod, HANGS, 60_000);
    pod.daemon.say(hangs, &[]);
    wait_until_frozen(&pod);
    pod.monitor.kill().unwrap();
    pod.monitor.wait().unwrap();
    pod.start_monitor();
    eventually("the next monitor lets it run on", || !is_frozen(&pod));
    assert_counts_on(&pod);
    pod.unmake();
}

#[test]
fn an_exec_that_is_killed_as_it_waits_for_a_checkpoint_never_begins() {
    let Some(mut pod) = Pod::made() else { return };
    pod.run("c1", COUNTER);
    pod.wait_log("c1", "F 3");
    let hangs = ask(&pod, HANGS, 2000);
    let checkpoint = pod.daemon.say(hangs, &[]);
    wait_until_frozen(&pod);
    let (_out, theirs) = pipe();
    let streams = [theirs.as_fd(), theirs.as_fd()];
    let exec = |id: &str| Ask::Exec(exec_plan(id, "c1", &format!("echo > /tmp/{id}")));
    let unwanted = pod.daemon.say(exec("unwanted"), &streams);
    let wanted = pod.daemon.say(exec("wanted"), &streams);
    let kill = pod.daemon.say(Ask::KillExec { exec_id: "unwanted".into() }, &[]);
    let refused = pod.daemon.answer_to(unwanted).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::State, "{refused}");
    assert_eq!(pod.daemon.answer_to(kill), Ok(Answer::Done));
    // Those that waited begin before the checkpoint's end is told.
    assert!(matches!(pod.daemon.answer_to(wanted), Ok(Answer::ExecStarted { .. })));
    pod.daemon.answer_to(checkpoint).unwrap_err();
    assert_eq!(pod.daemon.exec_exit("wanted"), (0, false));
    let tmp = pod.container_dir("c1").join("bundle/rootfs/tmp");
    assert!(tmp.join("wanted").exists() && !tmp.join("unwanted").exists());
    assert_counts_on(&pod);
    pod.unmake();
}

/// Its containers end anyway, so that nobody is to be spared.
#[test]
fn a_pod_that_is_taken_away_takes_its_checkpoint_along() {
    let Some(mut pod) = Pod::made() else { return };
    pod.run("c1", COUNTER);
    pod.wait_log("c1", "F 3");
    let mark = format!("1000.{}", std::process::id());
    let is_there = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default());
        lines.into_iter().any(|line| line.split(|byte| *byte == 0).any(|word| word == mark.as_bytes()))
    };
    let hangs = ask(&pod, &format!("exec sleep {mark}"), 60_000);
    let checkpoint = pod.daemon.say(hangs, &[]);
    eventually("criu is at it", is_there);
    let unmade = pod.daemon.say(Ask::UnmakePod, &[]);
    pod.daemon.answer_to(checkpoint).unwrap_err();
    assert_eq!(pod.daemon.answer_to(unmade), Ok(Answer::Done));
    assert!(pod.monitor.wait().unwrap().success());
    pod.assert_nothing_left();
    assert!(!is_there(), "criu outlived the pod");
}
