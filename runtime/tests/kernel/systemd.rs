//! The systemd driver, where systemd is the init of a node with cgroup v2 alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::bundle::{Bundle, is_root};
use crate::{checkpoint, killed};

/// A container whose cgroup systemd makes, in a slice of the test's own.
struct Scoped(Bundle);

impl Scoped {
    /// None where there is no systemd to ask.
    fn new(script: &str) -> Option<Scoped> {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        if !is_root() || !unified || !Path::new("/run/systemd/system").exists() {
            println!("skipped: needs systemd and cgroup v2 alone (cargo xtask vm)");
            return None;
        }
        let mut bundle = Bundle::new(script);
        bundle.spec["linux"]["cgroupsPath"] = json!(format!("berth-test.slice:rt:{}", bundle.id));
        Some(Scoped(bundle))
    }

    fn unit(&self) -> String {
        format!("rt-{}.scope", self.0.id)
    }

    fn scope_dir(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup/berth.slice/berth-test.slice").join(self.unit())
    }

    fn create(&self) {
        self.0.write();
        let (out, log) = (self.0.path().join("out"), self.0.path().join("log"));
        let mut command = self.0.command(&["--systemd-cgroup", "create", &self.0.id]);
        command.stdin(Stdio::null()).stdout(fs::File::create(out).unwrap());
        let status = command.stderr(fs::File::create(&log).unwrap()).status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(&log).unwrap());
    }

    fn start(&self) {
        self.create();
        self.0.say(&["start", "ID"]).ok();
    }

    /// A property as systemctl shows it.
    fn shown(&self, property: &str) -> String {
        let command = ["show", "--value", "-p", property, &self.unit()];
        let output = Command::new("systemctl").args(command).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.scope_dir().join(name)).unwrap().trim().to_owned()
    }

    fn is_gone(&self) -> bool {
        self.shown("LoadState") == "not-found" && !self.scope_dir().exists()
    }
}

#[test]
fn a_container_lives_below_a_scope_of_its_slice_and_goes_with_it() {
    let Some(scoped) = Scoped::new("sleep 600") else { return };
    scoped.start();
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", scoped.0.pid())).unwrap();
    let expected = format!("0::/berth.slice/berth-test.slice/{}/container", scoped.unit());
    assert_eq!(cgroup.trim(), expected);
    assert_eq!(scoped.shown("ActiveState"), "active");
    assert_eq!(scoped.shown("Delegate"), "yes");
    assert_eq!(scoped.shown("Slice"), "berth-test.slice");
    assert_eq!(scoped.shown("DefaultDependencies"), "no");
    assert_eq!(scoped.file("cgroup.procs"), "", "a keeper is left");
    assert_eq!(scoped.file("container/cgroup.procs"), scoped.0.pid().to_string());
    scoped.0.say(&["delete", "--force", "ID"]).ok();
    assert!(scoped.is_gone(), "{} {}", scoped.shown("LoadState"), scoped.scope_dir().exists());
}

#[test]
fn limits_are_the_scopes_and_the_containers() {
    let Some(mut scoped) = Scoped::new("sleep 600") else { return };
    scoped.0.spec["linux"]["resources"] = json!({
        "memory": {"limit": 67_108_864, "swap": 67_108_864, "reservation": 33_554_432},
        "cpu": {"shares": 2048, "quota": 33_333, "period": 50_000, "cpus": "0"},
        "pids": {"limit": 77},
        "unified": {"memory.high": "60000000"}
    });
    scoped.start();
    let weight = scoped.file("container/cpu.weight");
    let expected = [
        ("MemoryMax", "memory.max", "67108864"),
        ("MemoryHigh", "memory.high", "59998208"),
        ("MemoryLow", "memory.low", "33554432"),
        ("MemorySwapMax", "memory.swap.max", "0"),
        ("CPUWeight", "cpu.weight", &weight),
        ("TasksMax", "pids.max", "77"),
        ("AllowedCPUs", "cpuset.cpus", "0"),
    ];
    for (property, file, value) in expected {
        assert_eq!(scoped.file(file), value, "the scope's {file}");
        assert_eq!(scoped.file(&format!("container/{file}")), value, "the container's {file}");
        if property != "MemoryHigh" {
            assert_eq!(scoped.shown(property), value, "{property}");
        }
    }
    assert_eq!(scoped.shown("CPUQuotaPerSecUSec"), "670ms");
    assert_eq!(scoped.file("container/cpu.max"), "33333 50000");
    // What is systemd's stays so when it reads all units again.
    assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
    assert_eq!(scoped.file("memory.max"), "67108864");
    assert_eq!(scoped.file("container/memory.max"), "67108864");
}

#[test]
fn an_update_changes_the_scopes_properties_and_the_containers_files() {
    let Some(mut scoped) = Scoped::new("sleep 600") else { return };
    scoped.0.spec["linux"]["resources"] = json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 77}});
    scoped.start();
    let new =
        ["--memory", "134217728", "--pids-limit", "55", "--cpu-quota", "20000", "--cpu-period", "100000"];
    scoped.0.say(&[&["update"], &new[..], &["--cpuset-cpus", "0", "ID"]].concat()).ok();
    let check = |when: &str| {
        let expected = [
            ("MemoryMax", "memory.max", "134217728"),
            ("TasksMax", "pids.max", "55"),
            ("AllowedCPUs", "cpuset.cpus", "0"),
        ];
        for (property, file, value) in expected {
            assert_eq!(scoped.shown(property), value, "{property} {when}");
            assert_eq!(scoped.file(file), value, "the scope's {file} {when}");
            assert_eq!(scoped.file(&format!("container/{file}")), value, "the container's {file} {when}");
        }
        assert_eq!(scoped.shown("CPUQuotaPerSecUSec"), "200ms", "{when}");
        assert_eq!(scoped.file("container/cpu.max"), "20000 100000", "{when}");
    };
    check("at once");
    // A property that systemd did not know would be lost here.
    assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
    check("after a reload");
    scoped.0.say(&["update", "--memory", "-1", "ID"]).ok();
    assert_eq!(scoped.shown("MemoryMax"), "infinity");
    assert_eq!(
        (scoped.file("memory.max"), scoped.file("container/memory.max")),
        ("max".into(), "max".into())
    );
}

#[test]
fn a_container_divides_its_own_cgroup() {
    let script = "mkdir /sys/fs/cgroup/init /sys/fs/cgroup/part; echo $$ > /sys/fs/cgroup/init/cgroup.procs; \
        echo +pids > /sys/fs/cgroup/cgroup.subtree_control; echo 5 > /sys/fs/cgroup/part/pids.max; \
        cat /sys/fs/cgroup/part/pids.max /proc/self/cgroup";
    let Some(mut scoped) = Scoped::new(script) else { return };
    scoped.0.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}));
    scoped.0.write();
    assert_eq!(scoped.0.say(&["--systemd-cgroup", "run", "ID"]).ok(), "5\n0::/init");
    assert!(scoped.is_gone());
}

#[test]
fn a_restored_container_is_in_a_scope_of_its_own_again() {
    let Some(mut lab) = checkpoint::Lab::new(checkpoint::COUNTING) else { return };
    let Some(scoped) = Scoped::new("true") else { return };
    lab.global.push("--systemd-cgroup");
    lab.bundle.spec["linux"]["cgroupsPath"] = json!(format!("berth-test.slice:rt:{}", scoped.0.id));
    lab.bundle.spec["linux"]["resources"] = json!({"pids": {"limit": 77}});
    lab.run();
    lab.wait_until_it_counts();
    lab.checkpoint(&[]).ok();
    let before = lab.ended();
    assert!(scoped.is_gone());
    lab.restore(&[]).ok();
    lab.goes_on_from(before);
    assert_eq!(scoped.file("container/cgroup.procs").lines().next().unwrap(), lab.bundle.pid().to_string());
    assert_eq!((scoped.shown("TasksMax"), scoped.file("container/pids.max")), ("77".into(), "77".into()));
    lab.bundle.say(&["delete", "--force", "ID"]).ok();
    assert!(scoped.is_gone());
}

#[test]
fn annotations_become_properties_of_the_scope() {
    let Some(mut scoped) = Scoped::new("sleep 600") else { return };
    scoped.0.spec["annotations"] = json!({
        "org.systemd.property.TimeoutStopSec": "7",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "unrelated": "x"
    });
    scoped.start();
    assert_eq!(scoped.shown("TimeoutStopUSec"), "7s");
    assert_eq!(scoped.shown("CollectMode"), "inactive-or-failed");
}

#[test]
fn a_property_that_systemd_does_not_know_is_refused_and_leaves_nothing() {
    let Some(mut scoped) = Scoped::new("true") else { return };
    scoped.0.spec["annotations"] = json!({"org.systemd.property.Nonsense": "7"});
    scoped.0.write();
    scoped.0.say(&["--systemd-cgroup", "run", "ID"]).refused(&["Nonsense", &scoped.unit()]);
    assert!(scoped.is_gone());
}

#[test]
fn a_limit_that_the_kernel_refuses_leaves_no_scope() {
    let Some(mut scoped) = Scoped::new("true") else { return };
    scoped.0.spec["linux"]["resources"] = json!({"unified": {"memory.max": "plenty"}});
    scoped.0.write();
    scoped.0.say(&["--systemd-cgroup", "run", "ID"]).refused(&["memory.max", "plenty"]);
    assert!(scoped.is_gone());
}

/// Every twelfth call: where this runs, each attempt takes seconds. `BERTH_KILL_STEP` takes others.
#[test]
fn a_create_killed_at_its_calls_leaves_no_scope() {
    if Scoped::new("true").is_none() || !killed::can_run() {
        return;
    }
    let bundle = || {
        let mut bundle = killed::bundle();
        bundle.spec["linux"]["cgroupsPath"] = json!(format!("berth-test.slice:rt:{}", bundle.id));
        bundle.write();
        bundle
    };
    let is_gone = |bundle: &Bundle, moment: &str| {
        let unit = format!("rt-{}.scope", bundle.id);
        let shown = Command::new("systemctl").args(["show", "--value", "-p", "LoadState", &unit]).output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        assert_eq!(shown.trim(), "not-found", "{unit} {moment}");
    };
    killed::everywhere(bundle, &["--systemd-cgroup", "create", "ID"], |_| {}, is_gone, 12);
}

#[test]
fn a_path_is_no_slice() {
    let Some(mut scoped) = Scoped::new("true") else { return };
    scoped.0.spec["linux"]["cgroupsPath"] = json!("/a/b");
    scoped.0.write();
    scoped.0.say(&["--systemd-cgroup", "run", "ID"]).refused(&["/a/b", "SLICE:PREFIX:NAME"]);
    scoped.0.spec["linux"]["cgroupsPath"] = json!("a.slice:x:y");
    scoped.0.write();
    scoped.0.say(&["run", "ID"]).refused(&["linux.cgroupsPath", "systemd"]);
}

#[test]
fn somebody_elses_scope_of_that_name_is_left_alone() {
    let Some(scoped) = Scoped::new("true") else { return };
    let unit = format!("--unit={}", scoped.unit());
    let mut other = Command::new("systemd-run");
    other.args(["--scope", "--quiet", "--slice=berth-test.slice", &unit, "sleep", "600"]);
    let mut other = other.spawn().unwrap();
    crate::bundle::wait_until(|| scoped.shown("ActiveState") == "active", "active");
    scoped.0.write();
    let said = scoped.0.say(&["--systemd-cgroup", "run", "ID"]);
    assert_eq!(scoped.shown("ActiveState"), "active");
    let alive = other.try_wait().unwrap().is_none();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(alive, "its process was killed");
    said.refused(&[&scoped.unit(), "UnitExists"]);
}

#[test]
fn a_name_can_be_used_again_after_a_death_for_want_of_memory() {
    let Some(mut scoped) = Scoped::new("head -c 100000000 /dev/zero | tail -c 90000000") else { return };
    scoped.0.spec["linux"]["resources"] = json!({"memory": {"limit": 8_388_608, "swap": 8_388_608}});
    scoped.0.write();
    for _ in 0..2 {
        let said = scoped.0.say(&["--systemd-cgroup", "run", "ID"]);
        assert_ne!(said.code, 0);
        assert!(!said.err.contains("scope"), "{}", said.err);
        assert!(scoped.is_gone());
    }
}

#[test]
fn exec_and_kill_need_no_message_bus() {
    let Some(scoped) = Scoped::new("sleep 600") else { return };
    scoped.start();
    let words = scoped.0.command(&["exec", &scoped.0.id, "cat", "/proc/self/cgroup"]);
    let hidden = "mount -t tmpfs none /run/dbus && mount -t tmpfs none /run/systemd && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", hidden, "sh"]);
    command.arg(words.get_program()).args(words.get_args()).current_dir(scoped.0.path());
    let output = command.output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{out} {}", String::from_utf8_lossy(&output.stderr));
    // As seen from its cgroup namespace: its own cgroup, with nothing above.
    assert_eq!(out.trim(), "0::/");
}

#[test]
fn without_a_message_bus_the_manager_is_asked_directly() {
    let Some(scoped) = Scoped::new("echo ran") else { return };
    scoped.0.write();
    let words = scoped.0.command(&["--systemd-cgroup", "run", &scoped.0.id]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t tmpfs none /run/dbus && exec \"$@\"", "sh"]);
    command.arg(words.get_program()).args(words.get_args()).current_dir(scoped.0.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ran\n");
    assert!(scoped.is_gone());
}

#[test]
fn a_container_mounts_its_own_cgroup() {
    let Some(mut scoped) = Scoped::new("cat /sys/fs/cgroup/pids.max /proc/self/cgroup") else { return };
    scoped.0.spec["linux"]["resources"] = json!({"pids": {"limit": 55}});
    let options = ["nosuid", "noexec", "nodev", "ro"];
    scoped.0.mount(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}),
    );
    scoped.0.write();
    assert_eq!(scoped.0.say(&["--systemd-cgroup", "run", "ID"]).ok(), "55\n0::/");
}
