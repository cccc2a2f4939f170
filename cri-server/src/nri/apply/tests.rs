//! A plan before and after what plugins want of it.

use super::*;
use crate::container::plan::{CgroupVersion, User};
use conmon_protocol::{Owner, Stdin};
use proto::nri::{CdiDevice, LinuxMemory, LinuxMemoryPolicy, MpolMode};
use proto::nri::{
    IoPrioClass, KeyValue, LinuxContainerAdjustment, LinuxDevice, LinuxIoPriority, LinuxNamespace,
    LinuxNetDevice, LinuxPids, LinuxRdt, LinuxResources, LinuxScheduler, LinuxSchedulerPolicy, LinuxSeccomp,
    LinuxSyscall, OptionalFileMode, OptionalInt, OptionalInt64, OptionalString, PosixRlimit,
};
use serde_json::json;

fn machine() -> Machine {
    Machine {
        cgroup: CgroupVersion::V2,
        capabilities: vec![],
        oom_score_adj_floor: -500,
        apparmor: false,
        selinux: false,
        hugepage_sizes: Default::default(),
        swap_accounting: true,
    }
}

/// A node whose classes of block I/O are in a file.
fn here(driver: CgroupDriver, blockio_config_file: &Path) -> Here<'_> {
    static MACHINE: std::sync::LazyLock<Machine> = std::sync::LazyLock::new(machine);
    Here { driver, machine: &MACHINE, blockio_config_file }
}

/// A container's plan, as far as plugins may change it.
fn before() -> ContainerPlan {
    let spec = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "annotations": {"kept": "1", "gone": "1"},
        "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sh"], "env": ["A=0", "B=0", "C=0"],
            "oomScoreAdj": 0},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": "/old", "options": ["rbind"]},
            {"destination": "/gone", "type": "bind", "source": "/old", "options": ["rbind"]}
        ],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "network", "path": "/ns/net"}, {"type": "ipc"}],
            "devices": [{"path": "/dev/gone", "type": "c", "major": 1, "minor": 1}],
            "sysctl": {"net.gone": "1"},
            "resources": {"devices": [{"allow": false, "access": "rwm"}]}
        }
    });
    ContainerPlan {
        spec: serde_json::from_value(spec).unwrap(),
        cgroup_path: "/pod/c".into(),
        log_path: None,
        terminal: false,
        stdin: Stdin::Closed,
        stdio_owner: Owner { uid: 0, gid: 0 },
        user: User { uid: 0, gid: 0, groups: vec![] },
        stop_signal: 15,
        missing_sources: vec![],
        relabelled: vec![],
        file_label: None,
        declared: Default::default(),
    }
}

fn linux(linux: LinuxContainerAdjustment) -> ContainerAdjustment {
    ContainerAdjustment { linux: Some(linux), ..Default::default() }
}

/// The configuration at `pointer` afterwards.
#[track_caller]
fn check(adjust: &ContainerAdjustment, pointer: &str, expected: serde_json::Value) {
    let mut after = before();
    plan(&mut after, adjust, &here(CgroupDriver::Cgroupfs, Path::new(""))).unwrap();
    let spec = serde_json::to_value(&after.spec).unwrap();
    assert_eq!(spec.pointer(pointer), Some(&expected), "{spec:#}");
}

#[track_caller]
fn check_refused(adjust: &ContainerAdjustment, words: &str) {
    let error =
        plan(&mut before(), adjust, &here(CgroupDriver::Cgroupfs, Path::new(""))).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

fn pair(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value.into() }
}

#[test]
fn the_process_is_changed() {
    let env = vec![pair("B", "1"), pair("-C", ""), pair("D", "1")];
    let adjust = ContainerAdjustment { env, ..Default::default() };
    check(&adjust, "/process/env", json!(["A=0", "B=1", "D=1"]));
    let adjust = ContainerAdjustment { args: vec!["top".into()], ..Default::default() };
    check(&adjust, "/process/args", json!(["top"]));
    let limit = PosixRlimit { r#type: "RLIMIT_NOFILE".into(), hard: 9, soft: 8 };
    let adjust = ContainerAdjustment { rlimits: vec![limit], ..Default::default() };
    check(&adjust, "/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 8}]));
    let score = |value| {
        linux(LinuxContainerAdjustment { oom_score_adj: Some(OptionalInt { value }), ..Default::default() })
    };
    check(&score(7), "/process/oomScoreAdj", json!(7));
    check(&score(-997), "/process/oomScoreAdj", json!(-500));
    check_refused(&score(1001), "oom_score_adj");
    let priority = LinuxIoPriority { class: IoPrioClass::IoprioClassBe as i32, priority: 4 };
    let adjust = linux(LinuxContainerAdjustment { io_priority: Some(priority), ..Default::default() });
    check(&adjust, "/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 4}));
    let scheduler = LinuxScheduler {
        policy: LinuxSchedulerPolicy::SchedBatch as i32,
        nice: 3,
        flags: vec![3],
        ..Default::default()
    };
    let adjust = linux(LinuxContainerAdjustment { scheduler: Some(scheduler), ..Default::default() });
    let expected = json!({"policy": "SCHED_BATCH", "nice": 3, "flags": ["SCHED_FLAG_KEEP_POLICY"]});
    check(&adjust, "/process/scheduler", expected);
    // The library that writes the configuration misspells this one.
    let scheduler = LinuxScheduler { policy: 1, flags: vec![0], ..Default::default() };
    let adjust = linux(LinuxContainerAdjustment { scheduler: Some(scheduler), ..Default::default() });
    check_refused(&adjust, "SCHED_FLAG_RESET_ON_FORK");
    let limit = PosixRlimit { r#type: "RLIMIT_LUCK".into(), hard: 9, soft: 8 };
    check_refused(&ContainerAdjustment { rlimits: vec![limit], ..Default::default() }, "rlimits");
}

#[test]
fn mounts_and_annotations_come_and_go() {
    let mount = |destination: &str, options: &[&str]| Mount {
        destination: destination.into(),
        r#type: "bind".into(),
        source: "/new".into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    let mounts =
        vec![mount("/data/below", &["rbind"]), mount("/data", &["bind", "ro"]), mount("-/gone", &[])];
    let adjust = ContainerAdjustment { mounts, ..Default::default() };
    let expected = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": "/new", "options": ["bind", "ro"]},
        {"destination": "/data/below", "type": "bind", "source": "/new", "options": ["rbind"]}
    ]);
    check(&adjust, "/mounts", expected);
    check_refused(
        &ContainerAdjustment { mounts: vec![mount("data", &[])], ..Default::default() },
        "not an absolute",
    );
    let annotations =
        [("new", "2"), ("-gone", "")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let adjust = ContainerAdjustment { annotations, ..Default::default() };
    check(&adjust, "/annotations", json!({"kept": "1", "new": "2"}));
}

#[test]
fn hooks_are_added() {
    let hook = Hook { path: "/bin/h".into(), timeout: Some(OptionalInt { value: 3 }), ..Default::default() };
    let hooks = Hooks { create_runtime: vec![hook.clone()], poststop: vec![hook], ..Default::default() };
    let adjust = ContainerAdjustment { hooks: Some(hooks), ..Default::default() };
    let told = json!([{"path": "/bin/h", "args": ["/bin/h"], "timeout": 3}]);
    check(&adjust, "/hooks", json!({"createRuntime": told, "poststop": told}));
}

#[test]
fn devices_bring_the_right_to_use_them() {
    let device = LinuxDevice {
        path: "/dev/new".into(),
        r#type: "c".into(),
        major: 10,
        minor: 200,
        file_mode: Some(OptionalFileMode { value: 0o600 }),
        ..Default::default()
    };
    let gone = LinuxDevice { path: "-/dev/gone".into(), ..Default::default() };
    let adjust = linux(LinuxContainerAdjustment { devices: vec![device, gone], ..Default::default() });
    let node = json!([{"path": "/dev/new", "type": "c", "major": 10, "minor": 200, "fileMode": 0o600}]);
    check(&adjust, "/linux/devices", node);
    let rule = json!({"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm"});
    check(&adjust, "/linux/resources/devices/1", rule);
    let odd = LinuxDevice { path: "/dev/odd".into(), r#type: "z".into(), ..Default::default() };
    check_refused(
        &linux(LinuxContainerAdjustment { devices: vec![odd], ..Default::default() }),
        "no type of device",
    );
}

#[test]
fn the_rest_of_linux_is_changed() {
    let namespace = |kind: &str, path: &str| LinuxNamespace { r#type: kind.into(), path: path.into() };
    let namespaces = vec![namespace("-ipc", ""), namespace("network", "/ns/other"), namespace("time", "")];
    let adjust = linux(LinuxContainerAdjustment { namespaces, ..Default::default() });
    let expected = json!([{"type": "mount"}, {"type": "network", "path": "/ns/other"}, {"type": "time"}]);
    check(&adjust, "/linux/namespaces", expected);
    let sysctl =
        [("net.x", "1"), ("-net.gone", "")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    check(
        &linux(LinuxContainerAdjustment { sysctl, ..Default::default() }),
        "/linux/sysctl",
        json!({"net.x": "1"}),
    );
    let net_devices = [("eth7".to_owned(), LinuxNetDevice { name: "data0".into() })].into();
    let adjust = linux(LinuxContainerAdjustment { net_devices, ..Default::default() });
    check(&adjust, "/linux/netDevices", json!({"eth7": {"name": "data0"}}));
    let syscall =
        LinuxSyscall { names: vec!["mkdir".into()], action: "SCMP_ACT_ERRNO".into(), ..Default::default() };
    let policy = LinuxSeccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        syscalls: vec![syscall],
        ..Default::default()
    };
    let adjust = linux(LinuxContainerAdjustment { seccomp_policy: Some(policy), ..Default::default() });
    let expected = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
    check(&adjust, "/linux/seccomp", expected);
    let policy = LinuxSeccomp { default_action: "SCMP_ACT_MAYBE".into(), ..Default::default() };
    check_refused(
        &linux(LinuxContainerAdjustment { seccomp_policy: Some(policy), ..Default::default() }),
        "seccomp_policy",
    );
    let policy = LinuxMemoryPolicy { mode: MpolMode::MpolBind as i32, nodes: "0".into(), flags: vec![] };
    let adjust = linux(LinuxContainerAdjustment { memory_policy: Some(policy), ..Default::default() });
    check(&adjust, "/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}));
    let rdt = LinuxRdt { clos_id: Some(OptionalString { value: "gold".into() }), ..Default::default() };
    let adjust = linux(LinuxContainerAdjustment { rdt: Some(rdt), ..Default::default() });
    check(&adjust, "/linux/intelRdt", json!({"closID": "gold"}));
    let class = OptionalString { value: "silver".into() };
    let resources = LinuxResources { rdt_class: Some(class), ..Default::default() };
    let adjust = linux(LinuxContainerAdjustment { resources: Some(resources), ..Default::default() });
    check(&adjust, "/linux/intelRdt", json!({"closID": "silver"}));
    let resources = LinuxResources { pids: Some(LinuxPids { limit: 77 }), ..Default::default() };
    let adjust = linux(LinuxContainerAdjustment { resources: Some(resources), ..Default::default() });
    check(&adjust, "/linux/resources/pids", json!({"limit": 77}));
}

#[test]
fn the_cgroup_is_counted_where_it_will_be() {
    let path = |path: &str, driver| {
        let adjust = linux(LinuxContainerAdjustment { cgroups_path: path.into(), ..Default::default() });
        let mut after = before();
        plan(&mut after, &adjust, &here(driver, Path::new(""))).map(|()| after.cgroup_path)
    };
    assert_eq!(path("/other/c", CgroupDriver::Cgroupfs).unwrap(), "/other/c");
    assert!(path("a:b:c", CgroupDriver::Cgroupfs).is_err());
    let scope = path("kubepods-pod1.slice:cri:c", CgroupDriver::Systemd).unwrap();
    assert_eq!(scope, "/kubepods.slice/kubepods-pod1.slice/cri-c.scope");
    assert!(path("/other/c", CgroupDriver::Systemd).is_err());
}

#[test]
fn limits_and_vendors_devices_change_the_request() {
    let memory = LinuxMemory { limit: Some(OptionalInt64 { value: 1 << 20 }), ..Default::default() };
    let resources = LinuxResources { memory: Some(memory), ..Default::default() };
    let mut adjust = linux(LinuxContainerAdjustment { resources: Some(resources), ..Default::default() });
    adjust.cdi_devices = vec![CdiDevice { name: "vendor.com/gpu=0".into() }];
    let mut config = v1::ContainerConfig::default();
    config.linux.get_or_insert_default().resources.get_or_insert_default().cpu_shares = 9;
    let asked = request(&config, &adjust, &machine()).unwrap();
    assert_eq!(asked.cdi_devices[0].name, "vendor.com/gpu=0");
    let limits = asked.linux.unwrap().resources.unwrap();
    assert_eq!((limits.memory_limit_in_bytes, limits.cpu_shares), (1 << 20, 9));
    assert_eq!(request(&config, &ContainerAdjustment::default(), &machine()).unwrap(), config);
}

#[test]
fn a_class_of_block_io_is_looked_up_and_one_that_is_not_there_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "Classes: {slow: [{Weight: 20}]}").unwrap();
    let asked = |class: &str, file: &Path| {
        let blockio_class = Some(OptionalString { value: class.into() });
        let resources = Some(LinuxResources { blockio_class, ..Default::default() });
        let adjust = linux(LinuxContainerAdjustment { resources, ..Default::default() });
        let mut after = before();
        let done = plan(&mut after, &adjust, &here(CgroupDriver::Cgroupfs, file));
        done.map(|()| serde_json::to_value(&after.spec).unwrap()["linux"]["resources"]["blockIO"].take())
    };
    assert_eq!(asked("slow", file.path()).unwrap(), json!({"weight": 20}));
    assert_eq!(asked("", file.path()).unwrap(), serde_json::Value::Null);
    let error = asked("none", file.path()).unwrap_err().to_string();
    assert!(error.contains("blockio_class") && error.contains("\"none\"; it has slow"), "{error}");
    assert!(asked("slow", Path::new("")).unwrap_err().to_string().contains("blockio_config_file"));
}

#[test]
fn volumes_that_the_image_declares_stay_below_all_other_mounts() {
    let destinations = |declared| {
        let mut after = before();
        let mut mounts = after.spec.mounts().clone().unwrap();
        let mut volume = OciMount::default();
        volume.set_destination("/deep/er/volume".into());
        mounts.insert(0, volume);
        after.spec.set_mounts(Some(mounts));
        after.declared = declared;
        let mount = Mount { destination: "/new".into(), source: "/x".into(), ..Default::default() };
        let adjust = ContainerAdjustment { mounts: vec![mount], ..Default::default() };
        plan(&mut after, &adjust, &here(CgroupDriver::Cgroupfs, Path::new(""))).unwrap();
        let mounts = after.spec.mounts().clone().unwrap();
        mounts.iter().map(|mount| mount.destination().display().to_string()).collect::<Vec<_>>()
    };
    let bound = crate::container::plan::Declared::Bound(vec!["/deep/er/volume".into()]);
    assert_eq!(destinations(bound), ["/deep/er/volume", "/proc", "/data", "/gone", "/new"]);
    assert_eq!(destinations(crate::container::plan::Declared::Nothing).last().unwrap(), "/deep/er/volume");
}
