//! config-linux.md: personality, memory policy, network devices, IntelRdt, mount label.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::super::verdict::{is, not_applicable, that};
use super::super::{Test, must};

const PERSONALITY: &str = "config-linux.md#personality";
const POLICY: &str = "config-linux.md#memory-policy";
const DEVICES: &str = "config-linux.md#network-devices";
const RDT: &str = "config-linux.md#intelrdt";

pub(crate) fn tests() -> Vec<Test> {
    [personality(), memory_policy(), net_devices(), rdt()].into_iter().flatten().collect()
}

fn personality() -> Vec<Test> {
    let tests = vec![
        must(PERSONALITY, "LINUX32 shows a 32-bit machine", |lab| {
            let mut bundle = lab.bundle()?;
            let report = bundle.set("/linux/personality", json!({"domain": "LINUX32"})).report()?;
            is("machine", &report["machine"], "i686")
        }),
        must(PERSONALITY, "LINUX shows the machine's own", |lab| {
            let mut bundle = lab.bundle()?;
            let report = bundle.set("/linux/personality", json!({"domain": "LINUX"})).report()?;
            is("personality", &report["personality"], 0)
        }),
        must(PERSONALITY, "an unknown domain is an error", |lab| {
            lab.bundle()?.set("/linux/personality", json!({"domain": "NOSUCH"})).refused()
        }),
        must(PERSONALITY, "a flag is an error, since none is supported", |lab| {
            lab.bundle()?
                .set("/linux/personality", json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}))
                .refused()
        }),
    ];
    tests.into_iter().map(|test| test.since(1)).collect()
}

fn memory_policy() -> Vec<Test> {
    let modes =
        [("MPOL_BIND", "bind:0"), ("MPOL_INTERLEAVE", "interleave:0"), ("MPOL_PREFERRED", "prefer:0")];
    let mut tests: Vec<Test> = modes
        .into_iter()
        .map(|(mode, shown)| {
            must(POLICY, mode, move |lab| {
                if !std::path::Path::new("/proc/self/numa_maps").exists() {
                    return not_applicable("this kernel has no NUMA");
                }
                let mut bundle = lab.bundle()?;
                let report =
                    bundle.set("/linux/memoryPolicy", json!({"mode": mode, "nodes": "0"})).report()?;
                is("policy", &report["memory_policy"], shown)
            })
            .since(3)
        })
        .collect();
    let refused = |name: &'static str, policy: Value| {
        must(POLICY, name, move |lab| lab.bundle()?.set("/linux/memoryPolicy", policy.clone()).refused())
            .since(3)
    };
    tests.extend([
        refused("an unknown mode is an error", json!({"mode": "MPOL_NOSUCH", "nodes": "0"})),
        refused(
            "an unknown flag is an error",
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NOSUCH"]}),
        ),
        refused("nodes that are no list are an error", json!({"mode": "MPOL_BIND", "nodes": "0-x"})),
    ]);
    tests
}

fn net_devices() -> Vec<Test> {
    vec![
        must(DEVICES, "an interface moves into the container's namespace", |lab| {
            let _link = Link::dummy("bthoci0")?;
            let mut bundle = lab.bundle()?;
            let report = bundle.set("/linux/netDevices", json!({"bthoci0": {}})).report()?;
            that(report["interfaces"].to_string().contains("bthoci0"), || report["interfaces"].to_string())
        })
        .since(3),
        must(DEVICES, "it may get another name there", |lab| {
            let _link = Link::dummy("bthoci1")?;
            let mut bundle = lab.bundle()?;
            let report = bundle.set("/linux/netDevices", json!({"bthoci1": {"name": "inside0"}})).report()?;
            that(report["interfaces"].to_string().contains("inside0"), || report["interfaces"].to_string())
        })
        .since(3),
        must(DEVICES, "an interface that is not there is an error", |lab| {
            lab.bundle()?.set("/linux/netDevices", json!({"bthnosuch": {}})).refused()
        })
        .since(3),
        must(DEVICES, "without a network namespace of the container's it is an error", |lab| {
            let _link = Link::dummy("bthoci2")?;
            let mut bundle = lab.bundle()?;
            bundle.without_namespace("network").set("/linux/netDevices", json!({"bthoci2": {}}));
            bundle.refused()
        })
        .since(3),
    ]
}

/// An interface in our own network namespace.
struct Link(&'static str);

impl Link {
    fn dummy(name: &'static str) -> Result<Link> {
        let _ = Command::new("ip").args(["link", "del", name]).output();
        // A pair needs no module that a small kernel may lack.
        let output = Command::new("ip")
            .args(["link", "add", name, "type", "veth", "peer", "name", "bthpeer"])
            .output()?;
        ensure!(output.status.success(), "ip link add: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Link(name))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for name in [self.0, "bthpeer"] {
            let _ = Command::new("ip").args(["link", "del", name]).output();
        }
    }
}

fn rdt() -> Vec<Test> {
    let mounted = || std::fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.contains(" resctrl "));
    vec![
        must(RDT, "without a mounted resctrl it is an error", move |lab| {
            if mounted() {
                return not_applicable("resctrl is mounted here");
            }
            lab.bundle()?.set("/linux/intelRdt", json!({"closID": "x", "schemata": ["L3:0=f"]})).refused()
        }),
        must("config-linux.md#mount-label", "a label without SELinux is an error or has no effect", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/linux/mountLabel", "system_u:object_r:container_file_t:s0");
            let said = bundle.run()?;
            that(said.code != -1, || "it hung".into())
        }),
    ]
}
