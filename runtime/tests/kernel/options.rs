//! Options of runc's commands, each by what it does to a container.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::bundle::{Bundle, Said, is_root};
use crate::limits::limit_if_any;

/// A session keyring of its own with a key that only who has the keyring can see, then `berth-runtime WORDS`.
/// The numbers are add_key(2) and keyctl(2) with KEYCTL_JOIN_SESSION_KEYRING and KEYCTL_SETPERM.
fn with_a_key(bundle: &Bundle, words: &[&str]) -> Said {
    let script = "my ($kind, $name, $value) = ('user', 'berth-key', 'x');
        syscall(250, 1, 0) > 0 or die 'keyctl: ' . $!;
        my $key = syscall(248, $kind, $name, $value, 1, -3); $key > 0 or die 'add_key: ' . $!;
        syscall(250, 5, $key, 0x3f000000) == 0 or die 'setperm: ' . $!;
        exec @ARGV";
    let own = bundle.command(words);
    let mut command = Command::new("perl");
    command.args(["-e", script]).arg(own.get_program()).args(own.get_args()).current_dir(bundle.path());
    Said::from(command.stdin(std::process::Stdio::null()).output().unwrap())
}

#[test]
fn a_container_has_a_session_keyring_of_its_own_unless_told_otherwise() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("grep -c berth-key /proc/keys || true");
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    bundle.write();
    assert_eq!(with_a_key(&bundle, &["run", &bundle.id]).ok(), "0");
    assert_eq!(with_a_key(&bundle, &["run", "--no-new-keyring", &bundle.id]).ok(), "1");
    assert_eq!(with_a_key(&bundle, &["run", "--no-new-keyring=false", &bundle.id]).ok(), "0");
}

#[test]
fn an_exec_has_no_keyring_of_its_caller() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    bundle.start();
    let words = ["exec", &bundle.id, "sh", "-c", "grep -c berth-key /proc/keys || true"];
    assert_eq!(with_a_key(&bundle, &words).ok(), "0");
}

#[test]
fn exec_has_the_groups_that_it_was_given() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.spec["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [9]});
    bundle.start();
    let groups = |options: &[&str]| {
        let words = [&["exec"], options, &["ID", "sh", "-c", "grep Groups /proc/self/status"]].concat();
        let said = bundle.say(&words);
        said.ok().trim_start_matches("Groups:").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(groups(&[]), ["9"]);
    assert_eq!(groups(&["-g", "7", "--additional-gids", "11"]), ["7", "9", "11"]);
    bundle.say(&["exec", "-g", "many", "ID", "true"]).refused(&["-g", "many"]);
}

#[test]
fn a_label_or_profile_that_the_node_does_not_know_starts_no_exec() {
    let known = |name: &str| fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|on| on.contains(name));
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    if !known("apparmor") {
        bundle
            .say(&["exec", "--apparmor", "some-profile", "ID", "true"])
            .refused(&["process.apparmorProfile", "AppArmor is not on"]);
    }
    if !known("selinux") {
        bundle
            .say(&["exec", "--process-label", "a:b:c:s0", "ID", "true"])
            .refused(&["process.selinuxLabel", "SELinux is not on"]);
    }
}

#[test]
fn update_takes_each_of_runcs_limits() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    bundle.spec["linux"]["resources"]["cpu"] = json!({"quota": 50_000, "period": 100_000});
    bundle.start();
    let told: &[(&[&str], &str, &str, &str)] = &[
        (&["--cpu-share", "512"], "cpu.shares", "cpu.weight", "512 59"),
        (&["--cpu-period", "50000", "--cpu-quota", "20000"], "cpu.cfs_quota_us", "cpu.max", "20000"),
        (&["--cpu-burst", "10000"], "cpu.cfs_burst_us", "cpu.max.burst", "10000"),
        (&["--cpu-idle", "1"], "cpu.idle", "cpu.idle", "1"),
        (&["--cpuset-cpus", "0"], "cpuset.cpus", "cpuset.cpus", "0"),
        (&["--cpuset-mems", "0"], "cpuset.mems", "cpuset.mems", "0"),
        (&["--memory-reservation", "32M"], "memory.soft_limit_in_bytes", "memory.low", "33554432"),
        (
            &["--memory", "96M", "--memory-swap", "128M"],
            "memory.memsw.limit_in_bytes",
            "memory.swap.max",
            "134217728 33554432",
        ),
        (
            &["--kernel-memory", "1M", "--kernel-memory-tcp", "1M", "--pids-limit", "33"],
            "pids.max",
            "pids.max",
            "33",
        ),
    ];
    for (options, v1, v2, wanted) in told {
        bundle.say(&[&["update"], *options, &["ID"]].concat()).ok();
        let Some(found) = limit_if_any(&bundle, v1, v2) else {
            println!("skipped: no {v1} or {v2} on this node");
            continue;
        };
        let first = found.split(' ').next().unwrap();
        assert!(wanted.split(' ').any(|one| one == first), "{options:?}: {found}");
    }
    bundle.say(&["update", "--cpu-idle", "2", "ID"]).refused(&["cpu.idle"]);
    bundle.say(&["update", "--cpu-rt-runtime", "much", "ID"]).refused(&["--cpu-rt-runtime", "much"]);
}
