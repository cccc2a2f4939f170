//! Labels of security modules, where the kernel enforces them: each test ends with a denied action.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::bundle::{Bundle, is_root};

/// An AppArmor profile of one test, gone with it.
struct Profile(String);

impl Profile {
    /// None where AppArmor is not on.
    fn load(test: &str, rules: &str) -> Option<Profile> {
        let on =
            fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|on| on.starts_with('Y'));
        if !is_root() || !on {
            println!("skipped: needs AppArmor (cargo xtask vm)");
            return None;
        }
        let profile = Profile(format!("berth-test-{}-{test}", std::process::id()));
        profile.parser("--replace", rules);
        Some(profile)
    }

    fn parser(&self, action: &str, rules: &str) {
        let mut parser = Command::new("apparmor_parser")
            .args([action, "--skip-cache"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let text = format!("profile {} flags=(attach_disconnected) {{\n{rules}\n}}\n", self.0);
        parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(parser.wait().unwrap().success());
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("--remove", "");
    }
}

const WRITE_BOTH: &str = "echo 1 > /tmp/open && echo open; echo 1 > /tmp/secret && echo secret; \
                          cat /proc/self/attr/apparmor/current 2>/dev/null || cat /proc/self/attr/current";

#[test]
fn an_apparmor_profile_denies_the_container_what_it_denies() {
    let Some(profile) = Profile::load("run", "file,\ncapability,\nsignal,\ndeny /tmp/secret w,") else {
        return;
    };
    let mut bundle = Bundle::new(WRITE_BOTH);
    bundle.spec["process"]["apparmorProfile"] = json!(profile.0);
    let said = bundle.run();
    assert_eq!(said.ok(), format!("open\n{} (enforce)", profile.0));
    assert!(said.err.contains("/tmp/secret: Permission denied"), "{}", said.err);
    // The profile did it, not the file.
    let without = Bundle::new(WRITE_BOTH).run();
    assert!(without.out.starts_with("open\nsecret\n"), "{} {}", without.out, without.err);
}

#[test]
fn exec_is_under_the_profile_of_its_container_or_its_own() {
    let Some(profile) = Profile::load("exec", "file,\ncapability,\nsignal,\ndeny /tmp/secret w,") else {
        return;
    };
    let mut bundle = Bundle::new("sleep 600");
    bundle.spec["process"]["apparmorProfile"] = json!(profile.0);
    bundle.start();
    let said = bundle.say(&["exec", "ID", "sh", "-c", WRITE_BOTH]);
    assert_eq!(said.ok(), format!("open\n{} (enforce)", profile.0));
    let own = Profile::load("exec-own", "file,\ncapability,\nsignal,\ndeny /tmp/open w,").unwrap();
    let said = bundle.say(&["exec", "--apparmor", &own.0, "ID", "sh", "-c", WRITE_BOTH]);
    assert_eq!(said.ok(), format!("secret\n{} (enforce)", own.0));
}

#[test]
fn a_profile_that_is_not_loaded_starts_nothing() {
    let Some(_profile) = Profile::load("other", "file,") else { return };
    let mut bundle = Bundle::new("echo ran");
    bundle.spec["process"]["apparmorProfile"] = json!("berth-test-never-loaded");
    let said = bundle.run();
    assert!(!said.out.contains("ran"));
    said.refused(&["berth-test-never-loaded"]);
}

const OWN: &str = "s0:c1,c2";
const FOREIGN: &str = "s0:c3,c4";

/// A bundle whose files have the label of one pod, and one file that of another. None where SELinux does not enforce.
fn labelled(script: &str) -> Option<Bundle> {
    let enforcing = fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|word| word.trim() == "1");
    if !is_root() || !enforcing {
        println!("skipped: needs an enforcing SELinux (cargo xtask vm --lsm selinux)");
        return None;
    }
    let mut bundle = Bundle::new(script);
    fs::write(bundle.rootfs().join("etc/own"), "own").unwrap();
    fs::write(bundle.rootfs().join("etc/foreign"), "foreign").unwrap();
    let label = |level: &str, path: std::path::PathBuf| {
        let label = format!("system_u:object_r:container_file_t:{level}");
        assert!(Command::new("chcon").arg("-R").arg(label).arg(path).status().unwrap().success());
    };
    // Where engines keep their bundles; what is made in it later is labelled so as well.
    let bundles = ["-R", "-t", "container_var_lib_t"];
    assert!(Command::new("chcon").args(bundles).arg(bundle.path()).status().unwrap().success());
    // As a package would label it: the policy lets only engines make containers. A copy, since the build may be on a
    // file system without labels.
    let program = bundle.path().join("program");
    assert!(Command::new("cp").arg(&bundle.program).arg(&program).status().unwrap().success());
    let engine = ["-t", "container_engine_exec_t"];
    assert!(Command::new("chcon").args(engine).arg(&program).status().unwrap().success());
    bundle.program = program;
    label(OWN, bundle.rootfs());
    label(FOREIGN, bundle.rootfs().join("etc/foreign"));
    bundle.spec["process"]["selinuxLabel"] = json!(format!("system_u:system_r:container_t:{OWN}"));
    // A policy may let no_new_privs keep a process from changing its domain.
    bundle.spec["process"]["noNewPrivileges"] = json!(false);
    Some(bundle)
}

#[test]
fn an_selinux_label_denies_the_container_the_files_of_another() {
    // A container may not write to our pipes either, so it writes to a file.
    let script =
        "exec > /tmp/out 2>&1; cat /proc/self/attr/current; echo; cat /etc/own; echo; cat /etc/foreign";
    let Some(bundle) = labelled(script) else { return };
    let said = bundle.run();
    let out = fs::read_to_string(bundle.rootfs().join("tmp/out")).unwrap_or(said.err);
    let out = out.replace('\0', "");
    assert!(out.contains(&format!("container_t:{OWN}")), "{out}");
    assert!(out.contains("\nown\n"), "{out}");
    assert!(out.contains("'/etc/foreign': Permission denied"), "{out}");
}

#[test]
fn exec_has_the_label_of_its_container_or_its_own() {
    let Some(bundle) = labelled("sleep 600") else { return };
    bundle.start();
    // Both may read this file, whatever their categories.
    let common = "system_u:object_r:container_file_t:s0";
    let out = bundle.rootfs().join("tmp/out");
    fs::write(&out, "").unwrap();
    assert!(Command::new("chcon").arg(common).arg(&out).status().unwrap().success());
    let script = "exec > /tmp/out 2>&1; cat /proc/self/attr/current";
    let label_of = |options: &[&str]| {
        let said = bundle.say(&[&["exec"], options, &["ID", "sh", "-c", script]].concat());
        assert_eq!(said.code, 0, "{}", said.err);
        fs::read_to_string(&out).unwrap().replace('\0', "").trim().to_owned()
    };
    assert_eq!(label_of(&[]), format!("system_u:system_r:container_t:{OWN}"));
    let own = "system_u:system_r:container_t:s0:c7,c9";
    // Its own root directory has the other's categories; the shell, which it begins with, must not.
    for path in ["", "bin", "bin/busybox", "bin/sh", "bin/cat", "tmp"] {
        let path = bundle.rootfs().join(path);
        assert!(Command::new("chcon").arg("-h").arg(common).arg(path).status().unwrap().success());
    }
    assert_eq!(label_of(&["--process-label", own]), own);
}

#[test]
fn the_mount_label_is_on_the_files_of_the_containers_own_file_systems() {
    let Some(mut bundle) = labelled("sleep 600") else { return };
    bundle.spec["linux"]["mountLabel"] = json!(format!("system_u:object_r:container_file_t:{OWN}"));
    bundle.mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"}));
    bundle.mount(json!({"destination": "/queues", "type": "mqueue", "source": "mqueue"}));
    bundle.start();
    for place in ["data", "queues", "dev", "dev/pts"] {
        let path = format!("/proc/{}/root/{place}", bundle.pid());
        let said = Command::new("stat").args(["-c", "%C"]).arg(&path).output().unwrap();
        let label = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        assert_eq!(label, format!("system_u:object_r:container_file_t:{OWN}"), "{place}");
    }
}
