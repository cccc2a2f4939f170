//! config-linux.md, "Control groups": where the container is, and each limit as the kernel's file tells it.

use std::fs;

use serde_json::{Value, json};

use super::super::bundle::Bundle;
use super::super::verdict::{Outcome, is, not_applicable, same, that};
use super::super::{Lab, Test, must, should};

const PATH: &str = "config-linux.md#cgroups-path";
const MEMORY: &str = "config-linux.md#memory";
const CPU: &str = "config-linux.md#cpu";
const PIDS: &str = "config-linux.md#pids";
const BLOCK: &str = "config-linux.md#block-io";
const UNIFIED: &str = "config-linux.md#unified";

pub(crate) fn tests() -> Vec<Test> {
    [paths(), memory(), cpu(), pids(), block_io(), others(), unified(), ownership()]
        .into_iter()
        .flatten()
        .collect()
}

/// A limit, and what the files of both cgroup versions then hold.
struct Limit {
    section: &'static str,
    name: &'static str,
    /// Below `linux.resources`.
    resources: Value,
    /// Controller, file and content; `|` is between contents that are as good.
    v1: &'static [(&'static str, &'static str, &'static str)],
    v2: &'static [(&'static str, &'static str)],
}

impl Limit {
    fn test(self) -> Test {
        let Limit { section, name, resources, v1, v2 } = self;
        must(section, name, move |lab| {
            let files: Vec<(&str, &str, &str)> = if lab.host.unified {
                v2.iter().map(|(file, text)| ("", *file, *text)).collect()
            } else {
                v1.to_vec()
            };
            if files.is_empty() {
                return not_applicable("this cgroup version has no such file");
            }
            if let Some(missing) = missing(lab, &files) {
                return not_applicable(format!("this machine has no controller {missing}"));
            }
            let mut bundle = limited(lab, &resources)?;
            bundle.create()?;
            for (controller, file, wanted) in files {
                if !bundle.cgroup_dir(controller).is_ok_and(|dir| dir.join(file).exists()) {
                    return not_applicable(format!("this kernel has no {file}"));
                }
                holds(file, &bundle.cgroup_file(controller, file)?, wanted)?;
            }
            bundle.running_again()
        })
    }
}

/// A controller that no hierarchy of the machine has.
fn missing<'a>(lab: &Lab<'_>, files: &[(&'a str, &'a str, &str)]) -> Option<&'a str> {
    if lab.host.unified {
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        let lacks =
            |name: &&str| *name != "cgroup" && !controllers.split_whitespace().any(|known| known == *name);
        return files.iter().filter_map(|(_, file, _)| file.split('.').next()).find(lacks);
    }
    let lacks = |name: &&str| !std::path::Path::new("/sys/fs/cgroup").join(name).exists();
    files.iter().map(|(controller, ..)| *controller).find(lacks)
}

impl Bundle<'_> {
    /// It must also be able to run with its limits.
    fn running_again(&mut self) -> Outcome {
        self.start()?;
        Ok(self.until_stopped()?)
    }
}

fn holds(file: &str, found: &str, wanted: &str) -> Outcome {
    let is_so = if wanted.contains(' ') && !wanted.starts_with('=') {
        found.lines().any(|line| line == wanted)
    } else {
        wanted.split('|').any(|wanted| found == wanted)
    };
    that(is_so, || format!("{file} holds {found:?}, not {wanted:?}"))
}

fn limited<'a>(lab: &'a Lab<'_>, resources: &Value) -> anyhow::Result<Bundle<'a>> {
    let mut bundle = lab.bundle()?;
    for (name, value) in resources.as_object().into_iter().flatten() {
        bundle.set(&format!("/linux/resources/{name}"), value.clone());
    }
    Ok(bundle)
}

fn paths() -> Vec<Test> {
    vec![
        must(PATH, "the process is in the named cgroup", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            let text = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid()?))?;
            that(text.contains(&bundle.id), || text.clone())
        }),
        must(PATH, "an absolute path is relative to the mount point", |lab| {
            if lab.runtime.has_systemd_cgroup() {
                return not_applicable("with the systemd driver a path is slice:prefix:name");
            }
            let mut bundle = lab.bundle()?;
            let path = format!("/berth-oci-deep/er/{}", bundle.id);
            bundle.set("/linux/cgroupsPath", path.clone()).create()?;
            let found = bundle.cgroup_dir("pids")?;
            same("it ends in the path", found.ends_with(path.trim_start_matches('/')), true)?;
            bundle.stop()?;
            bundle.say(&["delete", "ID"])?;
            that(!found.exists(), || "it stays after delete".into())?;
            remove_parents();
            Ok(())
        }),
        must(PATH, "the same path is the same place", |lab| {
            let bundle = lab.bundle()?;
            bundle.create()?;
            let first = bundle.cgroup_dir("pids")?;
            bundle.stop()?;
            bundle.say(&["delete", "ID"])?;
            bundle.create()?;
            same("the place", bundle.cgroup_dir("pids")?, first)
        }),
        must(PATH, "absent, there is a default", |lab| {
            let mut bundle = lab.bundle()?;
            Ok(bundle.unset("/linux/cgroupsPath").report().map(drop)?)
        }),
        must(PATH, "a path that leads out of the mount point is an error", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/linux/cgroupsPath", "/../../berth-oci-out").try_create()?;
            that(!std::path::Path::new("/sys/fs/berth-oci-out").exists(), || "it was made".into())?;
            let process = bundle.say(&["state", "ID"])?.is_ok();
            if !process { Ok(()) } else { inside(&bundle) }
        }),
        must(
            "config-linux.md#control-groups",
            "a cgroup that holds another's process is not taken and not removed",
            |lab| {
                if lab.runtime.has_systemd_cgroup() {
                    return not_applicable("systemd makes a unit of its own");
                }
                let first = {
                    let mut first = lab.bundle()?;
                    first.running()?;
                    first
                };
                let mut second = lab.bundle()?;
                second.set("/linux/cgroupsPath", lab.runtime.cgroups_path(&first.id));
                let said = second.try_create()?;
                second.say(&["delete", "--force", "ID"])?;
                that(!said.is_ok(), || "two containers share a cgroup".into())?;
                same("the first", first.status()?, "running")
            },
        )
        .since(1),
    ]
}

fn inside(bundle: &Bundle<'_>) -> Outcome {
    let dir = bundle.cgroup_dir("pids")?;
    that(dir.canonicalize()?.starts_with("/sys/fs/cgroup"), || dir.display().to_string())
}

fn remove_parents() {
    for root in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path()) {
        for root in [root.as_path(), std::path::Path::new("/sys/fs/cgroup")] {
            let _ = fs::remove_dir(root.join("berth-oci-deep/er"));
            let _ = fs::remove_dir(root.join("berth-oci-deep"));
        }
    }
}

fn memory() -> Vec<Test> {
    let limit = |name, resources, v1, v2| Limit { section: MEMORY, name, resources, v1, v2 }.test();
    let mut tests = vec![
        limit(
            "limit",
            json!({"memory": {"limit": 67_108_864}}),
            &[("memory", "memory.limit_in_bytes", "67108864")],
            &[("memory.max", "67108864")],
        ),
        limit(
            "reservation",
            json!({"memory": {"limit": 67_108_864, "reservation": 33_554_432}}),
            &[("memory", "memory.soft_limit_in_bytes", "33554432")],
            &[("memory.low", "33554432")],
        ),
        limit(
            "swap counts memory as well",
            json!({"memory": {"limit": 67_108_864, "swap": 100_663_296}}),
            &[("memory", "memory.memsw.limit_in_bytes", "100663296")],
            &[("memory.swap.max", "33554432")],
        ),
        limit(
            "-1 is no limit",
            json!({"memory": {"limit": -1}}),
            &[("memory", "memory.limit_in_bytes", "9223372036854771712")],
            &[("memory.max", "max")],
        ),
        limit(
            "swappiness",
            json!({"memory": {"swappiness": 17}}),
            &[("memory", "memory.swappiness", "17")],
            &[],
        ),
        limit(
            "disableOOMKiller",
            json!({"memory": {"limit": 67_108_864, "disableOOMKiller": true}}),
            &[("memory", "memory.oom_control", "oom_kill_disable 1")],
            &[],
        ),
    ];
    tests.extend([
        must(MEMORY, "a process that takes more is killed", |lab| {
            let mut bundle = limited(lab, &json!({"memory": {"limit": 33_554_432, "swap": 33_554_432}}))?;
            let said = bundle.tries(&["memory:200"]).run()?;
            same("exit code", said.code, 137)
        }),
        must(MEMORY, "a process that takes less is not", |lab| {
            let mut bundle = limited(lab, &json!({"memory": {"limit": 67_108_864}}))?;
            that(bundle.attempt("memory:16")?.starts_with("ok"), || "it was refused".into())
        }),
        must(MEMORY, "swap below limit is an error", |lab| {
            limited(lab, &json!({"memory": {"limit": 67_108_864, "swap": 33_554_432}}))?.refused()
        }),
        must(MEMORY, "swappiness above 100 is an error", |lab| {
            if lab.host.unified {
                return not_applicable("cgroup v2 has no swappiness");
            }
            limited(lab, &json!({"memory": {"swappiness": 101}}))?.refused()
        }),
    ]);
    tests
}

fn cpu() -> Vec<Test> {
    let limit = |name, resources, v1, v2| Limit { section: CPU, name, resources, v1, v2 }.test();
    vec![
        limit(
            "shares",
            json!({"cpu": {"shares": 512}}),
            &[("cpu", "cpu.shares", "512")],
            // The specification has no formula: as runc and crun did until 2025, and as they do since.
            &[("cpu.weight", "20|59")],
        ),
        limit(
            "quota and period",
            json!({"cpu": {"quota": 20_000, "period": 50_000}}),
            &[("cpu", "cpu.cfs_quota_us", "20000"), ("cpu", "cpu.cfs_period_us", "50000")],
            &[("cpu.max", "20000 50000")],
        ),
        limit(
            "a period without a quota",
            json!({"cpu": {"period": 50_000}}),
            &[("cpu", "cpu.cfs_period_us", "50000")],
            &[("cpu.max", "max 50000")],
        ),
        limit(
            "a quota of -1 is none",
            json!({"cpu": {"quota": -1, "period": 100_000}}),
            &[("cpu", "cpu.cfs_quota_us", "-1")],
            &[("cpu.max", "max 100000")],
        ),
        Limit {
            section: CPU,
            name: "burst",
            resources: json!({"cpu": {"quota": 20_000, "period": 50_000, "burst": 10_000}}),
            v1: &[("cpu", "cpu.cfs_burst_us", "10000")],
            v2: &[("cpu.max.burst", "10000")],
        }
        .test()
        .since(1),
        Limit {
            section: CPU,
            name: "idle",
            resources: json!({"cpu": {"idle": 1}}),
            v1: &[("cpu", "cpu.idle", "1")],
            v2: &[("cpu.idle", "1")],
        }
        .test()
        .since(1),
        limit(
            "cpus",
            json!({"cpu": {"cpus": "0"}}),
            &[("cpuset", "cpuset.cpus", "0")],
            &[("cpuset.cpus", "0")],
        ),
        limit(
            "mems",
            json!({"cpu": {"cpus": "0", "mems": "0"}}),
            &[("cpuset", "cpuset.mems", "0")],
            &[("cpuset.mems", "0")],
        ),
        must(CPU, "cpus are where the process may run", |lab| {
            is("cpus", &limited(lab, &json!({"cpu": {"cpus": "0"}}))?.report()?["cpus"], "0")
        }),
        must(CPU, "cpus that the machine lacks are an error", |lab| {
            limited(lab, &json!({"cpu": {"cpus": "4000"}}))?.refused()
        }),
        must(CPU, "a quota that is too small for the kernel is an error", |lab| {
            limited(lab, &json!({"cpu": {"quota": 1, "period": 100_000}}))?.refused()
        }),
    ]
}

fn pids() -> Vec<Test> {
    let limit = |name, resources, v1, v2| Limit { section: PIDS, name, resources, v1, v2 }.test();
    vec![
        limit("limit", json!({"pids": {"limit": 77}}), &[("pids", "pids.max", "77")], &[("pids.max", "77")]),
        limit(
            "-1 is no limit",
            json!({"pids": {"limit": -1}}),
            &[("pids", "pids.max", "max")],
            &[("pids.max", "max")],
        ),
        must(PIDS, "no more tasks can be had", |lab| {
            let mut bundle = limited(lab, &json!({"pids": {"limit": 10}}))?;
            let report = bundle.tries(&["threads:50"]).report()?;
            let had = report["tries"]["threads:50"].as_str().unwrap_or_default().trim_start_matches("ok: ");
            that(had.parse::<u32>().is_ok_and(|had| (1..10).contains(&had)), || format!("{had} threads"))
        }),
    ]
}

fn block_io() -> Vec<Test> {
    let limit = |name, resources, v1, v2| Limit { section: BLOCK, name, resources, v1, v2 }.test();
    vec![
        limit(
            "weight",
            json!({"blockIO": {"weight": 500}}),
            &[("blkio", "blkio.bfq.weight", "500")],
            &[("io.bfq.weight", "default 500")],
        ),
        throttle("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
        throttle("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
        throttle("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
        throttle("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
        must(BLOCK, "a device that is not there is an error", |lab| {
            let device = json!([{"major": 4000, "minor": 1, "rate": 1000}]);
            limited(lab, &json!({"blockIO": {"throttleReadBpsDevice": device}}))?.refused()
        }),
    ]
}

fn throttle(field: &'static str, v1: &'static str, v2: &'static str) -> Test {
    must(BLOCK, field, move |lab| {
        let Some((major, minor)) = whole_disk() else { return not_applicable("this machine has no disk") };
        let device = json!([{"major": major, "minor": minor, "rate": 1_048_576}]);
        let bundle = limited(lab, &json!({"blockIO": {field: device}}))?;
        bundle.create()?;
        let (file, wanted) = if lab.host.unified {
            ("io.max", format!("{v2}=1048576"))
        } else {
            (v1, format!("{major}:{minor} 1048576"))
        };
        let found = bundle.cgroup_file("blkio", file)?;
        that(found.contains(&wanted), || format!("{file} holds {found:?}"))
    })
}

fn whole_disk() -> Option<(u32, u32)> {
    let mut disks: Vec<String> = fs::read_dir("/sys/block")
        .ok()?
        .flatten()
        .filter(|disk| fs::read_to_string(disk.path().join("size")).is_ok_and(|size| size.trim() != "0"))
        .filter_map(|disk| fs::read_to_string(disk.path().join("dev")).ok())
        .collect();
    disks.sort();
    let (major, minor) = disks.first()?.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn others() -> Vec<Test> {
    let limit = |section, name, resources, v1, v2| Limit { section, name, resources, v1, v2 }.test();
    vec![
        limit(
            "config-linux.md#huge-page-limits",
            "hugepageLimits",
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}),
            &[("hugetlb", "hugetlb.2MB.limit_in_bytes", "4194304")],
            &[("hugetlb.2MB.max", "4194304")],
        ),
        must("config-linux.md#huge-page-limits", "a page size that the kernel lacks is an error", |lab| {
            limited(lab, &json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 4_194_304}]}))?.refused()
        }),
        limit(
            "config-linux.md#network",
            "classID",
            json!({"network": {"classID": 1_048_577}}),
            &[("net_cls", "net_cls.classid", "1048577")],
            &[],
        ),
        must("config-linux.md#rdma", "a device that is not there is an error", |lab| {
            limited(lab, &json!({"rdma": {"berth_nosuch": {"hcaHandles": 3}}}))?.refused()
        }),
    ]
}

fn unified() -> Vec<Test> {
    let file = |name: &'static str, key: &'static str, value: &'static str| {
        must(UNIFIED, name, move |lab| {
            if !lab.host.unified {
                return not_applicable("this machine has cgroup v1 controllers");
            }
            let bundle = limited(lab, &json!({"unified": {key: value}}))?;
            bundle.create()?;
            same(key, bundle.cgroup_file("", key)?, value)
        })
    };
    let tests = vec![
        file("a file of an enabled controller", "pids.max", "55"),
        file("a file that no other field has", "memory.high", "67108864"),
        file("a core file", "cgroup.max.descendants", "9"),
        must(UNIFIED, "a controller that is not there is an error", |lab| {
            limited(lab, &json!({"unified": {"nosuch.max": "1"}}))?.refused()
        }),
        must(UNIFIED, "a name that is a path is an error", |lab| {
            limited(lab, &json!({"unified": {"../pids.max": "1"}}))?.refused()
        }),
        must(UNIFIED, "it is an error where the hierarchy is not unified", |lab| {
            if lab.host.unified {
                return not_applicable("this machine has cgroup v2 alone");
            }
            limited(lab, &json!({"unified": {"memory.high": "67108864"}}))?.refused()
        }),
    ];
    tests.into_iter().map(|test| test.since(1)).collect()
}

fn ownership() -> Vec<Test> {
    vec![should("config-linux.md#cgroup-ownership", "cgroup v1 directories stay root's", |lab| {
        use std::os::unix::fs::MetadataExt as _;
        if lab.host.unified {
            return not_applicable("this machine has cgroup v2 alone");
        }
        let mut bundle = lab.bundle()?;
        bundle
            .set("/process/user", json!({"uid": 1000, "gid": 1000}))
            .push("/linux/namespaces", json!({"type": "cgroup"}));
        bundle.mount("/sys/fs/cgroup", "cgroup", &["rw"]).create()?;
        same("owner", fs::metadata(bundle.cgroup_dir("pids")?)?.uid(), 0)
    })]
}
