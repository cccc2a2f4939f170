//! Resources in, writes out.

use super::super::layout::Version::{V1, V2};
use super::*;

fn resources(json: &str) -> Resources {
    serde_json::from_str(json).unwrap()
}

fn check_with(version: &dyn Fn(&str) -> Option<Version>, json: &str, expected: &[&str]) {
    let writes = plan(&resources(json), version).unwrap();
    let found: Vec<String> = writes.iter().map(|write| format!("{}={}", write.file, write.value)).collect();
    assert_eq!(found, expected, "{json}");
}

fn on_v1(controller: &str) -> Option<Version> {
    (controller != "io").then_some(V1)
}

fn on_v2(controller: &str) -> Option<Version> {
    matches!(controller, "cpuset" | "cpu" | "memory" | "pids" | "io" | "hugetlb" | "rdma").then_some(V2)
}

#[test]
fn a_kubelets_limits_are_written() {
    let json = r#"{
        "memory": {"limit": 67108864, "swap": 67108864}, "cpu": {"shares": 102, "quota": 50000, "period": 100000},
        "pids": {"limit": 100}, "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}"#;
    check_with(
        &on_v1,
        json,
        &[
            "cpu.shares=102",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "memory.limit_in_bytes=67108864",
            "memory.memsw.limit_in_bytes=67108864",
            "pids.max=100",
            "hugetlb.2MB.limit_in_bytes=0",
            "hugetlb.2MB.rsvd.limit_in_bytes=0",
        ],
    );
    check_with(
        &on_v2,
        json,
        &[
            "cpu.weight=17",
            "cpu.max=50000 100000",
            "memory.swap.max=0",
            "memory.max=67108864",
            "pids.max=100",
            "hugetlb.2MB.max=0",
            "hugetlb.2MB.rsvd.max=0",
        ],
    );
}

#[test]
fn zero_and_absent_limits_write_nothing() {
    let json = r#"{"memory": {"limit": 0, "swap": 0, "reservation": 0, "kernel": 5}, "pids": {},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""}, "blockIO": {"weight": 0}}"#;
    check_with(&on_v1, json, &[]);
    check_with(&on_v2, json, &[]);
    check_with(&on_v2, "{}", &[]);
}

#[test]
fn of_tasks_zero_is_a_limit_and_less_is_none() {
    for (limit, value) in
        [("0", "0"), ("1", "1"), ("-1", "max"), ("-7", "max"), ("4194304", "4194304"), ("4194305", "max")]
    {
        let (json, file) = (format!(r#"{{"pids": {{"limit": {limit}}}}}"#), format!("pids.max={value}"));
        check_with(&on_v1, &json, &[&file]);
        check_with(&on_v2, &json, &[&file]);
    }
}

#[test]
fn a_limit_that_the_makers_would_exceed_waits_for_them() {
    let late = |json: &str| {
        let resources = serde_json::from_str(json).unwrap();
        plan(&resources, &on_v2).unwrap().iter().all(Write::leaves_no_room)
    };
    for json in
        [r#"{"pids": {"limit": 0}}"#, r#"{"pids": {"limit": 2}}"#, r#"{"unified": {"pids.max": "1"}}"#]
    {
        assert!(late(json), "{json}");
    }
    for json in [r#"{"pids": {"limit": 3}}"#, r#"{"pids": {"limit": -1}}"#, r#"{"memory": {"limit": 1}}"#] {
        assert!(!late(json), "{json}");
    }
}

#[test]
fn no_limit_is_said_in_each_versions_word() {
    let json = r#"{"memory": {"limit": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}}"#;
    check_with(
        &on_v1,
        json,
        &[
            "cpu.cfs_quota_us=-1",
            "memory.limit_in_bytes=-1",
            "memory.memsw.limit_in_bytes=-1",
            "pids.max=max",
        ],
    );
    check_with(&on_v2, json, &["cpu.max=max", "memory.swap.max=max", "memory.max=max", "pids.max=max"]);
}

#[test]
fn block_devices_are_throttled() {
    let json = r#"{"blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 16, "rate": 1000}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 7}]}}"#;
    check_with(
        &on_v1,
        json,
        &[
            "blkio.weight=500",
            "blkio.weight_device=8:0 10",
            "blkio.throttle.read_bps_device=8:16 1000",
            "blkio.throttle.write_iops_device=8:16 7",
        ],
    );
    check_with(
        &on_v2,
        json,
        &["io.bfq.weight=500", "io.bfq.weight=8:0 10", "io.max=8:16 rbps=1000", "io.max=8:16 wiops=7"],
    );
}

#[test]
fn files_of_v2_can_be_named() {
    let json = r#"{"unified": {"memory.high": "1000", "io.latency": "8:0 target=10"}}"#;
    check_with(&on_v2, json, &["io.latency=8:0 target=10", "memory.high=1000"]);
}

#[track_caller]
fn check_refused(version: &dyn Fn(&str) -> Option<Version>, json: &str, expected: &str) {
    let error = plan(&resources(json), version).unwrap_err().to_string();
    let (reason, section) = error.split_once(" (OCI config-linux.md, ").unwrap();
    assert_eq!(reason, expected);
    assert!(section.ends_with(')'));
}

#[test]
fn a_limit_without_its_controller_is_refused_by_name() {
    let none = |_: &str| None;
    check_refused(
        &none,
        r#"{"pids": {"limit": 5}}"#,
        "linux.resources.pids.limit needs the cgroup controller pids, which this node does not have",
    );
    check_refused(
        &on_v2,
        r#"{"network": {"classID": 5}}"#,
        "linux.resources.network.classID needs the cgroup controller net_cls, which this node does not have",
    );
    check_refused(
        &on_v1,
        r#"{"unified": {"memory.high": "5"}}"#,
        "linux.resources.unified needs the cgroup controller memory, which this node does not have",
    );
    check_refused(
        &none,
        r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]}"#,
        "linux.resources.hugepageLimits needs the cgroup controller hugetlb, which this node does not have",
    );
    // What the kubelet always sends.
    check_with(
        &none,
        r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": 0}]}"#,
        &[],
    );
}

#[test]
fn contradictions_are_refused() {
    check_refused(
        &on_v1,
        r#"{"memory": {"limit": 10, "swap": 5}}"#,
        "linux.resources.memory.swap counts memory and swap together, so it cannot be less than memory.limit",
    );
    check_refused(&on_v2, r#"{"memory": {"swap": 5}}"#, "linux.resources.memory.swap needs memory.limit");
    check_refused(
        &on_v2,
        r#"{"memory": {"limit": -7}}"#,
        "linux.resources.memory.limit is less than -1, which means no limit",
    );
    check_refused(
        &on_v2,
        r#"{"hugepageLimits": [{"pageSize": "../2MB", "limit": 5}]}"#,
        "linux.resources.hugepageLimits.pageSize is no size such as 2MB",
    );
    for key in ["cgroup.procs", "cgroup.kill", "cgroup.subtree_control", "../x.y", "memory", ""] {
        assert!(plan(&resources(&format!(r#"{{"unified": {{"{key}": "1"}}}}"#)), &on_v2).is_err(), "{key}");
    }
    assert!(plan(&resources(r#"{"cpu": {"cpus": "0\n1"}}"#), &on_v1).is_err());
}

#[test]
fn what_the_specification_forbids_or_v2_cannot_hold_is_refused() {
    let refused = |json: &str, place: &str| {
        let error = plan(&resources(json), &on_v2).unwrap_err().to_string();
        assert!(error.starts_with(&format!("linux.resources.{place} ")), "{error}");
    };
    refused(r#"{"rdma": {"mlx5_1": {}}}"#, "rdma");
    refused(r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}"#, "blockIO.weightDevice");
    refused(
        r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 10}]}}"#,
        "blockIO.weightDevice",
    );
    refused(r#"{"blockIO": {"weight": 5}}"#, "blockIO.weight");
    refused(r#"{"blockIO": {"leafWeight": 10}}"#, "blockIO.leafWeight");
    refused(r#"{"cpu": {"quota": 10, "burst": 11}}"#, "cpu.burst");
    refused(r#"{"cpu": {"idle": 2}}"#, "cpu.idle");
    refused(r#"{"cpu": {"realtimePeriod": 5}}"#, "cpu.realtimeRuntime");
    refused(r#"{"memory": {"useHierarchy": false}}"#, "memory.useHierarchy");
    refused(r#"{"memory": {"kernelTCP": 5}}"#, "memory.kernelTCP");
    refused(r#"{"memory": {"swappiness": 5}}"#, "memory.swappiness");
    refused(r#"{"memory": {"disableOOMKiller": true}}"#, "memory.disableOOMKiller");
}

#[test]
fn several_lines_of_a_unified_file_are_several_writes() {
    let json = r#"{"unified": {"io.max": "259:0 rbps=1\n253:0 wiops=2"}}"#;
    check_with(&on_v2, json, &["io.max=259:0 rbps=1", "io.max=253:0 wiops=2"]);
    let none = r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}]}}"#;
    check_with(&on_v2, none, &["io.max=8:0 rbps=max"]);
}
