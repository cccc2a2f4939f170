//! config-linux.md: devices, default devices, the allowed device list; runtime-linux.md: links in /dev.

use std::fs;

use serde_json::{Value, json};

use super::super::bundle::tried;
use super::super::verdict::{is, not_applicable, same, that};
use super::super::{Test, must};

const DEVICES: &str = "config-linux.md#devices";
const DEFAULT: &str = "config-linux.md#default-devices";
const ALLOWED: &str = "config-linux.md#allowed-device-list";

pub(crate) fn tests() -> Vec<Test> {
    [defaults(), links(), asked(), allowed()].into_iter().flatten().collect()
}

fn defaults() -> Vec<Test> {
    const ALL: [(&str, u64, u64); 6] =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let mut tests: Vec<Test> = ALL
        .into_iter()
        .map(|(name, major, minor)| {
            must(DEFAULT, format!("/dev/{name} is there, for everybody"), move |lab| {
                let report = lab.bundle()?.report()?;
                let node = &report["dev"][name];
                is("kind", &node["kind"], "c")?;
                is("major", &node["major"], major)?;
                is("minor", &node["minor"], minor)?;
                is("mode", &node["mode"], 0o666)
            })
        })
        .collect();
    tests.push(must(DEFAULT, "they can be used in spite of a device list that denies all", |lab| {
        let mut bundle = lab.bundle()?;
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        let tries = [
            "write:/dev/null:x",
            "read:/dev/zero",
            "write:/dev/full:x",
            "read:/dev/urandom",
            "read:/dev/random",
        ];
        let report = bundle.tries(&tries).report()?;
        same("null", tried(&report, tries[0]), "ok")?;
        same("full", tried(&report, tries[2]), "ENOSPC")?;
        for what in [tries[1], tries[3], tries[4]] {
            that(tried(&report, what).starts_with("ok"), || format!("{what}: {}", tried(&report, what)))?;
        }
        Ok(())
    }));
    tests.push(must(DEFAULT, "/dev/ptmx is that of the container's devpts", |lab| {
        let report = lab.bundle()?.report()?;
        let node = &report["dev"]["ptmx"];
        that(node["link"] == "pts/ptmx" || node["link"] == "/dev/pts/ptmx" || node["kind"] == "c", || {
            node.to_string()
        })
    }));
    tests
}

fn links() -> Vec<Test> {
    let all = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    all.into_iter()
        .map(|(name, target)| {
            must("runtime-linux.md#dev-symbolic-links", format!("/dev/{name}"), move |lab| {
                is("it leads to", &lab.bundle()?.report()?["dev"][name]["link"], target)
            })
        })
        .collect()
}

/// One with a mode and owners.
fn device(path: &str, kind: &str, major: i64, minor: i64) -> Value {
    json!({"path": path, "type": kind, "major": major, "minor": minor, "fileMode": 0o640, "uid": 11, "gid": 12})
}

fn asked() -> Vec<Test> {
    let kinds = [("c", "c", 10, 229), ("u", "c", 10, 200), ("b", "b", 7, 250)];
    let mut tests: Vec<Test> = kinds
        .into_iter()
        .map(|(kind, shown, major, minor)| {
            must(DEVICES, format!("type {kind}: made with its numbers, mode and owners"), move |lab| {
                let mut bundle = lab.bundle()?;
                let report = bundle.push("/linux/devices", device("/dev/it", kind, major, minor)).report()?;
                let node = &report["dev"]["it"];
                let wanted = json!({"kind": shown, "major": major, "minor": minor, "mode": 0o640, "uid": 11, "gid": 12, "link": null});
                same("it", node, &wanted)
            })
        })
        .collect();
    tests.extend([
        must(DEVICES, "type p: a FIFO, without numbers", |lab| {
            let mut bundle = lab.bundle()?;
            let report = bundle
                .push("/linux/devices", json!({"path": "/dev/pipe", "type": "p", "fileMode": 0o600}))
                .report()?;
            is("kind", &report["dev"]["pipe"]["kind"], "p")?;
            is("mode", &report["dev"]["pipe"]["mode"], 0o600)
        }),
        must(DEVICES, "a path outside of /dev", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.push(
                "/linux/devices",
                json!({"path": "/etc/some/null", "type": "c", "major": 1, "minor": 3}),
            );
            let stat = bundle.attempt("stat:/etc/some/null")?;
            that(stat.contains("\"kind\":\"c\""), || stat)
        }),
        must(DEVICES, "an existing file that is another one is an error", |lab| {
            let mut bundle = lab.bundle()?;
            fs::write(bundle.rootfs().join("etc/file"), "")?;
            bundle
                .push("/linux/devices", json!({"path": "/etc/file", "type": "c", "major": 10, "minor": 229}));
            bundle.refused()
        }),
        must(DEVICES, "an existing node that is the same one is no error", |lab| {
            let mut bundle = lab.bundle()?;
            let kind = rustix::fs::FileType::CharacterDevice;
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            let path = bundle.rootfs().join("etc/null");
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, rustix::fs::makedev(1, 3))
                .map_err(std::io::Error::from)?;
            bundle.push("/linux/devices", json!({"path": "/etc/null", "type": "c", "major": 1, "minor": 3}));
            Ok(bundle.report().map(drop)?)
        }),
        must(DEVICES, "an unknown type is an error", |lab| {
            lab.bundle()?
                .push("/linux/devices", json!({"path": "/dev/x", "type": "x", "major": 1, "minor": 3}))
                .refused()
        }),
        must(DEVICES, "a default device may be configured otherwise", |lab| {
            let mut bundle = lab.bundle()?;
            let report = bundle.push("/linux/devices", device("/dev/null", "c", 1, 3)).report()?;
            is("mode", &report["dev"]["null"]["mode"], 0o640)?;
            is("uid", &report["dev"]["null"]["uid"], 11)
        }),
    ]);
    tests
}

/// fuse, which no runtime allows by itself. Making nodes is left out: all runtimes let containers make any, and only
/// opening one is asked for.
const DEVICE: (u32, u32) = (10, 229);

fn allowed() -> Vec<Test> {
    let (major, minor) = DEVICE;
    let none = json!({"allow": false, "access": "rwm"});
    let one = move |access: &str| json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": access});
    let no_read = json!({"allow": false, "type": "c", "major": major, "minor": minor, "access": "r"});
    let any_minor = json!({"allow": true, "type": "c", "major": major, "access": "r"});
    vec![
        rules("what is denied cannot be opened", json!([none]), false, false),
        rules("r allows reading alone", json!([none, one("r")]), true, false),
        rules("w allows writing alone", json!([none, one("w")]), false, true),
        rules("rw allows both", json!([none, one("rw")]), true, true),
        rules("m allows neither", json!([none, one("m")]), false, false),
        rules("absent minor means all", json!([none, any_minor]), true, false),
        rules(
            "absent numbers and type mean all",
            json!([none, {"allow": true, "access": "rwm"}]),
            true,
            true,
        ),
        rules("later rules win", json!([none, one("rw"), no_read]), false, true),
        must(ALLOWED, "an unknown type is an error", |lab| {
            lab.bundle()?
                .push("/linux/resources/devices", json!({"allow": true, "type": "x", "access": "r"}))
                .refused()
        }),
        must(ALLOWED, "an unknown access is an error", |lab| {
            lab.bundle()?
                .push("/linux/resources/devices", json!({"allow": true, "type": "c", "access": "rx"}))
                .refused()
        }),
    ]
}

fn rules(name: &'static str, rules: Value, reads: bool, writes: bool) -> Test {
    must(ALLOWED, name, move |lab| {
        let (major, minor) = DEVICE;
        if !fs::read_to_string("/proc/misc")?.contains(&format!("{minor} fuse")) {
            return not_applicable("this kernel has no fuse to try with");
        }
        let mut bundle = lab.bundle()?;
        bundle.set("/linux/resources/devices", rules.clone());
        bundle
            .push("/linux/devices", json!({"path": "/dev/it", "type": "c", "major": major, "minor": minor}));
        let report = bundle.tries(&["open-read:/dev/it", "open-write:/dev/it"]).report()?;
        let word = |is_allowed| if is_allowed { "ok" } else { "EPERM" };
        same("reading", tried(&report, "open-read:/dev/it"), word(reads))?;
        same("writing", tried(&report, "open-write:/dev/it"), word(writes))
    })
}
