//! Users, capabilities, limits and what else the process is.

use serde_json::json;

use crate::bundle::{Bundle, Said, is_root};

fn status(bundle: &mut Bundle) -> String {
    bundle.spec["process"]["args"] = json!(["cat", "/proc/self/status"]);
    bundle.run().ok().to_owned()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap()
}

#[test]
fn capabilities_are_those_that_were_asked_for() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("");
    let text = status(&mut bundle);
    // CAP_CHOWN is 0, CAP_KILL is 5.
    for (set, mask) in [("CapBnd", 0x21), ("CapPrm", 0x21), ("CapEff", 0x21), ("CapInh", 0), ("CapAmb", 0)] {
        assert_eq!(field(&text, set), format!("{mask:016x}"), "{set}");
    }
    assert_eq!(field(&text, "NoNewPrivs"), "1");
}

#[test]
fn ambient_capabilities_survive_a_change_of_user() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("");
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 1002]});
    let kill = json!(["CAP_KILL"]);
    bundle.spec["process"]["capabilities"] =
        json!({"bounding": kill, "permitted": kill, "inheritable": kill, "effective": kill, "ambient": kill});
    let text = status(&mut bundle);
    for set in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(field(&text, set), format!("{:016x}", 0x20), "{set}");
    }
    assert_eq!(field(&text, "Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(field(&text, "Gid"), "1001\t1001\t1001\t1001");
    assert_eq!(field(&text, "Groups").trim(), "5 1002");
}

#[test]
fn another_user_has_no_capabilities_without_ambient_ones() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("");
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let text = status(&mut bundle);
    assert_eq!(field(&text, "CapEff"), format!("{:016x}", 0));
    assert_eq!(field(&text, "CapBnd"), format!("{:016x}", 0x21));
    assert_eq!(field(&text, "Groups").trim(), "");
}

#[test]
fn capabilities_that_we_lack_are_warned_of() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["process"]["capabilities"]["bounding"] = json!(["CAP_NOSUCH"]);
    bundle.spec["process"]["capabilities"]["effective"] = json!([]);
    let said = bundle.run();
    said.ok();
    assert!(said.err.contains("CAP_NOSUCH"), "{}", said.err);
}

#[test]
fn an_ambient_capability_that_is_not_inheritable_is_warned_of() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("grep CapAmb /proc/self/status");
    bundle.spec["process"]["capabilities"]["inheritable"] = json!(["CAP_CHOWN"]);
    bundle.spec["process"]["capabilities"]["ambient"] = json!(["CAP_CHOWN", "CAP_KILL"]);
    let said = bundle.run();
    assert_eq!(said.ok(), "CapAmb:\t0000000000000001");
    assert!(said.err.contains("ambient") && said.err.contains("CAP_KILL"), "{}", said.err);
    assert!(!said.err.contains("CAP_CHOWN"), "{}", said.err);
}

#[test]
fn limits_umask_and_oom_score_are_set() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("ulimit -n; umask; cat /proc/self/oom_score_adj");
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    bundle.spec["process"]["user"]["umask"] = json!(0o27);
    bundle.spec["process"]["oomScoreAdj"] = json!(500);
    assert_eq!(bundle.run().ok(), "100\n0027\n500");
}

#[test]
fn an_oom_score_that_may_not_be_lowered_is_a_warning() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["process"]["oomScoreAdj"] = json!(-999);
    let said = bundle.run();
    said.ok();
    let may = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = u64::from_str_radix(field(&may, "CapEff"), 16).unwrap();
    let cap_sys_resource = 1 << 24;
    assert_eq!(said.err.contains("oom_score_adj"), effective & cap_sys_resource == 0, "{}", said.err);
}

#[test]
fn signals_are_at_their_defaults_whatever_the_caller_ignores() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec cat /proc/self/status");
    bundle.write();
    let run = bundle.command(&["run", &bundle.id]);
    // As a background job of a shell, nohup(1) and Python do.
    let script = "trap '' HUP INT QUIT PIPE TERM TSTP XFSZ USR1; exec \"$@\"";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, "sh"]).arg(run.get_program()).args(run.get_args());
    let said = Said::from(command.current_dir(bundle.path()).output().unwrap());
    let text = said.ok();
    assert_eq!(field(text, "SigBlk"), format!("{:016x}", 0));
    // 32 and 33 are the C library's own, and may come ignored from whoever runs the tests.
    let ignored = u64::from_str_radix(field(text, "SigIgn"), 16).unwrap();
    assert_eq!(ignored & !(0b11 << 31), 0, "{ignored:x}");
}

#[test]
fn scheduler_and_io_priority_are_set() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("cat /proc/self/stat");
    bundle.spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
    bundle.spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    let said = bundle.run();
    let fields: Vec<&str> = said.ok().split(' ').collect();
    assert_eq!(fields[18], "5", "nice");
    assert_eq!(fields[40], "3", "SCHED_BATCH");
}

#[test]
fn a_working_directory_that_is_missing_is_made() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("pwd");
    bundle.spec["process"]["cwd"] = json!("/srv/a/b");
    assert_eq!(bundle.run().ok(), "/srv/a/b");
}

#[test]
fn home_comes_from_the_containers_passwd_when_nobody_says() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("echo $HOME");
    assert_eq!(bundle.run().ok(), "/root");
    std::fs::write(bundle.rootfs().join("etc/passwd"), "app:x:1000:1000::/srv/app:/bin/sh\n").unwrap();
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(bundle.run().ok(), "/srv/app");
    bundle.spec["process"]["env"] = json!(["PATH=/bin", "HOME=/mine"]);
    assert_eq!(bundle.run().ok(), "/mine");
}

#[test]
fn personality_and_memory_policy_are_those_of_the_init_and_of_an_exec() {
    if !is_root() {
        return;
    }
    let look = "/bin/busybox uname -m; head -n 1 /proc/self/numa_maps";
    let mut bundle = Bundle::new(&format!("{look}; exec sleep 100"));
    bundle.spec["linux"]["personality"] = json!({"domain": "LINUX32"});
    bundle.spec["linux"]["memoryPolicy"] =
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    bundle.start();
    crate::bundle::wait_until(|| bundle.output().lines().count() == 2, "written");
    let exec = bundle.say(&["exec", "ID", "sh", "-c", look]);
    for text in [bundle.output().as_str(), exec.ok()] {
        assert!(text.starts_with("i686\n") && text.contains(" bind=static:0 "), "{text}");
    }
    bundle.say(&["delete", "--force", "ID"]).ok();
    bundle.spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "4000"});
    bundle.run().refused(&["memory policy", "linux.memoryPolicy", "Invalid argument"]);
}

#[test]
fn every_policy_of_the_scheduler_is_the_kernels() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("");
    bundle.spec["process"]["args"] = json!(["cat", "/proc/self/stat"]);
    // A cgroup of v1 gives no time to real-time processes unless told to, where the kernel divides it.
    let divided = std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists();
    let some = json!({"realtimeRuntime": 10_000, "realtimePeriod": 1_000_000});
    let time = if divided { some } else { json!({}) };
    for (scheduler, cpu, priority, policy) in [
        (json!({"policy": "SCHED_OTHER", "nice": -5}), json!({}), "0", "0"),
        (json!({"policy": "SCHED_BATCH"}), json!({}), "0", "3"),
        (json!({"policy": "SCHED_IDLE"}), json!({}), "0", "5"),
        (json!({"policy": "SCHED_FIFO", "priority": 3}), time.clone(), "3", "1"),
        (json!({"policy": "SCHED_RR", "priority": 9, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}), time, "9", "2"),
        (
            json!({"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 20_000_000, "period": 20_000_000}),
            json!({}),
            "0",
            "6",
        ),
    ] {
        bundle.spec["process"]["scheduler"] = scheduler.clone();
        bundle.spec["linux"]["resources"]["cpu"] = cpu;
        let said = bundle.run();
        let fields: Vec<&str> = said.ok().split(' ').collect();
        assert_eq!(fields[39..41], [priority, policy], "{scheduler}");
    }
    bundle.spec["process"]["scheduler"] = json!({"policy": "SCHED_ISO"});
    bundle.run().refused(&["setting the scheduler (process.scheduler)", "Invalid argument"]);
}
