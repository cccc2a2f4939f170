//! checkpoint and restore. criu must know the kernel: where the machine's does not, its refusal is what is tested, and
//! BERTH_CRIU may name a newer one.

use std::fs;
use std::process::Command;

use crate::bundle::{Bundle, is_root, wait_until};

const COUNTING: &str = "i=0; while true; do i=$((i+1)); echo $i > /tmp/count; sleep 0.02; done";

fn criu() -> String {
    std::env::var("BERTH_CRIU").unwrap_or_else(|_| "criu".into())
}

fn count(bundle: &Bundle) -> u64 {
    let text = fs::read_to_string(bundle.rootfs().join("tmp/count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[test]
fn without_criu_it_is_said_what_is_missing() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    bundle.say(&["--criu", "/nosuch/criu", "checkpoint", "ID"]).refused(&["/nosuch/criu", "not installed"]);
    bundle.say(&["--criu", "true", "checkpoint", "ID"]).refused(&["true", "without an answer"]);
    bundle.say(&["checkpoint", "--manage-cgroups-mode", "x", "ID"]).refused(&["--manage-cgroups-mode"]);
    bundle.say(&["checkpoint", "--parent-path", "/x", "ID"]).refused(&["--parent-path", "relative"]);
    assert_eq!(bundle.status(), "running");
    bundle.say(&["--criu", "/nosuch/criu", "restore", "other"]).refused(&["not installed"]);
    bundle.say(&["state", "other"]).refused(&["does not exist"]);
}

#[test]
fn a_container_goes_on_where_it_was() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new(COUNTING);
    bundle.write();
    // Nothing of it may be open outside: criu could not find that again.
    let null = std::process::Stdio::null;
    let mut run = bundle.command(&["run", "-d", &bundle.id]);
    assert!(run.stdin(null()).stdout(null()).stderr(null()).status().unwrap().success());
    wait_until(|| count(&bundle) > 3, "counting");
    let images = bundle.path().join("images");
    let (criu, images) = (criu(), images.to_str().unwrap());
    let said = bundle.say(&["--criu", &criu, "checkpoint", "--image-path", images, "--file-locks", "ID"]);
    let knows_this_kernel =
        Command::new(&criu).arg("check").output().is_ok_and(|output| output.status.success());
    if !knows_this_kernel {
        said.refused(&["criu"]);
        assert_eq!(bundle.status(), "running", "a checkpoint that failed changes nothing");
        println!("skipped: {criu} does not know this kernel: {}", said.err);
        return;
    }
    said.ok();
    assert_eq!(bundle.status(), "none", "it has ended, and is deleted");
    let before = count(&bundle);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(count(&bundle), before);
    restore(&bundle, &criu, images);
    wait_until(|| count(&bundle) > before, "counting on");
    assert!(count(&bundle) < before + 1000, "it did not begin again");
    assert_eq!(bundle.status(), "running");
    assert_eq!(bundle.say(&["exec", "ID", "hostname"]).ok(), "berth-test");
    let pid = bundle.pid();
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroups.lines().all(|line| line.ends_with(&format!("/{}", bundle.id))), "{cgroups}");
    // And once more, leaving it there.
    fs::remove_dir_all(images).unwrap();
    bundle.say(&["--criu", &criu, "checkpoint", "--image-path", images, "--leave-running", "ID"]).ok();
    assert_eq!(bundle.pid(), pid);
}

fn restore(bundle: &Bundle, criu: &str, images: &str) {
    let (null, log) = (std::process::Stdio::null, fs::File::create(bundle.path().join("log")).unwrap());
    let mut command = bundle.command(&["--criu", criu, "restore", "-d", "--image-path", images, &bundle.id]);
    let status = command.stdin(null()).stdout(null()).stderr(log).status().unwrap();
    assert!(status.success(), "{}", fs::read_to_string(bundle.path().join("log")).unwrap());
}
