//! `features` claims nothing that a container cannot have, and leaves out nothing that it can.

use std::fs;

use serde_json::{Value, json};

use crate::bundle::{Bundle, is_root};

fn features() -> Value {
    let bundle = Bundle::new("true");
    serde_json::from_str(bundle.say(&["features"]).ok()).unwrap()
}

fn words(list: &Value) -> Vec<String> {
    let words: Vec<String> =
        list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    assert!(!words.is_empty());
    words
}

/// A container with this change: its error, empty where there is none.
fn error(change: impl FnOnce(&mut Value)) -> String {
    let mut bundle = Bundle::new("true");
    change(&mut bundle.spec);
    let said = bundle.run();
    if said.code == 0 { String::new() } else { said.err }
}

#[test]
fn every_mount_option_works_on_a_mount_that_it_is_for() {
    if !is_root() {
        return;
    }
    let source = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(source.path().join("file"), "").unwrap();
    let map = json!([{"containerID": 0, "hostID": 0, "size": 10}]);
    for word in words(&features()["mountOptions"]) {
        let said = error(|spec| {
            let tmpfs = json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": [word]});
            let mounts = spec["mounts"].as_array_mut().unwrap();
            match word.as_str() {
                "bind" | "rbind" => {
                    mounts.push(json!({"destination": "/t", "source": source.path(), "options": [word]}))
                }
                "idmap" | "ridmap" => mounts
                    .push(json!({"destination": "/t", "source": source.path(), "options": ["bind", word],
                    "uidMappings": map, "gidMappings": map})),
                "remount" => mounts.extend([
                    json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs"}),
                    json!({"destination": "/t", "options": [word, "ro"]}),
                ]),
                _ => mounts.push(tmpfs),
            }
        });
        assert_eq!(said, "", "{word}");
    }
    let said = error(|spec| {
        spec["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/t", "type": "tmpfs", "options": ["nosuchoption"]}));
    });
    assert!(said.contains("mounting /t (mounts[4])"), "{said}");
}

#[test]
fn every_name_is_taken_where_the_configuration_has_it() {
    if !is_root() {
        return;
    }
    let features = features();
    let linux = &features["linux"];
    for hook in words(&features["hooks"]) {
        let said = error(|spec| spec["hooks"] = json!({hook.as_str(): [{"path": "relative"}]}));
        assert!(said.contains(&format!("hooks.{hook}[0].path")), "{said}");
    }
    for kind in words(&linux["namespaces"]) {
        let said = error(|spec| spec["linux"]["namespaces"] = json!([{"type": kind, "path": "relative"}]));
        assert!(said.contains("linux.namespaces[0].path"), "{kind}: {said}");
    }
    for mode in words(&linux["memoryPolicy"]["modes"]) {
        let said = error(|spec| spec["linux"]["memoryPolicy"] = json!({"mode": mode, "nodes": ""}));
        assert!(said.is_empty() || said.contains("setting the memory policy"), "{mode}: {said}");
    }
    for flag in words(&linux["memoryPolicy"]["flags"]) {
        let said = error(|spec| {
            spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]})
        });
        assert!(said.is_empty() || said.contains("setting the memory policy"), "{flag}: {said}");
    }
    assert!(
        error(|spec| spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_NOSUCH"})).contains("is none of")
    );
}

#[test]
fn every_capability_is_known() {
    if !is_root() {
        return;
    }
    let names = words(&features()["linux"]["capabilities"]);
    let mut bundle = Bundle::new("grep CapBnd /proc/self/status");
    bundle.spec["process"]["capabilities"] = json!({"bounding": names, "effective": [], "permitted": []});
    let said = bundle.run();
    let inside = u64::from_str_radix(said.ok().split_whitespace().last().unwrap(), 16).unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ours = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap();
    assert_eq!(inside, u64::from_str_radix(ours, 16).unwrap(), "all that we have to give, by name");
}

#[test]
fn every_word_of_seccomp_is_taken_and_supported_flags_load() {
    if !is_root() {
        return;
    }
    let features = features();
    let claims = &features["linux"]["seccomp"];
    let profile = |change: &dyn Fn(&mut Value)| {
        error(|spec| {
            let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}]});
            change(&mut profile);
            spec["linux"]["seccomp"] = profile;
        })
    };
    for action in words(&claims["actions"]) {
        let said = profile(&|p| p["syscalls"][0]["action"] = json!(action));
        let asks = action == "SCMP_ACT_NOTIFY";
        assert_eq!(said.is_empty(), !asks, "{action}: {said}");
        assert!(!asks || said.contains("listenerPath is empty"), "{said}");
    }
    for op in words(&claims["operators"]) {
        let said = profile(&|p| {
            p["syscalls"][0]["args"] = json!([{"index": 0, "value": 1, "valueTwo": 1, "op": op}])
        });
        assert_eq!(said, "", "{op}");
    }
    for arch in words(&claims["archs"]) {
        assert_eq!(profile(&|p| p["architectures"] = json!([arch])), "", "{arch}");
    }
    let known = words(&claims["knownFlags"]);
    for flag in words(&claims["supportedFlags"]) {
        assert!(known.contains(&flag));
        assert_eq!(profile(&|p| p["flags"] = json!([flag])), "", "{flag}");
    }
    for (field, word) in [
        ("architectures", "SCMP_ARCH_NOSUCH"),
        ("flags", "SECCOMP_FILTER_FLAG_NOSUCH"),
        ("flags", "SECCOMP_FILTER_FLAG_NEW_LISTENER"),
    ] {
        assert!(profile(&|p| p[field] = json!([word])).contains(word), "{word}");
    }
}

/// What is enabled is refused, if at all, for what the node lacks.
#[test]
fn what_is_enabled_is_refused_only_for_what_the_node_lacks() {
    if !is_root() {
        return;
    }
    let features = features();
    let linux = &features["linux"];
    for claim in ["apparmor", "selinux", "intelRdt", "netDevices", "seccomp"] {
        assert_eq!(linux[claim]["enabled"], true, "{claim}");
    }
    assert_eq!(linux["mountExtensions"]["idmap"]["enabled"], true);
    for (change, lack) in [
        (
            json!({"intelRdt": {"schemata": ["L3:0=f"], "enableMonitoring": true}}),
            "no resctrl file system is mounted",
        ),
        (json!({"mountLabel": "a:b:c:d"}), "SELinux is not on"),
        (json!({"netDevices": {"zz-nosuch": {"name": "x"}}}), "No such device"),
    ] {
        let said =
            error(|spec| spec["linux"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone()));
        assert!(said.is_empty() || said.contains(lack), "{said}");
    }
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert_eq!(features["ociVersionMax"], "1.3.0");
    for version in [&features["ociVersionMin"], &features["ociVersionMax"]] {
        assert_eq!(error(|spec| spec["ociVersion"] = version.clone()), "");
    }
    assert_eq!(features["potentiallyUnsafeConfigAnnotations"], json!(["org.systemd.property."]));
}
