//! update, events and ps: limits that change, what was used, and who is there.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::bundle::{Bundle, is_root, wait_until};

/// The container's value in a file of a v1 controller, or of v2's other name for it; none where the node has neither.
pub(crate) fn limit_if_any(bundle: &Bundle, v1: &str, v2: &str) -> Option<String> {
    let controller = v1.split('.').next().unwrap();
    let text = fs::read_to_string(format!("/sys/fs/cgroup/{controller}/{}/{v1}", bundle.id))
        .or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup/{}/{v2}", bundle.id)));
    Some(text.ok()?.trim().to_owned())
}

fn limit(bundle: &Bundle, v1: &str, v2: &str) -> String {
    limit_if_any(bundle, v1, v2).unwrap()
}

#[test]
fn limits_change_and_what_is_not_named_stays() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    bundle.spec["linux"]["resources"]["cpu"] = json!({"quota": 20_000, "period": 50_000});
    bundle.start();
    bundle.say(&["update", "--memory", "96M", "--pids-limit", "77", "ID"]).ok();
    assert_eq!(limit(&bundle, "memory.limit_in_bytes", "memory.max"), (96 << 20).to_string());
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "77");
    bundle.say(&["update", "--cpu-quota", "30000", "ID"]).ok();
    let quota = limit(&bundle, "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota.split(' ').next(), Some("30000"));
    let period = limit(&bundle, "cpu.cfs_period_us", "cpu.max");
    assert_eq!(period.split(' ').next_back(), Some("50000"), "the period that was goes with it");
    bundle.say(&["update", "--memory", "64X", "ID"]).refused(&["--memory", "64X"]);
    bundle.say(&["update", "--cpuset-cpus", "9999", "ID"]).refused(&["cpu.cpus", "9999"]);
    bundle.say(&["update", "--mem-bw-schema", "L3:0=f", "ID"]).refused(&["memBwSchema", "MB:"]);
    if !fs::read_to_string("/proc/mounts").unwrap().contains(" resctrl ") {
        let told = bundle.say(&["update", "--l3-cache-schema", "L3:0=f", "ID"]);
        told.refused(&["linux.intelRdt", "no resctrl file system is mounted"]);
    }
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "77");
}

#[test]
fn under_a_limit_of_no_tasks_or_one_the_program_runs_and_may_not_fork() {
    if !is_root() {
        return;
    }
    for asked in ["0", "1"] {
        for kinds in [&["pid"][..], &["pid", "time"]] {
            let mut bundle = Bundle::new("echo alive; (echo forked); echo on");
            bundle.spec["linux"]["resources"]["pids"] = json!({"limit": asked.parse::<u32>().unwrap()});
            // With a new time namespace it takes two children to make one init.
            let list = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
            list.retain(|one| one["type"] != "pid");
            list.extend(kinds.iter().map(|kind| json!({"type": kind})));
            bundle.create();
            assert_eq!(limit(&bundle, "pids.max", "pids.max"), asked);
            bundle.say(&["start", "ID"]).ok();
            bundle.wait_for("stopped");
            assert_eq!(bundle.output(), "alive\n", "{asked} {kinds:?}");
        }
    }
}

#[test]
fn a_limit_of_no_tasks_is_none_to_who_wrote_before_it_was_one() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("(echo forked); exec sleep 100");
    bundle.spec["ociVersion"] = json!("1.0.2-dev");
    bundle.spec["linux"]["resources"]["pids"] = json!({"limit": 0});
    bundle.start();
    wait_until(|| bundle.output() == "forked\n", "forked");
    bundle.say(&["update", "--memory", "64M", "ID"]).ok();
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "max");
    for other in ["7", "0"] {
        bundle.say(&["update", "--pids-limit", other, "ID"]).ok();
        let expected = if other == "0" { "max" } else { other };
        assert_eq!(
            limit(&bundle, "pids.max", "pids.max"),
            expected,
            "an update means what the configuration did"
        );
    }
}

#[test]
fn an_update_that_is_refused_leaves_every_limit_as_it_was() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    bundle.spec["linux"]["resources"]["cpu"] = json!({"quota": 20_000, "period": 50_000, "shares": 512});
    bundle.start();
    let all = || {
        [
            limit(&bundle, "memory.limit_in_bytes", "memory.max"),
            limit(&bundle, "pids.max", "pids.max"),
            limit(&bundle, "cpu.cfs_quota_us", "cpu.max"),
            limit(&bundle, "cpu.shares", "cpu.weight"),
            limit(&bundle, "cpuset.cpus", "cpuset.cpus"),
        ]
    };
    let before = all();
    let file = bundle.path().join("resources.json");
    // The kernel refuses the last of them, a device that is none.
    let resources = json!({
        "memory": {"limit": 96 << 20}, "cpu": {"shares": 99, "quota": 10_000, "cpus": "0"}, "pids": {"limit": 9},
        "blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 0, "rate": 5}]}
    });
    fs::write(&file, serde_json::to_vec(&resources).unwrap()).unwrap();
    bundle.say(&["update", "-r", "resources.json", "ID"]).refused(&["blockIO.throttleReadBpsDevice"]);
    assert_eq!(all(), before);
    let idle = json!({
        "cpu": {"idle": 1}, "blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 0, "rate": 5}]}
    });
    fs::write(&file, serde_json::to_vec(&idle).unwrap()).unwrap();
    bundle.say(&["update", "-r", "resources.json", "ID"]).refused(&["blockIO.throttleReadBpsDevice"]);
    assert_eq!(all(), before, "who is not idle after all has its weight again");
    // What can be seen to be wrong is refused before anything is touched, and what the node lacks.
    let schema = ["update", "--pids-limit", "9", "--mem-bw-schema", "L3:0=f", "ID"];
    bundle.say(&schema).refused(&["memBwSchema"]);
    assert_eq!(all(), before);
    if !fs::read_to_string("/proc/mounts").unwrap().contains(" resctrl ") {
        bundle
            .say(&["update", "--pids-limit", "9", "--mem-bw-schema", "MB:0=20", "ID"])
            .refused(&["resctrl"]);
        assert_eq!(all(), before);
    }
    // Nor is it remembered: the quota that is written next goes with the period in force.
    bundle.say(&["update", "--cpu-quota", "30000", "ID"]).ok();
    assert_eq!(limit(&bundle, "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
}

#[test]
fn limits_come_from_a_file_and_from_standard_input() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("exec sleep 100");
    bundle.start();
    let file = bundle.path().join("resources.json");
    // Zeros, as engines that marshal Go structs write what they leave alone.
    let resources = json!({
        "memory": {"limit": 33 << 20, "reservation": 0, "swap": 0},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""},
        "pids": {"limit": 55}, "blockIO": {"weight": 0}
    });
    fs::write(&file, serde_json::to_vec(&resources).unwrap()).unwrap();
    bundle.say(&["update", "-r", file.to_str().unwrap(), "ID"]).ok();
    assert_eq!(limit(&bundle, "memory.limit_in_bytes", "memory.max"), (33 << 20).to_string());
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "55");
    let mut update =
        bundle.command(&["update", "-r", "-", &bundle.id]).stdin(Stdio::piped()).spawn().unwrap();
    update.stdin.take().unwrap().write_all(br#"{"pids": {"limit": 66}}"#).unwrap();
    assert!(update.wait().unwrap().success());
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "66");
    fs::write(&file, "{").unwrap();
    bundle.say(&["update", "-r", file.to_str().unwrap(), "ID"]).refused(&["resources.json"]);
}

#[test]
fn statistics_have_runcs_names() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    bundle.spec["linux"]["resources"]["pids"] = json!({"limit": 99});
    bundle.start();
    let said = bundle.say(&["events", "--stats", "ID"]);
    let event: Value = serde_json::from_str(said.ok()).unwrap();
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(bundle.id)));
    let data = &event["data"];
    assert_eq!(data["memory"]["usage"]["limit"], 64 << 20);
    assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0);
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    assert_eq!((&data["pids"]["limit"], &data["pids"]["current"]), (&json!(99), &json!(1)));
    for part in ["cpuset", "blkio", "hugetlb", "intel_rdt", "network_interfaces"] {
        assert!(data.get(part).is_some(), "{part}");
    }
    bundle.say(&["events", "--interval", "0s", "ID"]).refused(&["--interval"]);
}

#[test]
fn events_tell_of_deaths_for_want_of_memory_and_end_with_the_container() {
    if !is_root() {
        return;
    }
    let script = "while ! [ -e /tmp/go ]; do sleep 0.02; done; x=x; (while true; do x=$x$x; done); sleep 100";
    let mut bundle = Bundle::new(script);
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    bundle.start();
    let mut events = bundle.command(&["events", "--interval", "100ms", &bundle.id]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["type"], "stats");
    fs::write(bundle.rootfs().join("tmp/go"), "").unwrap();
    let oom = (0..200).map(|_| next()).find(|event| event["type"] == "oom").expect("an oom event");
    assert_eq!(oom, json!({"type": "oom", "id": bundle.id}));
    bundle.say(&["kill", "ID", "KILL"]).ok();
    assert!(events.wait().unwrap().success(), "it ends with the container");
}

#[test]
fn ps_shows_the_containers_processes_and_no_others() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("sleep 100 & exec sleep 101");
    bundle.start();
    let pid = bundle.pid();
    let pids =
        || serde_json::from_str::<Vec<i32>>(bundle.say(&["ps", "--format", "json", "ID"]).ok()).unwrap();
    wait_until(|| pids().len() == 2, "two");
    assert!(pids().contains(&pid));
    let said = bundle.say(&["ps", "ID"]);
    let lines: Vec<&str> = said.ok().lines().collect();
    assert_eq!(lines.len(), 3, "{}", said.out);
    assert!(lines[0].contains("PID") && said.out.contains("sleep 101"));
    let said = bundle.say(&["ps", "ID", "-o", "pid,comm"]);
    assert!(said.ok().contains(&pid.to_string()));
    bundle.say(&["ps", "ID", "-o", "comm"]).refused(&["PID"]);
}
