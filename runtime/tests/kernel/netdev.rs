//! Interfaces of the host that become the container's. The host here is a network namespace of the test's own.

use std::process::Command;

use serde_json::json;

use crate::bundle::{Bundle, Said, is_root};

const IP: &str = "/sbin/ip";

fn can_run() -> bool {
    let there = std::path::Path::new(IP).exists();
    if !there {
        println!("skipped: making interfaces needs {IP} (iproute2)");
    }
    is_root() && there
}

/// Runs the container in a network namespace with a pair of interfaces, `v0` with addresses; then a look around.
fn run(bundle: &Bundle, prepare: &str) -> Said {
    bundle.write();
    let script = format!(
        "set -e; ip() {{ {IP} \"$@\"; }}; ip link add v0 type veth peer name v1; ip link set v0 address 02:00:00:00:00:07 mtu 1400; \
         ip addr add 10.9.8.7/24 brd 10.9.8.255 dev v0; ip -6 addr add fd00:9::7/64 dev v0 nodad; \
         ip link set v0 up; ip link set v1 up; {prepare} set +e; \"$@\"; code=$?; echo == outside; ip -o addr; exit $code"
    );
    let runtime = bundle.command(&["run", &bundle.id]);
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script, "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    Said::from(command.current_dir(bundle.path()).stdin(std::process::Stdio::null()).output().unwrap())
}

const LOOK: &str = "/bin/busybox ip -o addr; /bin/busybox ip link show inside";

#[test]
fn an_interface_moves_in_with_its_addresses_and_a_new_name() {
    if !can_run() {
        return;
    }
    let mut bundle = Bundle::new(LOOK);
    bundle.spec["linux"]["netDevices"] = json!({"v0": {"name": "inside"}});
    let said = run(&bundle, "");
    let (inside, outside) = said.ok().split_once("== outside").unwrap();
    for part in
        ["inet 10.9.8.7/24 brd 10.9.8.255", "inet6 fd00:9::7/64", "02:00:00:00:00:07", "mtu 1400", "UP"]
    {
        assert!(inside.contains(part), "no {part} in {inside}");
    }
    assert!(!inside.contains("v0") && !outside.contains("v0"), "{}", said.out);
}

#[test]
fn it_is_there_before_the_sysctls_that_name_it_and_a_template_finds_a_number() {
    if !can_run() {
        return;
    }
    let mut bundle = Bundle::new("cat /proc/sys/net/ipv4/conf/net0/forwarding");
    bundle.spec["linux"]["netDevices"] = json!({"v0": {"name": "net%d"}});
    bundle.spec["linux"]["sysctl"] = json!({"net.ipv4.conf.net0.forwarding": "1"});
    assert!(run(&bundle, "").ok().starts_with("1\n"));
}

#[test]
fn a_create_that_fails_gives_the_interface_back_as_it_was() {
    if !can_run() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["netDevices"] = json!({"v0": {"name": "inside"}});
    bundle.spec["process"]["args"] = json!(["nosuch"]);
    let said = run(&bundle, "");
    said.refused(&["nosuch"]);
    for part in ["v0    inet 10.9.8.7/24 brd 10.9.8.255", "v0    inet6 fd00:9::7/64"] {
        assert!(said.out.contains(part), "no {part} in {}", said.out);
    }
}

/// What `run` makes, in the network namespace that we are in.
fn renew_interfaces() {
    // Where a container took v0 along, v1 stays until the kernel gets round to what the namespace held.
    let script = "ip link del v0 2>/dev/null; ip link del v1 2>/dev/null; set -e; ip link add v0 type veth peer name v1; \
        ip link set v0 address 02:00:00:00:00:07 mtu 1400; ip addr add 10.9.8.7/24 brd 10.9.8.255 dev v0; \
        ip -6 addr add fd00:9::7/64 dev v0 nodad; ip link set v0 up; ip link set v1 up";
    assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
}

#[test]
fn a_create_killed_at_any_of_its_calls_gives_the_interface_back_when_it_is_deleted() {
    if !can_run() || !crate::killed::can_run() {
        return;
    }
    let bundle = || {
        renew_interfaces();
        let mut bundle = Bundle::new("exec sleep 100");
        bundle.spec["linux"]["netDevices"] = json!({"v0": {"name": "inside%d"}});
        bundle.spec["process"]["env"] = json!(["PATH=/bin", format!("BERTH_MARK={}", bundle.id)]);
        bundle.write();
        bundle
    };
    let after = |_: &Bundle, moment: &str| {
        let said =
            Said::from(Command::new(IP).args(["-o", "addr", "show", "dev", "v0", "up"]).output().unwrap());
        // When the container was made it is the container's, and ends with it. Its init makes it so by letting go of its
        // descriptors, in which it may have been killed.
        let was_made = moment.contains("close_range") && moment.ends_with("stopped");
        let may_be_gone = was_made || moment.ends_with("created");
        for part in ["inet 10.9.8.7/24 brd 10.9.8.255", "inet6 fd00:9::7/64"] {
            assert!(
                may_be_gone || said.out.contains(part),
                "{moment}: no {part} in {}{}",
                said.out,
                said.err
            );
        }
    };
    let test = move || {
        kernel::unshare(kernel::clone_flags::NEWNET).unwrap();
        crate::killed::everywhere(bundle, &["create", "ID"], |_| {}, after, 4);
    };
    // A thread of its own, since nothing leads back.
    std::thread::spawn(test).join().unwrap();
}

#[test]
fn a_name_that_is_taken_or_missing_is_an_error_and_nothing_moves() {
    if !can_run() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["netDevices"] = json!({"v0": {"name": "lo"}});
    let said = run(&bundle, "");
    said.refused(&["moving the interface v0 as lo (linux.netDevices)", "File exists"]);
    assert!(said.out.contains("v0    inet6 fd00:9::7/64"), "{}", said.out);
    bundle.spec["linux"]["netDevices"] = json!({"v0": {}, "zz-nosuch": {}});
    let said = run(&bundle, "");
    said.refused(&["zz-nosuch", "No such device"]);
    assert!(said.out.contains("v0    inet 10.9.8.7/24"), "{}", said.out);
}

#[test]
fn interfaces_cannot_move_to_the_host_itself() {
    if !can_run() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["netDevices"] = json!({"v0": {"name": "inside"}});
    bundle.spec["linux"]["namespaces"][1] = json!({"type": "network", "path": "/proc/self/ns/net"});
    let said = run(&bundle, "");
    said.refused(&["linux.netDevices: would change the host"]);
    assert!(said.out.contains("v0    inet 10.9.8.7/24"), "{}", said.out);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().remove(1);
    run(&bundle, "").refused(&["linux.netDevices: needs a network namespace"]);
}
