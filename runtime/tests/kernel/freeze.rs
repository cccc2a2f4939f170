//! pause and resume: nothing of a paused container runs, nothing joins it, and it can still be killed.

use std::fs;

use crate::bundle::{Bundle, is_root, wait_until};

const COUNTING: &str = "while true; do echo x >> /tmp/count; sleep 0.01; done";

fn count(bundle: &Bundle) -> u64 {
    fs::metadata(bundle.rootfs().join("tmp/count")).map_or(0, |file| file.len())
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new(COUNTING);
    bundle.start();
    wait_until(|| count(&bundle) > 0, "counting");
    bundle.say(&["resume", "ID"]).refused(&["is running, not paused"]);
    bundle.say(&["pause", "ID"]).ok();
    assert_eq!(bundle.status(), "paused");
    let before = count(&bundle);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(count(&bundle), before);
    bundle.say(&["pause", "ID"]).refused(&["is paused"]);
    bundle.say(&["delete", "ID"]).refused(&["running, not stopped"]);
    bundle.say(&["resume", "ID"]).ok();
    assert_eq!(bundle.status(), "running");
    wait_until(|| count(&bundle) > before, "counting again");
}

#[test]
fn nothing_joins_a_paused_container_unless_it_is_told_to() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    bundle.say(&["pause", "ID"]).ok();
    let said = bundle.say(&["exec", "ID", "true"]);
    said.refused(&["container not running", "is paused"]);
    assert_eq!(said.code, 255);
    let mut joining = bundle.command(&["exec", "--ignore-paused", &bundle.id, "true"]);
    let mut joining = joining.stdin(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(joining.try_wait().unwrap().is_none(), "it freezes with the others");
    bundle.say(&["resume", "ID"]).ok();
    assert!(joining.wait().unwrap().success());
}

#[test]
fn a_paused_container_dies_when_it_is_killed() {
    if !is_root() {
        return;
    }
    for words in [&["kill", "ID", "KILL"][..], &["kill", "--all", "ID", "KILL"]] {
        let bundle = Bundle::new("exec sleep 100");
        bundle.start();
        bundle.say(&["pause", "ID"]).ok();
        bundle.say(words).ok();
        bundle.wait_for("stopped");
    }
}

#[test]
fn a_stopped_container_is_not_paused() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exit 0");
    bundle.start();
    bundle.wait_for("stopped");
    bundle.say(&["pause", "ID"]).refused(&["container not running", "is stopped"]);
    bundle.say(&["pause", "nosuch"]).refused(&["does not exist"]);
}
