//! config-linux.md: namespaces, mappings, clocks; config.md: host and domain name.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::super::bundle::Bundle;
use super::super::verdict::{is, same, that};
use super::super::{Test, must};

const NAMESPACES: &str = "config-linux.md#namespaces";
const MAPPINGS: &str = "config-linux.md#user-namespace-mappings";
const TIME: &str = "config-linux.md#offset-for-time-namespace";

/// The specification's word, the kernel's, and unshare(1)'s option.
const KINDS: [(&str, &str, &str); 8] = [
    ("pid", "pid", "--pid"),
    ("network", "net", "--net"),
    ("mount", "mnt", "--mount"),
    ("ipc", "ipc", "--ipc"),
    ("uts", "uts", "--uts"),
    ("user", "user", "--user"),
    ("cgroup", "cgroup", "--cgroup"),
    ("time", "time", "--time"),
];

pub(crate) fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = KINDS.iter().flat_map(each).collect();
    tests.extend(wrong());
    tests.extend(users());
    tests.extend(clocks());
    tests.extend(names());
    tests.extend(views());
    tests
}

impl Bundle<'_> {
    /// The only entry of its type, with a path or new.
    fn namespace(&mut self, kind: &str, path: Option<&str>) -> &mut Self {
        self.without_namespace(kind);
        match path {
            Some(path) => self.push("/linux/namespaces", json!({"type": kind, "path": path})),
            None => self.push("/linux/namespaces", json!({"type": kind})),
        };
        if kind == "user" && path.is_none() {
            self.map_users();
        }
        self
    }

    fn map_users(&mut self) -> &mut Self {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 70_000}]);
        // The owner of the root, so that it can be written to, and its way there.
        let _ = std::os::unix::fs::chown(self.rootfs(), Some(100_000), Some(100_000));
        let _ = std::os::unix::fs::chown(self.rootfs().join("out"), Some(100_000), Some(100_000));
        self.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map)
    }
}

fn each(&(kind, name, option): &'static (&str, &str, &str)) -> Vec<Test> {
    let since = u32::from(kind == "time");
    let mut tests = vec![
        must(NAMESPACES, format!("{kind}: without a path it is a new one"), move |lab| {
            let mut bundle = lab.bundle()?;
            let report = bundle.namespace(kind, None).report()?;
            that(report["namespaces"][name] != json!(ours(name)?), || "it is the runtime's".into())
        })
        .since(since),
    ];
    // A process of one PID namespace can't be in another by itself, so unshare forks; the rest is alike.
    if kind != "mount" {
        tests.push(
            must(NAMESPACES, format!("{kind}: a path is joined"), move |lab| {
                let other = Other::new(option)?;
                let mut bundle = lab.bundle()?;
                bundle.namespace(kind, Some(&other.path(name)));
                let report = bundle.report()?;
                is("its namespace", &report["namespaces"][name], json!(other.link(name)?))
            })
            .since(since),
        );
        tests.push(
            must(NAMESPACES, format!("{kind}: not listed, it is the runtime's"), move |lab| {
                let mut bundle = lab.bundle()?;
                bundle.without_namespace(kind);
                if kind == "network" {
                    // The kernel lets nobody mount a sysfs in another's network namespace with less than all rights.
                    bundle.set("/mounts/4", json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]}));
                }
                is("its namespace", &bundle.report()?["namespaces"][name], json!(ours(name)?))
            }),
        );
    }
    tests
}

fn ours(name: &str) -> Result<PathBuf> {
    Ok(fs::read_link(format!("/proc/self/ns/{name}"))?)
}

/// A process in a namespace of its own.
struct Other {
    child: Child,
    pid: u32,
}

impl Other {
    fn new(option: &str) -> Result<Other> {
        let mut command = Command::new("unshare");
        // The program is the namespace's, forked or not.
        command.args([option, "--fork", "--kill-child", "--", "sleep", "60"]);
        if option == "--user" {
            command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--fork", "--kill-child", "--", "sleep", "60"]);
        }
        let child = command.stdin(Stdio::null()).spawn().context("running unshare")?;
        let mut other = Other { pid: 0, child };
        other.pid = other.forked()?;
        Ok(other)
    }

    fn forked(&self) -> Result<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        for _ in 0..400 {
            let text = fs::read_to_string(&children).unwrap_or_default();
            if let Some(pid) = text.split_whitespace().next() {
                let pid: u32 = pid.parse()?;
                if fs::read_to_string(format!("/proc/{pid}/comm"))?.trim() == "sleep" {
                    return Ok(pid);
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        anyhow::bail!("unshare forked nothing")
    }

    fn path(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.pid)
    }

    fn link(&self, name: &str) -> Result<PathBuf> {
        Ok(fs::read_link(self.path(name))?)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wrong() -> Vec<Test> {
    vec![
        must(NAMESPACES, "a path of another type is an error", |lab| {
            let other = Other::new("--ipc")?;
            lab.bundle()?.namespace("network", Some(&other.path("ipc"))).refused()
        }),
        must(NAMESPACES, "a path of another type is an error for PID as well", |lab| {
            let other = Other::new("--ipc")?;
            lab.bundle()?.namespace("pid", Some(&other.path("ipc"))).refused()
        }),
        must(NAMESPACES, "a path that is no namespace is an error", |lab| {
            lab.bundle()?.namespace("network", Some("/dev/null")).refused()
        }),
        must(NAMESPACES, "a path that is not there is an error", |lab| {
            lab.bundle()?.namespace("network", Some("/nosuch")).refused()
        }),
        must(NAMESPACES, "a path that is not absolute is an error", |lab| {
            let mut bundle = lab.bundle()?;
            std::os::unix::fs::symlink("/proc/self/ns/net", bundle.outside("net"))?;
            bundle.namespace("network", Some("net")).refused()
        }),
        must(NAMESPACES, "the same type twice is an error", |lab| {
            lab.bundle()?.push("/linux/namespaces", json!({"type": "uts"})).refused()
        }),
        must(NAMESPACES, "an unknown type is an error", |lab| {
            lab.bundle()?.push("/linux/namespaces", json!({"type": "nosuch"})).refused()
        }),
    ]
}

fn users() -> Vec<Test> {
    vec![
        must(MAPPINGS, "they are the namespace's maps", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.namespace("user", None).set(
                "/linux/gidMappings",
                json!([{"containerID": 0, "hostID": 100_000, "size": 10}, {"containerID": 10, "hostID": 200_000, "size": 65_000}]),
            );
            let report = bundle.report()?;
            is("uid_map", &report["uid_map"], json!(["0 100000 70000"]))?;
            is("gid_map", &report["gid_map"], json!(["0 100000 10", "10 200000 65000"]))
        }),
        must(MAPPINGS, "the process's user is one of the container's", |lab| {
            let mut bundle = lab.bundle()?;
            bundle
                .namespace("user", None)
                .set("/process/user", json!({"uid": 42, "gid": 43, "additionalGids": [44]}));
            let report = bundle.report()?;
            is("uid", &report["uid"][0], 42)?;
            is("gid", &report["gid"][0], 43)?;
            that(report["groups"].to_string().contains("44"), || format!("groups {}", report["groups"]))
        }),
        must(MAPPINGS, "on the host the process has the mapped ids", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.namespace("user", None).set("/process/user", json!({"uid": 42, "gid": 43})).running()?;
            let status = fs::read_to_string(format!("/proc/{}/status", bundle.pid()?))?;
            that(status.contains("Uid:\t100042\t") && status.contains("Gid:\t100043\t"), || {
                "it has others".into()
            })
        }),
        must(MAPPINGS, "default devices are there in a user namespace", |lab| {
            let mut bundle = lab.bundle()?;
            let report = bundle.namespace("user", None).report()?;
            for name in ["null", "zero", "full", "random", "urandom", "tty"] {
                is(name, &report["dev"][name]["kind"], "c")?;
            }
            Ok(())
        }),
        must(MAPPINGS, "a new user namespace without mappings is an error or has none", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.push("/linux/namespaces", json!({"type": "user"}));
            let said = bundle.run()?;
            that(!said.is_ok() || said.out.contains("\"uid_map\":[]"), || "it ran with some".into())
        }),
        super::super::should(MAPPINGS, "the owners of the root file system stay", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.namespace("user", None).report()?;
            use std::os::unix::fs::MetadataExt as _;
            same("owner of the probe", fs::metadata(bundle.rootfs().join("probe"))?.uid(), 0)
        }),
    ]
}

fn clocks() -> Vec<Test> {
    vec![
        must(TIME, "offsets are those of the namespace", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.namespace("time", None).set(
                "/linux/timeOffsets",
                json!({"monotonic": {"secs": 1000, "nanosecs": 5}, "boottime": {"secs": -1, "nanosecs": 7}}),
            );
            let report = bundle.report()?;
            let offsets = report["timens_offsets"].to_string();
            that(offsets.contains("monotonic 1000 5") && offsets.contains("boottime -1 7"), || offsets)
        })
        .since(1),
        must(TIME, "an unknown clock is an error", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.namespace("time", None).set("/linux/timeOffsets", json!({"realtime": {"secs": 1}}));
            bundle.refused()
        })
        .since(1),
        must(TIME, "offsets without a time namespace are an error", |lab| {
            lab.bundle()?.set("/linux/timeOffsets", json!({"monotonic": {"secs": 1}})).refused()
        })
        .since(1),
    ]
}

fn names() -> Vec<Test> {
    vec![
        must("config.md#hostname", "it is what the container sees", |lab| {
            is("it", &lab.bundle()?.set("/hostname", "mrs-dalloway").report()?["hostname"], "mrs-dalloway")
        }),
        must("config.md#domainname", "it is what the container sees", |lab| {
            is(
                "it",
                &lab.bundle()?.set("/domainname", "example.test").report()?["domainname"],
                "example.test",
            )
        })
        .since(1),
        must("config.md#hostname", "absent, it stays the runtime's", |lab| {
            let ours = rustix::system::uname().nodename().to_string_lossy().into_owned();
            same("it", lab.bundle()?.report()?["hostname"].as_str(), Some(ours.as_str()))
        }),
        must("config.md#hostname", "the host's name is left alone", |lab| {
            let before = rustix::system::uname().nodename().to_owned();
            lab.bundle()?.set("/hostname", "other").report()?;
            same("the host's", rustix::system::uname().nodename(), before.as_c_str())
        }),
    ]
}

fn views() -> Vec<Test> {
    vec![
        must(NAMESPACES, "pid: the process is the first of its namespace", |lab| {
            let report = lab.bundle()?.report()?;
            is("pid", &report["pid"], 1)?;
            is("processes seen", &report["processes"], 1)
        }),
        must(NAMESPACES, "network: only loopback is there", |lab| {
            is("interfaces", &lab.bundle()?.report()?["interfaces"], json!(["lo"]))
        }),
        must(NAMESPACES, "cgroup: the container's cgroup is the root", |lab| {
            let mut bundle = lab.bundle()?;
            let report = bundle.namespace("cgroup", None).report()?;
            let paths: Vec<Value> = report["cgroup"].as_array().cloned().unwrap_or_default();
            let all = paths.iter().all(|line| line.as_str().is_some_and(|line| line.ends_with(":/")));
            that(all && !paths.is_empty(), || format!("{paths:?}"))
        }),
        must(NAMESPACES, "ipc: the host's message queues are not seen", |lab| {
            let mut bundle = lab.bundle()?;
            same(
                "queues",
                bundle.attempt("run:/busybox wc -l /proc/sysvipc/msg")?,
                "ok: 0 1 /proc/sysvipc/msg",
            )
        }),
    ]
}
