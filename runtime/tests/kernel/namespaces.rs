//! Namespaces: made, joined by path, mapped and offset.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::bundle::{Bundle, is_root, wait_until};

#[test]
fn loopback_is_up_in_a_network_of_its_own() {
    if !is_root() {
        return;
    }
    let said = Bundle::new("ifconfig").run();
    assert!(said.ok().contains("127.0.0.1") && said.out.contains("UP LOOPBACK"), "{}", said.out);
    // Somebody else's is left as it is.
    let mut holder = Command::new("unshare").args(["--net", "sleep", "60"]).spawn().unwrap();
    let path = format!("/proc/{}/ns/net", holder.id());
    let ours = fs::read_link("/proc/self/ns/net").unwrap();
    wait_until(|| fs::read_link(&path).is_ok_and(|theirs| theirs != ours), "another network");
    let mut bundle = Bundle::new("ifconfig");
    let list = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    list.retain(|one| one["type"] != "network");
    list.push(json!({"type": "network", "path": path}));
    let said = bundle.run();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(said.ok(), "");
}

#[test]
fn every_new_namespace_differs_from_the_hosts() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done");
    let said = bundle.run();
    for (name, inside) in ["pid", "net", "ipc", "uts", "mnt", "cgroup"].iter().zip(said.ok().lines()) {
        let outside = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(outside.to_str(), Some(inside));
    }
}

#[test]
fn namespaces_of_a_pod_are_joined_by_path() {
    if !is_root() {
        return;
    }
    let pod = Bundle::new("exec sleep 100");
    pod.start();
    let pid = pod.pid();
    let mut bundle =
        Bundle::new("for n in pid net ipc uts; do readlink /proc/self/ns/$n; done; ps | grep -c sleep");
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    let path = |name: &str| format!("/proc/{pid}/ns/{name}");
    bundle.spec["linux"]["namespaces"] = json!([
        {"type": "pid", "path": path("pid")}, {"type": "network", "path": path("net")},
        {"type": "ipc", "path": path("ipc")}, {"type": "uts", "path": path("uts")}, {"type": "mount"}
    ]);
    let said = bundle.run();
    let lines: Vec<&str> = said.ok().lines().collect();
    for (name, inside) in ["pid", "net", "ipc", "uts"].iter().zip(&lines) {
        assert_eq!(fs::read_link(path(name)).unwrap().to_str(), Some(*inside));
    }
    assert!(lines[4].parse::<u32>().unwrap() >= 1, "the pod's processes show");
}

#[test]
fn a_new_user_namespace_has_its_maps() {
    if !is_root() {
        return;
    }
    let mut bundle =
        Bundle::new("cat /proc/self/uid_map; id -u; echo x > /dev/null; touch /tmp/f; stat -c %u /tmp/f");
    userns(&mut bundle);
    chown_tree(&bundle, 100_000);
    let said = bundle.run();
    let words: Vec<&str> = said.ok().split_whitespace().collect();
    assert_eq!(words, ["0", "100000", "65536", "0", "0"]);
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(bundle.rootfs().join("tmp/f")).unwrap()),
        100_000
    );
}

fn userns(bundle: &mut Bundle) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
}

fn chown_tree(bundle: &Bundle, id: u32) {
    let owner = format!("{id}:{id}");
    let status =
        std::process::Command::new("chown").args(["-hR", &owner]).arg(bundle.path()).status().unwrap();
    assert!(status.success());
}

#[test]
fn exec_enters_a_user_namespace_and_a_second_container_joins_it() {
    if !is_root() {
        return;
    }
    let mut pod = Bundle::new("exec sleep 100");
    userns(&mut pod);
    chown_tree(&pod, 100_000);
    pod.start();
    assert_eq!(
        pod.say(&["exec", "ID", "sh", "-c", "id -u; cat /proc/self/uid_map"]).ok().split_whitespace().nth(2),
        Some("100000")
    );
    let pid = pod.pid();
    let path = |name: &str| format!("/proc/{pid}/ns/{name}");
    let mut bundle = Bundle::new("readlink /proc/self/ns/user; readlink /proc/self/ns/net; id -u");
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    bundle.spec["linux"]["namespaces"] = json!([
        {"type": "user", "path": path("user")}, {"type": "network", "path": path("net")},
        {"type": "ipc", "path": path("ipc")}, {"type": "uts", "path": path("uts")},
        {"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}
    ]);
    chown_tree(&bundle, 100_000);
    let said = bundle.run();
    let lines: Vec<&str> = said.ok().lines().collect();
    assert_eq!(fs::read_link(path("user")).unwrap().to_str(), Some(lines[0]));
    assert_eq!(fs::read_link(path("net")).unwrap().to_str(), Some(lines[1]));
    assert_eq!(lines[2], "0");
}

#[test]
fn a_mount_can_shift_ids() {
    if !is_root() {
        return;
    }
    // Not on a tmpfs, which could not do this before Linux 6.3.
    let source = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(source.path().join("file"), "").unwrap();
    let mut bundle = Bundle::new("stat -c %u /shifted/file");
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 10}]);
    bundle.mount(json!({
        "destination": "/shifted", "type": "bind", "source": source.path(), "options": ["bind"],
        "uidMappings": map, "gidMappings": map
    }));
    assert_eq!(bundle.run().ok(), "5000");
}

#[test]
fn a_time_namespace_has_its_offsets() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("cat /proc/uptime");
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    bundle.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 5}});
    let said = bundle.run();
    let uptime: f64 = said.ok().split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 1_000_000.0, "{uptime}");
}

#[test]
fn sysctls_are_the_containers_own() {
    if !is_root() {
        return;
    }
    let mut bundle =
        Bundle::new("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced");
    bundle.spec["linux"]["sysctl"] =
        json!({"net.ipv4.ip_unprivileged_port_start": "77", "kernel.shm_rmid_forced": "1"});
    assert_eq!(bundle.run().ok(), "77\n1");
    for (name, value) in
        [("kernel.core_pattern", "x"), ("vm.swappiness", "1"), ("net.../../kernel/core_pattern", "x")]
    {
        bundle.spec["linux"]["sysctl"] = json!({name: value});
        bundle.run().refused(&["linux.sysctl"]);
    }
    // CVE-2022-0811: the value is one value, whatever is in it.
    bundle.spec["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": "1+kernel.core_pattern=x"});
    bundle.run().refused(&["kernel.shm_rmid_forced", "Invalid argument"]);
}

/// Runs `script` in a mount namespace of the test's own, which stands for the host's; `rt` is the runtime's command.
fn on_a_host_of_its_own(bundle: &Bundle, script: &str) -> String {
    bundle.write();
    let runtime = bundle.command(&[]);
    let words: Vec<String> = runtime.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let program = runtime.get_program().to_string_lossy();
    let script = format!("set -e; rt() {{ {program} {} \"$@\"; }}; {script}", words.join(" "));
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .current_dir(bundle.path())
        .output()
        .unwrap();
    let said = crate::bundle::Said::from(output);
    assert_eq!(said.code, 0, "{} {}", said.out, said.err);
    said.out
}

#[test]
fn a_mount_namespace_is_inherited_where_none_is_named() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("exec sleep 100");
    let id = bundle.id.clone();
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "mount");
    let look = format!(
        "rt create --pid-file pid {id} </dev/null >out 2>&1; rt start {id}; pid=$(cat pid); \
         test $(readlink /proc/$pid/ns/mnt) = $(readlink /proc/self/ns/mnt) && echo same; \
         rt exec {id} sh -c 'ls /; readlink /proc/self/ns/pid' | tr '\\n' ' '; readlink /proc/$pid/root; \
         rt delete --force {id}; grep -c {} /proc/self/mountinfo || true",
        bundle.path().display()
    );
    let out = on_a_host_of_its_own(&bundle, &look);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "same");
    assert!(lines[1].contains("bin dev etc proc sys tmp") && lines[1].contains("pid:["), "{out}");
    assert!(lines[1].ends_with(&bundle.rootfs().display().to_string()), "{out}");
    assert_eq!(lines[2], "0", "what was mounted is gone: {out}");
}

#[test]
fn a_mount_namespace_is_joined_by_path() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("readlink /proc/self/ns/mnt; test -d /bin && echo inside; exec sleep 100");
    let id = bundle.id.clone();
    let path = bundle.path().join("pod").display().to_string();
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|one| one["type"] != "mount");
    namespaces.push(json!({"type": "mount", "path": path}));
    // The sleeper holds the namespace that is joined.
    let look = format!(
        "unshare --mount --propagation private sleep 60 >/dev/null 2>&1 & holder=$!; sleep 0.3; ln -s /proc/$holder/ns/mnt pod; \
         rt create {id} </dev/null >out 2>&1; rt start {id}; sleep 0.3; cat out; readlink /proc/$holder/ns/mnt; \
         grep -c {0} /proc/$holder/mountinfo || true; grep -c {0} /proc/self/mountinfo || true; \
         rt exec {id} sh -c 'test -d /bin && echo inside'; \
         rt delete --force {id}; grep -c {0} /proc/$holder/mountinfo || true; kill $holder",
        bundle.path().display()
    );
    let out = on_a_host_of_its_own(&bundle, &look);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[1], "inside", "{out}");
    assert_eq!(lines[0], lines[2], "{out}");
    assert_ne!(lines[3], "0", "attached there: {out}");
    assert_eq!(lines[4..], ["0", "inside", "0"], "not here, and gone with the container: {out}");
}

/// As CVE-2025-52881 led writes astray: whoever made the mount namespace decides what lies at /proc there.
#[test]
fn the_clocks_are_set_through_no_procfs_of_a_mount_namespace_that_is_joined() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("cut -d. -f1 /proc/uptime");
    let id = bundle.id.clone();
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|one| one["type"] != "mount");
    namespaces.push(json!({"type": "mount", "path": bundle.dir.path().join("pod")}));
    namespaces.push(json!({"type": "time"}));
    bundle.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 2_000_000}});
    bundle.spec["process"]["args"] = json!(["sh", "-c", "read up rest < /proc/uptime; echo $up"]);
    let look = format!(
        "unshare --mount --propagation private sh -c 'mount -t tmpfs fake /proc; mkdir /proc/self; \
         touch /proc/self/timens_offsets; exec sleep 60' >/dev/null 2>&1 & holder=$!; sleep 0.3; \
         ln -s /proc/$holder/ns/mnt pod; rt run {id} </dev/null; \
         wc -c < /proc/$holder/root/proc/self/timens_offsets; kill $holder"
    );
    let out = on_a_host_of_its_own(&bundle, &look);
    let lines: Vec<&str> = out.lines().collect();
    let uptime: f64 = lines[0].parse().unwrap();
    assert!(uptime > 2_000_000.0, "{out}");
    assert_eq!(lines[1], "0", "nothing was written to what lay there");
}

#[test]
fn a_failed_create_takes_its_root_out_of_a_shared_mount_namespace() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    let id = bundle.id.clone();
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "mount");
    bundle.spec["process"]["args"] = json!(["nosuch"]);
    let look = format!(
        "mount --bind rootfs rootfs; rt create {id} </dev/null >out 2>&1 && exit 9; grep -c {} /proc/self/mountinfo",
        bundle.path().display()
    );
    assert_eq!(
        on_a_host_of_its_own(&bundle, &look),
        "1\n",
        "the bind mount of somebody else, and nothing of ours"
    );
}

#[test]
fn time_and_cgroup_namespaces_are_joined_by_path() {
    if !is_root() {
        return;
    }
    let mut pod = Bundle::new("exec sleep 100");
    pod.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    pod.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 2_000_000}});
    pod.start();
    let path = |name: &str| format!("/proc/{}/ns/{name}", pod.pid());
    let mut bundle =
        Bundle::new("readlink /proc/self/ns/time; readlink /proc/self/ns/cgroup; cat /proc/uptime");
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|one| one["type"] != "cgroup");
    namespaces.push(json!({"type": "time", "path": path("time")}));
    namespaces.push(json!({"type": "cgroup", "path": path("cgroup")}));
    let said = bundle.run();
    let lines: Vec<&str> = said.ok().lines().collect();
    for (name, inside) in ["time", "cgroup"].iter().zip(&lines) {
        assert_eq!(fs::read_link(path(name)).unwrap().to_str(), Some(*inside));
    }
    let uptime: f64 = lines[2].split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 2_000_000.0, "{uptime}");
}

/// In a user namespace nodes are the host's, bound; a FIFO is made.
#[test]
fn devices_of_a_user_namespace_are_found_by_name_or_number() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("stat -c '%n %F' /dev/null /dev/pipe; head -c 2 /dev/mine | wc -c");
    let id = bundle.id.clone();
    userns(&mut bundle);
    bundle.spec["linux"]["devices"] = json!([
        {"path": "/dev/pipe", "type": "p"}, {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5}
    ]);
    bundle.write();
    chown_tree(&bundle, 100_000);
    fs::create_dir(bundle.path().join("newdev")).unwrap();
    let bind = |from: &str, to: &str| format!("touch newdev/{to}; mount --bind /dev/{from} newdev/{to};");
    let defaults = ["null", "zero", "full", "random", "urandom", "tty"].map(|name| bind(name, name)).concat();
    let look = format!(
        "mount -t tmpfs tmpfs newdev; mkdir newdev/char; {defaults} {} mount --rbind newdev /dev; \
         chown 0 config.json; rt run {id}",
        bind("zero", "char/1:5")
    );
    let out = on_a_host_of_its_own(&bundle, &look);
    assert_eq!(out, "/dev/null character special file\n/dev/pipe fifo\n2\n");
    bundle.spec["linux"]["devices"] = json!([{"path": "/dev/mine", "type": "c", "major": 4000, "minor": 5}]);
    bundle.run().refused(&["opening the device /dev/mine (char 4000:5, linux.devices)"]);
}
