//! What a container's processes can reach of the host and of us, by the CVE that taught each.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::bundle::{Bundle, is_root, wait_until};

/// A user namespace in which the container's root has every capability.
fn almighty_in_a_user_namespace(bundle: &mut Bundle) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let names = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_KILL"];
    for set in ["bounding", "effective", "permitted"] {
        bundle.spec["process"]["capabilities"][set] = json!(names);
    }
    Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.rootfs()).status().unwrap();
    Command::new("chmod").arg("755").arg(bundle.path()).status().unwrap();
}

#[test]
fn cve_2016_9962_who_joins_cannot_be_looked_into() {
    if !is_root() {
        return;
    }
    // PID 1 looks at the descriptors of everybody else, all the time.
    let look = "cd /proc; while true; do for p in [0-9]*; do [ $p != 1 ] && ls -l $p/fd $p/root/ 2>/dev/null; done; done";
    let mut bundle = Bundle::new(look);
    almighty_in_a_user_namespace(&mut bundle);
    bundle.start();
    for _ in 0..60 {
        bundle.say(&["exec", "ID", "true"]).ok();
    }
    let seen = bundle.output();
    assert!(!seen.is_empty(), "PID 1 saw nothing at all, not even itself");
    for secret in ["state.json", "berth-runtime", "seccomp.bpf", "/sys/fs/cgroup", "etc/shadow", "rootfs"] {
        assert!(!seen.contains(secret), "PID 1 saw {secret}");
    }
}

#[test]
fn cve_2022_29162_nothing_is_inheritable() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("grep CapInh /proc/self/status");
    assert_eq!(bundle.run().ok(), "CapInh:\t0000000000000000");
    bundle.spec["process"]["args"] = json!(["sleep", "100"]);
    bundle.start();
    for options in [&[][..], &["--cap", "CAP_NET_ADMIN"], &["--user", "5"]] {
        let words = [&["exec"], options, &["ID", "grep", "CapInh", "/proc/self/status"]].concat();
        assert_eq!(bundle.say(&words).ok(), "CapInh:\t0000000000000000");
    }
}

#[test]
fn cve_2022_2995_our_own_groups_are_not_the_containers() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("id -G");
    bundle.write();
    // A caller with groups of its own.
    let output = Command::new("setpriv")
        .args(["--groups", "4242,4243", "--"])
        .arg(env!("CARGO_BIN_EXE_berth-runtime"))
        .arg("--root")
        .arg(bundle.path().join("state"))
        .args(["run", &bundle.id])
        .current_dir(bundle.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "0",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn cve_2026_46680_numbers_out_of_range_are_no_users() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("id -u");
    let passwd = "4294967296:x:0:0::/:/bin/sh\n2147483648:x:0:0::/:/bin/sh\n-1:x:0:0::/:/bin/sh\n";
    fs::write(bundle.rootfs().join("etc/passwd"), passwd).unwrap();
    for uid in [json!(4_294_967_296_u64), json!(4_294_967_295_u32), json!(-1), json!("0"), json!(1.5)] {
        bundle.spec["process"]["user"] = json!({"uid": uid, "gid": 0});
        bundle.run().refused(&["user"]);
    }
    bundle.spec["process"]["user"] = json!({"uid": 2_147_483_648_u32, "gid": 0});
    assert_eq!(bundle.run().ok(), "2147483648");
}

#[test]
fn cve_2026_30892_exec_takes_users_by_number_alone() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("sleep 100");
    fs::write(bundle.rootfs().join("etc/passwd"), "name:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n").unwrap();
    bundle.start();
    assert_eq!(bundle.say(&["exec", "--user", "1000", "ID", "id", "-u"]).ok(), "1000");
    assert_eq!(bundle.say(&["exec", "--user", "1000:7", "ID", "id", "-g"]).ok(), "7");
    for user in ["1000:", ":1000", "name", "name:name", "-1", "4294967295", "4294967296", "1:2:3", ""] {
        bundle.say(&["exec", "--user", user, "ID", "id", "-u"]).refused(&["--user"]);
    }
}

#[test]
fn cve_2023_25809_cgroups_are_read_only_without_a_namespace_of_their_own() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new(
        "for f in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do [ -e $f ] && echo 1 > $f; done; mkdir /sys/fs/cgroup/pids/x /sys/fs/cgroup/x; true",
    );
    bundle.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|namespace| namespace["type"] != "cgroup");
    bundle.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}));
    let said = bundle.run();
    said.ok();
    let refusals = said.err.matches("Read-only file system").count();
    assert!(refusals >= 2 && refusals == said.err.lines().count(), "{}", said.err);
}

#[test]
fn cve_2022_0492_no_release_agent_can_be_reached() {
    if !is_root() {
        return;
    }
    // A container with a cgroup namespace and a writable mount of its own cgroups, which it may fill.
    let mut bundle = Bundle::new(
        "ls /sys/fs/cgroup/*/release_agent 2>&1; mkdir /tmp/c; mount -t cgroup -o pids c /tmp/c 2>&1; ls /tmp/c",
    );
    bundle.mount(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}),
    );
    let out = bundle.run().out;
    assert!(out.contains("release_agent: No such file"), "{out}");
    assert!(!out.lines().any(|line| line == "release_agent"), "{out}");
    let before = fs::read_to_string("/sys/fs/cgroup/pids/release_agent").unwrap_or_default();
    assert_eq!(before.trim(), "");
}

#[test]
fn ghsa_g54h_devices_are_denied_unless_they_are_allowed() {
    if !is_root() {
        return;
    }
    let mut bundle =
        Bundle::new("mknod /tmp/mem c 1 1; cat /tmp/mem; mknod /tmp/disk b 254 0; cat /tmp/disk");
    for set in ["bounding", "effective", "permitted"] {
        bundle.spec["process"]["capabilities"][set] = json!(["CAP_MKNOD", "CAP_SYS_RAWIO"]);
    }
    // Without a list there is none that allows anything (config-linux.md, Allowed Device list).
    for resources in
        [json!({"devices": [{"allow": false, "access": "rwm"}]}), json!({"devices": []}), json!({})]
    {
        bundle.spec["linux"]["resources"] = resources.clone();
        let said = bundle.run();
        assert_eq!(said.out, "", "{resources}");
        assert_eq!(said.err.matches("Operation not permitted").count(), 2, "{resources}: {}", said.err);
        for node in ["tmp/mem", "tmp/disk"] {
            fs::remove_file(bundle.rootfs().join(node)).unwrap();
        }
    }
}

#[test]
fn cve_2022_0811_a_sysctl_is_one_value_of_one_file() {
    if !is_root() {
        return;
    }
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let mut bundle = Bundle::new("true");
    for (name, value) in [
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/bin/x"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/bin/x"),
        ("kernel.core_pattern", "|/bin/x"),
        ("kernel/core_pattern", "|/bin/x"),
        ("net/../kernel/core_pattern", "|/bin/x"),
        ("net.ipv4./../kernel.core_pattern", "|/bin/x"),
    ] {
        bundle.spec["linux"]["sysctl"] = json!({name: value});
        bundle.run().refused(&["sysctl"]);
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
}

#[test]
fn cve_2022_0532_sysctls_of_the_hosts_namespaces_are_refused() {
    if !is_root() {
        return;
    }
    for (kind, name) in
        [("ipc", "kernel.msgmax"), ("network", "net.ipv4.ip_forward"), ("uts", "kernel.domainname")]
    {
        let mut bundle = Bundle::new("true");
        bundle.spec["hostname"] = json!(null);
        bundle.spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|namespace| namespace["type"] != kind);
        bundle.spec["linux"]["sysctl"] = json!({name: "1"});
        bundle.run().refused(&["sysctl", name]);
    }
}

#[test]
fn cve_2021_43784_lengths_beyond_sixteen_bits_are_errors() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.bind(Path::new(&format!("/{}", "x/".repeat(40_000))), "/mnt", &["bind"]);
    bundle.run().refused(&["mount"]);
    let mut bundle = Bundle::new("true");
    almighty_in_a_user_namespace(&mut bundle);
    let maps: Vec<_> =
        (0..5000_u32).map(|i| json!({"containerID": i * 2, "hostID": 100_000 + i * 2, "size": 1})).collect();
    bundle.spec["linux"]["uidMappings"] = json!(maps);
    bundle.run().refused(&["map"]);
}

#[test]
fn cve_2019_18837_links_in_every_part_of_a_mount_point_stay_inside() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::new("cat /tmp/end/file");
    let root = bundle.rootfs();
    symlink("/b", root.join("a")).unwrap();
    fs::create_dir(root.join("b")).unwrap();
    symlink("../../../../../c", root.join("b/one")).unwrap();
    fs::create_dir(root.join("c")).unwrap();
    symlink("/tmp/./end/../end", root.join("c/two")).unwrap();
    let source = outside.path().join("file");
    fs::write(&source, "there").unwrap();
    bundle.bind(&source, "/a/one/two/file", &["bind", "ro"]);
    assert_eq!(bundle.run().ok(), "there");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn cve_2019_5736_an_exec_of_proc_self_exe_reaches_no_program_of_ours() {
    if !is_root() {
        return;
    }
    let program = env!("CARGO_BIN_EXE_berth-runtime");
    let before = fs::read(program).unwrap();
    let mut bundle = Bundle::new(
        "while true; do for p in /proc/[0-9]*/exe; do echo x 2>/dev/null >> $p; done; done 2>/dev/null",
    );
    for set in ["bounding", "effective", "permitted"] {
        bundle.spec["process"]["capabilities"][set] =
            json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_KILL"]);
    }
    bundle.start();
    for _ in 0..40 {
        bundle.say(&["exec", "ID", "/proc/self/exe", "--version"]);
        bundle.say(&["exec", "ID", "true"]);
    }
    assert!(fs::read(program).unwrap() == before, "the runtime's binary has changed");
}

#[test]
fn a_container_that_has_no_room_for_us_still_starts_and_takes_an_exec() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new("");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 1 << 20});
    bundle.spec["process"]["args"] = json!(["sleep", "100"]);
    bundle.start();
    bundle.say(&["exec", "ID", "true"]).ok();
    wait_until(|| bundle.status() == "running", "running");
}
