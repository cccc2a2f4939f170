//! features.md and features-linux.md: a document that tells the truth.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::super::bundle::Bundle;
use super::super::verdict::{Verdict, is, not_applicable, same, that};
use super::super::{Lab, Test, must};

const FEATURES: &str = "features.md";
const LINUX: &str = "features-linux.md";

pub(crate) fn tests() -> Vec<Test> {
    [document(), listed(), linux()].into_iter().flatten().collect()
}

/// A runtime MAY have one.
fn features(bundle: &Bundle<'_>) -> Result<Value, Verdict> {
    let said = bundle.say(&["features"])?;
    if !said.is_ok() {
        return Err(Verdict::NotApplicable("it has no features document".into()));
    }
    Ok(serde_json::from_str(&said.out).context("the features document")?)
}

fn document() -> Vec<Test> {
    vec![
        must(FEATURES, "ociVersionMin and ociVersionMax are there and in order", |lab| {
            let features = features(&lab.bundle()?)?;
            let number = |key: &str| -> Option<Vec<u32>> {
                let text = features[key].as_str()?.split(['-', '+']).next()?;
                text.split('.').map(|part| part.parse().ok()).collect()
            };
            let (min, max) = (number("ociVersionMin"), number("ociVersionMax"));
            that(min.is_some() && min <= max, || format!("{min:?} to {max:?}"))
        }),
        must(FEATURES, "both versions are taken as ociVersion", |lab| {
            for key in ["ociVersionMin", "ociVersionMax"] {
                let mut bundle = lab.bundle()?;
                let version = features(&bundle)?[key].clone();
                bundle.set("/ociVersion", version).report()?;
            }
            Ok(())
        }),
        must(FEATURES, "it has no property that the specification lacks", |lab| {
            let features = features(&lab.bundle()?)?;
            let known = [
                "ociVersionMin",
                "ociVersionMax",
                "hooks",
                "mountOptions",
                "linux",
                "annotations",
                "potentiallyUnsafeConfigAnnotations",
            ];
            let strange: Vec<&String> = features
                .as_object()
                .into_iter()
                .flat_map(|all| all.keys())
                .filter(|key| !known.contains(&key.as_str()))
                .collect();
            same("strangers", strange, Vec::<&String>::new())
        }),
    ]
}

/// A list of the document; absent or null, there is nothing to hold it to.
fn list(features: &Value, pointer: &str) -> Result<Vec<String>, Verdict> {
    let Some(list) = features.pointer(pointer).and_then(Value::as_array) else {
        return Err(Verdict::NotApplicable(format!("the document has no {pointer}")));
    };
    Ok(list.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect())
}

fn listed() -> Vec<Test> {
    vec![
        must("features.md#hooks", "every listed hook is called", |lab| {
            let mut bundle = lab.bundle()?;
            let hooks = list(&features(&bundle)?, "/hooks")?;
            let file = bundle.outside("called");
            for kind in hooks.iter().filter(|kind| *kind != "startContainer") {
                let script = format!("echo {kind} >> {}", file.display());
                bundle.push(
                    &format!("/hooks/{kind}"),
                    json!({"path": "/bin/sh", "args": ["sh", "-c", script]}),
                );
            }
            bundle.report()?;
            let called = std::fs::read_to_string(&file).unwrap_or_default();
            let missing: Vec<&String> = hooks
                .iter()
                .filter(|kind| *kind != "startContainer" && !called.contains(kind.as_str()))
                .collect();
            same("not called", missing, Vec::<&String>::new())
        }),
        must("features.md#mount-options", "every listed option is recognised", |lab| {
            let mut bundle = lab.bundle()?;
            let options = list(&features(&bundle)?, "/mountOptions")?;
            let source = bundle.outside("source");
            std::fs::create_dir(&source)?;
            for (i, option) in options.iter().enumerate() {
                let target = format!("/mnt/{i}");
                match option.as_str() {
                    // A remount needs something to be mounted there already.
                    "remount" => bundle.mount(&target, "tmpfs", &[]).mount(&target, "tmpfs", &["remount"]),
                    "bind" | "rbind" => bundle.bind(&source, &target, &[option]),
                    "idmap" | "ridmap" => {
                        let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
                        bundle.push(
                            "/mounts",
                            json!({"destination": target, "source": source, "options": ["bind", option],
                            "uidMappings": map, "gidMappings": map}),
                        )
                    }
                    // Of some file systems alone, and long out of use.
                    "acl" | "noacl" | "mand" | "nomand" => &mut bundle,
                    // A mount in the way of the next would be gone from sight.
                    _ => bundle.mount(&target, "tmpfs", &[option]),
                };
            }
            Ok(bundle.report().map(drop)?)
        }),
        must("features-linux.md#namespaces", "every listed namespace can be new", |lab| {
            let mut bundle = lab.bundle()?;
            for kind in list(&features(&bundle)?, "/linux/namespaces")? {
                bundle.without_namespace(&kind);
                bundle.push("/linux/namespaces", json!({"type": kind}));
            }
            let map = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
            bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
            Ok(bundle.report().map(drop)?)
        }),
        must(
            "features-linux.md#capabilities",
            "every listed capability can be had, or is said to be unknown to the kernel",
            |lab| {
                let mut bundle = lab.bundle()?;
                let names = list(&features(&bundle)?, "/linux/capabilities")?;
                bundle.set(
                    "/process/capabilities",
                    json!({"bounding": names, "permitted": names, "effective": names}),
                );
                let report = bundle.report()?;
                let known = (1_u64 << names.len()) - 1;
                // Names of a newer kernel's cannot be had, nor what we lack ourselves.
                let wanted = known & lab.host.capabilities;
                is("bounding", &report["capabilities"]["bounding"], wanted)
            },
        ),
    ]
}

fn linux() -> Vec<Test> {
    let words = |name: &'static str, pointer: &'static str, profile: fn(&str) -> Value| {
        must(LINUX, name, move |lab: &Lab<'_>| {
            for word in list(&features(&lab.bundle()?)?, pointer)? {
                // It needs somebody to be notified.
                if word == "SCMP_ACT_NOTIFY" {
                    continue;
                }
                let mut bundle = lab.bundle()?;
                let said = bundle.set("/linux/seccomp", profile(&word)).run()?;
                that(said.is_ok(), || format!("{word}: {}", said.last_words()))?;
            }
            Ok(())
        })
    };
    vec![
        words(
            "every listed seccomp action is taken",
            "/linux/seccomp/actions",
            |action| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mknod"], "action": action}]}),
        ),
        words("every listed seccomp operator is taken", "/linux/seccomp/operators", |op| {
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mknod"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "valueTwo": 1, "op": op}]}]})
        }),
        words(
            "every listed seccomp architecture is taken",
            "/linux/seccomp/archs",
            |arch| json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", arch]}),
        ),
        words("every supported seccomp flag is taken", "/linux/seccomp/supportedFlags", |flag| {
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [flag],
                   "syscalls": [{"names": ["mknod"], "action": "SCMP_ACT_ERRNO"}]})
        }),
        must(LINUX, "cgroup.v1 and cgroup.v2 are true of the one that runs here", |lab| {
            let features = features(&lab.bundle()?)?;
            let version = if lab.host.unified { "v2" } else { "v1" };
            match features["linux"]["cgroup"][version].as_bool() {
                Some(is_so) => same(version, is_so, true),
                None => not_applicable("the document does not say"),
            }
        }),
    ]
}
