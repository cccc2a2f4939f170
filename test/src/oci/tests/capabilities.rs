//! config.md, "Linux Process": capabilities.

use serde_json::{Value, json};

use super::super::verdict::{is, that};
use super::super::{Test, must};

const LINUX: &str = "config.md#linux-process";

/// linux/capability.h.
const NUMBERS: &[(&str, u32)] = &[
    ("CAP_CHOWN", 0),
    ("CAP_KILL", 5),
    ("CAP_SETPCAP", 8),
    ("CAP_NET_BIND_SERVICE", 10),
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_AUDIT_READ", 37),
    ("CAP_CHECKPOINT_RESTORE", 40),
];

fn mask(names: &[&str]) -> u64 {
    NUMBERS.iter().filter(|(name, _)| names.contains(name)).fold(0, |mask, (_, number)| mask | 1 << number)
}

pub(crate) fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = ["bounding", "permitted", "effective", "inheritable", "ambient"]
        .into_iter()
        .map(|set| must(LINUX, format!("capabilities: {set} is exactly what was asked"), move |lab| {
            let mut bundle = lab.bundle()?;
            // Each set is a subset of those that the kernel wants it to be in.
            let (all, some, few) = (
                ["CAP_CHOWN", "CAP_KILL", "CAP_SETPCAP", "CAP_NET_RAW"],
                ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
                ["CAP_KILL"],
            );
            bundle.set("/process/capabilities", json!({
                "bounding": all, "permitted": some, "inheritable": some, "effective": ["CAP_CHOWN", "CAP_KILL"],
                "ambient": few
            }));
            bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
            let report = bundle.report()?;
            // After an exec as somebody else than root, permitted and effective are the ambient ones: capabilities(7).
            let wanted = match set {
                "bounding" => mask(&all),
                "inheritable" => mask(&some),
                _ => mask(&few),
            };
            is(set, &report["capabilities"][set], json!(wanted))
        }))
        .collect();
    tests.extend([
        must(LINUX, "capabilities: root has what is bounding or inheritable, and no more", |lab| {
            let mut bundle = lab.bundle()?;
            let names = ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"];
            bundle.set(
                "/process/capabilities",
                json!({"bounding": names, "permitted": names, "effective": names}),
            );
            let report = bundle.report()?;
            for set in ["bounding", "permitted", "effective"] {
                is(set, &report["capabilities"][set], json!(mask(&names)))?;
            }
            is("inheritable", &report["capabilities"]["inheritable"], 0)?;
            is("ambient", &report["capabilities"]["ambient"], 0)
        }),
        must(LINUX, "capabilities: empty sets are empty", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/process/capabilities", json!({}));
            let report = bundle.report()?;
            for set in ["bounding", "permitted", "effective", "inheritable", "ambient"] {
                is(set, &report["capabilities"][set], 0)?;
            }
            Ok(())
        }),
        must(LINUX, "capabilities: the newest ones are known", |lab| {
            let mut bundle = lab.bundle()?;
            let names = ["CAP_AUDIT_READ", "CAP_CHECKPOINT_RESTORE"];
            bundle.set(
                "/process/capabilities",
                json!({"bounding": names, "permitted": names, "effective": names}),
            );
            is("effective", &bundle.report()?["capabilities"]["effective"], json!(mask(&names)))
        }),
        must(LINUX, "capabilities: an unknown one is a warning and no error", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/process/capabilities", json!({"bounding": ["CAP_KILL", "CAP_NOSUCH"]}));
            let said = bundle.run()?;
            that(said.is_ok(), || said.last_words())?;
            that(said.err.contains("CAP_NOSUCH"), || "nothing was said of it".into())?;
            let report: Value = serde_json::from_str(said.out.trim()).unwrap_or_default();
            is("bounding", &report["capabilities"]["bounding"], json!(mask(&["CAP_KILL"])))
        })
        .since(1),
    ]);
    tests
}
