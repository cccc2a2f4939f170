//! The systemd driver of an ordinary user, whose own manager makes the scopes: in the virtual machine, where systemd is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::bundle::{is_root, wait_until};
use crate::rootless::Ordinary;

/// An account with a manager that runs, gone with the test.
struct Account {
    name: String,
    uid: u32,
}

impl Account {
    /// None where there is no systemd to ask.
    fn new(test: &str) -> Option<Account> {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        if !is_root() || !unified || !Path::new("/run/systemd/system").exists() {
            println!("skipped: needs systemd and cgroup v2 alone (cargo xtask vm)");
            return None;
        }
        let name = format!("berth-{test}");
        assert!(Command::new("useradd").arg(&name).status().unwrap().success());
        let id = Command::new("id").args(["-u", &name]).output().unwrap();
        let uid = String::from_utf8(id.stdout).unwrap().trim().parse().unwrap();
        let account = Account { name, uid };
        assert!(account.systemctl("start").success());
        wait_until(|| account.runtime_dir().join("bus").exists(), "a user's message bus");
        Some(account)
    }

    fn systemctl(&self, verb: &str) -> std::process::ExitStatus {
        Command::new("systemctl").args([verb, &format!("user@{}.service", self.uid)]).status().unwrap()
    }

    fn runtime_dir(&self) -> PathBuf {
        format!("/run/user/{}", self.uid).into()
    }

    fn container(&self, script: &str, change: impl FnOnce(&mut Value)) -> Ordinary {
        Ordinary::of(self.uid, Some(self.runtime_dir()), &["--systemd-cgroup"], script, change)
    }

    /// A property of a unit of the user's manager.
    fn shown(&self, unit: &str, property: &str) -> String {
        let machine = format!("--machine={}@", self.name);
        let words = ["--user", &machine, "show", "--value", "-p", property, unit];
        let output = Command::new("systemctl").args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.systemctl("stop");
        let _ = Command::new("userdel").args(["--force", &self.name]).status();
    }
}

#[test]
fn an_ordinary_users_limits_are_properties_in_the_users_own_manager() {
    let Some(account) = Account::new("limits") else { return };
    let container = account.container("exec sleep 600", |spec| {
        spec["linux"]["cgroupsPath"] = json!("berth-test.slice:rt:own");
        spec["linux"]["resources"] = json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 77}});
    });
    container.start();
    let state: Value = serde_json::from_str(container.say(&["state", "ID"]).ok()).unwrap();
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", state["pid"])).unwrap();
    let of_user = format!("/user.slice/user-{0}.slice/user@{0}.service/", account.uid);
    let path = cgroup.trim().strip_prefix("0::").unwrap();
    assert!(path.starts_with(&of_user), "{path}");
    assert!(path.ends_with("/berth.slice/berth-test.slice/rt-own.scope/container"), "{path}");
    let read = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup{path}/{file}")).unwrap();
    assert_eq!((read("pids.max").trim(), read("memory.max").trim()), ("77", "67108864"));
    assert_eq!(account.shown("rt-own.scope", "TasksMax"), "77");
    assert_eq!(account.shown("rt-own.scope", "MemoryMax"), "67108864");
    container.say(&["update", "--pids-limit", "55", "ID"]).ok();
    assert_eq!(account.shown("rt-own.scope", "TasksMax"), "55");
    assert_eq!(read("pids.max").trim(), "55");
    assert_eq!(container.say(&["exec", "ID", "id", "-u"]).ok(), "0");
    container.say(&["pause", "ID"]).ok();
    assert!(container.say(&["state", "ID"]).out.contains("\"paused\""));
    container.say(&["resume", "ID"]).ok();
    container.say(&["delete", "--force", "ID"]).ok();
    assert_eq!(account.shown("rt-own.scope", "LoadState"), "not-found");
    assert!(!Path::new(&format!("/sys/fs/cgroup{path}")).exists());
}

#[test]
fn without_a_users_message_bus_it_is_said_where_it_was_looked_for() {
    let Some(account) = Account::new("busless") else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let mut container = account.container("true", |_| {});
    container.set_runtime_dir(elsewhere.path());
    let bus = elsewhere.path().join("bus");
    container.say(&["run", "ID"]).refused(&[bus.to_str().unwrap(), "message bus"]);
}
