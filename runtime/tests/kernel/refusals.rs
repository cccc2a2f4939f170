//! Bad input: each is told by its JSON path and the section of the specification, and leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::bundle::{Bundle, is_root};

/// A change of the configuration, the path that the error must begin with, and its section.
type Case = (fn(&mut Value), &'static str, &'static str);

const CASES: &[Case] = &[
    (|s| s["ociVersion"] = json!("2.0.0"), "ociVersion", "config.md, Specification version"),
    (|s| s["ociVersion"] = json!("one"), "ociVersion", "config.md, Specification version"),
    (|s| s["annotations"] = json!({"": "x"}), "annotations", "config.md, Annotations"),
    (|s| s["root"] = Value::Null, "root", "config.md, Root"),
    (|s| s["root"]["path"] = json!(""), "root.path", "config.md, Root"),
    (|s| s["process"]["args"] = json!([]), "process.args", "config.md, Process"),
    (|s| s["process"]["cwd"] = json!("x"), "process.cwd", "config.md, Process"),
    (|s| s["process"]["user"]["uid"] = json!(u32::MAX), "process.user.uid", "config.md, User"),
    (|s| s["process"]["user"]["umask"] = json!(0o1000), "process.user.umask", "config.md, User"),
    (|s| s["process"]["oomScoreAdj"] = json!(1001), "process.oomScoreAdj", "config.md, Linux Process"),
    (
        |s| s["process"]["rlimits"] = json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
        "process.rlimits[0].type",
        "config.md, POSIX process",
    ),
    (
        |s| s["process"]["scheduler"] = json!({"policy": "SCHED_X"}),
        "process.scheduler.policy",
        "config.md, Linux Process",
    ),
    (
        |s| s["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_RT", "priority": 8}),
        "process.ioPriority.priority",
        "config.md, Linux Process",
    ),
    (
        |s| s["process"]["execCPUAffinity"] = json!({"initial": "0-"}),
        "process.execCPUAffinity.initial",
        "config.md, Linux Process",
    ),
    (|s| s["process"]["selinuxLabel"] = json!("a:b:c:d"), "process.selinuxLabel", "config.md, Linux Process"),
    (|s| s["process"]["apparmorProfile"] = json!("x"), "process.apparmorProfile", "config.md, Linux Process"),
    (
        |s| s["mounts"][0] = json!({"destination": "/x", "source": "/y"}),
        "mounts[0].type",
        "config.md, Mounts",
    ),
    (
        |s| s["mounts"][1] = json!({"destination": "/proc/self", "type": "tmpfs"}),
        "mounts[1].destination",
        "config.md, Mounts",
    ),
    (
        |s| s["mounts"][1] = json!({"destination": "/x", "type": "ramfs", "options": ["tmpcopyup"]}),
        "mounts[1].options",
        "config.md, Mounts",
    ),
    (
        |s| s["hooks"] = json!({"poststop": [{"path": "true"}]}),
        "hooks.poststop[0].path",
        "config.md, POSIX-platform Hooks",
    ),
    (
        |s| s["hooks"] = json!({"prestart": [{"path": "/bin/true", "timeout": 0}]}),
        "hooks.prestart[0].timeout",
        "config.md, POSIX-platform Hooks",
    ),
    (
        |s| s["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "mount"}]),
        "linux.namespaces[1].type",
        "config-linux.md, Namespaces",
    ),
    (
        |s| s["linux"]["namespaces"][0]["path"] = json!("relative"),
        "linux.namespaces[0].path",
        "config-linux.md, Namespaces",
    ),
    (
        |s| s["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1}]),
        "linux.uidMappings",
        "config-linux.md, User namespace mappings",
    ),
    (
        |s| s["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1}}),
        "linux.timeOffsets",
        "config-linux.md, Offset for Time Namespace",
    ),
    (
        |s| s["linux"]["devices"] = json!([{"type": "x", "path": "/dev/x"}]),
        "linux.devices[0].type",
        "config-linux.md, Devices",
    ),
    (|s| s["linux"]["cgroupsPath"] = json!("/a/../.."), "linux.cgroupsPath", "config-linux.md, Cgroups Path"),
    (|s| s["linux"]["maskedPaths"] = json!(["x"]), "linux.maskedPaths[0]", "config-linux.md, Masked Paths"),
    (
        |s| s["linux"]["readonlyPaths"] = json!(["x"]),
        "linux.readonlyPaths[0]",
        "config-linux.md, Readonly Paths",
    ),
    (
        |s| s["linux"]["rootfsPropagation"] = json!("up"),
        "linux.rootfsPropagation",
        "config-linux.md, Rootfs Mount Propagation",
    ),
    (|s| s["linux"]["mountLabel"] = json!("a:b:c:d"), "linux.mountLabel", "config-linux.md, Mount Label"),
    (
        |s| s["linux"]["personality"] = json!({"domain": "BSD"}),
        "linux.personality.domain",
        "config-linux.md, Personality",
    ),
    (
        |s| s["linux"]["memoryPolicy"] = json!({"mode": "MPOL_X"}),
        "linux.memoryPolicy.mode",
        "config-linux.md, Memory policy",
    ),
    (
        |s| s["linux"]["netDevices"] = json!({"a/b": {}}),
        "linux.netDevices[\"a/b\"]",
        "config-linux.md, Network Devices",
    ),
    (|s| s["linux"]["intelRdt"] = json!({}), "linux.intelRdt", "config-linux.md, IntelRdt"),
    (
        |s| s["linux"]["intelRdt"] = json!({"closID": ".."}),
        "linux.intelRdt.closID",
        "config-linux.md, IntelRdt",
    ),
    (
        |s| s["linux"]["sysctl"] = json!({"kernel.core_pattern": "x"}),
        "linux.sysctl[\"kernel.core_pattern\"]",
        "config-linux.md, Sysctl",
    ),
    (
        |s| s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_KILL"}]}),
        "linux.seccomp",
        "config-linux.md, Seccomp",
    ),
    (
        |s| s["linux"]["resources"] = json!({"memory": {"limit": -2}}),
        "linux.resources.memory.limit",
        "config-linux.md, Memory",
    ),
    (
        |s| s["linux"]["resources"] = json!({"memory": {"limit": 10, "swap": 5}}),
        "linux.resources.memory.swap",
        "config-linux.md, Memory",
    ),
    (
        |s| s["linux"]["resources"] = json!({"cpu": {"cpus": "x"}}),
        "linux.resources.cpu.cpus",
        "config-linux.md, CPU",
    ),
    (
        |s| s["linux"]["resources"] = json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}),
        "linux.resources.blockIO.weightDevice",
        "config-linux.md, Block IO",
    ),
    (
        |s| s["linux"]["resources"] = json!({"hugepageLimits": [{"pageSize": "big", "limit": 1}]}),
        "linux.resources.hugepageLimits.pageSize",
        "config-linux.md, Huge page limits",
    ),
    (
        |s| s["linux"]["resources"] = json!({"rdma": {"mlx5_0": {}}}),
        "linux.resources.rdma",
        "config-linux.md, RDMA",
    ),
    (
        |s| s["linux"]["resources"] = json!({"unified": {"nosuch.max": "1"}}),
        "linux.resources.unified",
        "config-linux.md, Unified",
    ),
    (
        |s| s["linux"]["resources"] = json!({"devices": [{"allow": true, "type": "x"}]}),
        "linux.resources.devices",
        "config-linux.md, Allowed Device list",
    ),
    // What no parser takes: the path of the value, by the text alone.
    (
        |s| s["linux"]["namespaces"][1]["type"] = json!("nosuch"),
        "linux.namespaces[1].type",
        "config-linux.md, Namespaces",
    ),
    (|s| s["process"]["user"]["uid"] = json!(-1), "process.user.uid", "config.md, User"),
    (|s| s["process"]["args"] = json!(["a", 1]), "process.args[1]", "config.md, Process"),
    (
        |s| s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOSUCH"}),
        "linux.seccomp.defaultAction",
        "config-linux.md, Seccomp",
    ),
];

#[test]
fn bad_input_is_told_by_its_path_and_section() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    let good = bundle.spec.clone();
    for (change, path, section) in CASES {
        bundle.spec = good.clone();
        change(&mut bundle.spec);
        println!("{path}");
        bundle.run().refused(&[path, &format!("(OCI {section})")]);
        assert_eq!(bundle.status(), "none", "{path}");
    }
    bundle.spec = good;
    bundle.run().ok();
}

#[test]
fn a_configuration_that_is_no_json_or_is_missing_is_named() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("true");
    bundle.say(&["create", "ID"]).refused(&["config.json", "No such file"]);
    for text in ["", "{", "{\"ociVersion\": \"1.0.0\""] {
        std::fs::write(bundle.path().join("config.json"), text).unwrap();
        bundle.say(&["create", "ID"]).refused(&["config.json", "line 1"]);
    }
}

#[test]
fn a_namespace_of_the_wrong_type_is_an_error_that_names_it() {
    if !is_root() {
        return;
    }
    for (i, kind) in ["pid", "network", "ipc", "uts"].iter().enumerate() {
        let mut bundle = Bundle::new("true");
        bundle.spec.as_object_mut().unwrap().remove("hostname");
        bundle.spec["linux"]["namespaces"][i] = json!({"type": kind, "path": "/proc/self/ns/cgroup"});
        bundle.run().refused(&["/proc/self/ns/cgroup", "linux.namespaces", "Invalid argument"]);
        bundle.spec["linux"]["namespaces"][i] = json!({"type": kind, "path": "/proc/nosuch"});
        bundle.run().refused(&["/proc/nosuch", "linux.namespaces", "No such file"]);
    }
}

/// CVE-2022-0532: a path may lead to the host's own namespace.
#[test]
fn what_would_change_the_host_through_a_joined_namespace_is_refused() {
    if !is_root() {
        return;
    }
    let own = |name: &str| format!("/proc/{}/ns/{name}", std::process::id());
    let check = |i: usize, kind: &str, name: &str, change: fn(&mut Value), field: &str| {
        let mut bundle = Bundle::new("true");
        bundle.spec.as_object_mut().unwrap().remove("hostname");
        bundle.spec["linux"]["namespaces"][i] = json!({"type": kind, "path": own(name)});
        change(&mut bundle.spec);
        bundle.run().refused(&[field, "would change the host"]);
    };
    check(
        1,
        "network",
        "net",
        |s| s["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"}),
        "linux.sysctl",
    );
    check(2, "ipc", "ipc", |s| s["linux"]["sysctl"] = json!({"kernel.shmmni": "4096"}), "linux.sysctl");
    check(3, "uts", "uts", |s| s["hostname"] = json!("changed"), "hostname");
    check(3, "uts", "uts", |s| s["domainname"] = json!("changed"), "domainname");
}

/// Hooks of a configuration run with our rights.
#[test]
fn a_bundle_that_belongs_to_somebody_else_is_refused() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("true");
    bundle.write();
    std::os::unix::fs::chown(bundle.path().join("config.json"), Some(4242), None).unwrap();
    bundle.say(&["run", "ID"]).refused(&["belongs to user 4242", "bundle.md"]);
    assert_eq!(bundle.status(), "none");
}

#[test]
fn what_is_missing_on_the_node_is_told_with_its_place() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.bind(Path::new("/nosuch/volume"), "/data", &["rbind"]);
    let last = bundle.spec["mounts"].as_array().unwrap().len() - 1;
    bundle.run().refused(&[&format!("/nosuch/volume (mounts[{last}].source)"), "No such file"]);
    bundle.spec["mounts"].as_array_mut().unwrap().pop();
    bundle.spec["root"]["path"] = json!("nosuch");
    bundle.run().refused(&["nosuch (root.path)", "No such file"]);
}

#[test]
fn a_bundle_that_others_can_change_is_refused_and_those_of_engines_are_not() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.write();
    let config = bundle.path().join("config.json");
    let modes = |path: &Path, group: u32, mode: u32| {
        std::os::unix::fs::chown(path, None, Some(group)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let refused = |words: &[&str]| bundle.say(&["run", "ID"]).refused(&[words, &["bundle.md"]].concat());
    for (group, mode, who) in [(0, 0o646, "everybody"), (4242, 0o664, "group 4242")] {
        modes(&config, group, mode);
        refused(&[who, "config.json of"]);
    }
    modes(&config, 4242, 0o644);
    for (group, mode, who) in [(0, 0o757, "everybody"), (4242, 0o770, "group 4242")] {
        modes(bundle.path(), group, mode);
        refused(&[who, "the bundle directory"]);
    }
    // Those of containerd, of podman and of an ordinary umask.
    for (group, mode) in [(0, 0o700), (4242, 0o710), (0, 0o711), (4242, 0o755), (0, 0o775), (4242, 0o1777)] {
        modes(bundle.path(), group, mode);
        bundle.say(&["run", "ID"]).ok();
    }
    modes(bundle.path(), 0, 0o755);
    std::os::unix::fs::chown(bundle.path(), Some(4242), None).unwrap();
    refused(&["the bundle directory", "belongs to user 4242"]);
    // podman's, of a container whose root that user is.
    let map = json!([{"containerID": 0, "hostID": 4242, "size": 10}]);
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    std::os::unix::fs::chown(bundle.rootfs(), Some(4242), Some(4242)).unwrap();
    bundle.run().ok();
}

#[test]
fn a_cgroup_that_cannot_be_reached_or_is_in_use_is_named() {
    if !is_root() {
        return;
    }
    let pod = Bundle::new("exec sleep 100");
    pod.start();
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}", pod.id));
    bundle.run().refused(&["linux.cgroupsPath", "is in use", "(OCI config-linux.md, Cgroups Path)"]);
    assert_eq!(pod.status(), "running", "it is another's");
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}/cgroup.procs/x", pod.id));
    bundle.run().refused(&["linux.cgroupsPath", "Not a directory", "(OCI config-linux.md, Cgroups Path)"]);
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}", "x".repeat(300)));
    bundle.run().refused(&["linux.cgroupsPath", "too long", "(OCI config-linux.md, Cgroups Path)"]);
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.id));
    bundle.run().ok();
}
