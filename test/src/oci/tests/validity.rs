//! config.md: version, extensibility, valid values, annotations.

use serde_json::{Value, json};

use super::super::verdict::{is, same};
use super::super::{Test, must, should};

const VERSION: &str = "config.md#specification-version";
const EXTENSIBILITY: &str = "config.md#extensibility";
const VALUES: &str = "config.md#valid-values";
const ANNOTATIONS: &str = "config.md#annotations";

pub(crate) fn tests() -> Vec<Test> {
    [versions(), unknown(), wrong_types(), annotations()].into_iter().flatten().collect()
}

fn versions() -> Vec<Test> {
    let taken = |version: &'static str, since: u32| {
        must(VERSION, format!("{version} is taken"), move |lab| {
            Ok(lab.bundle()?.set("/ociVersion", version).report().map(drop)?)
        })
        .since(since)
    };
    let refused = |name: &'static str, version: Value| {
        must(VERSION, name, move |lab| lab.bundle()?.set("/ociVersion", version.clone()).refused())
    };
    vec![
        taken("1.0.0", 0),
        taken("1.0.2", 0),
        taken("1.1.0", 1),
        taken("1.2.1", 2),
        taken("1.3.0", 3),
        refused("one that is no SemVer is an error", json!("one")),
        refused("an empty one is an error", json!("")),
        refused("one of another major version is an error", json!("2.0.0")),
        must(VERSION, "absent, it is an error", |lab| lab.bundle()?.unset("/ociVersion").refused()),
    ]
}

fn unknown() -> Vec<Test> {
    let ignored = |place: &'static str| {
        must(EXTENSIBILITY, format!("an unknown property in {place} is ignored"), move |lab| {
            let mut bundle = lab.bundle()?;
            let pointer = format!("{}/berthUnknown", if place == "the document" { "" } else { place });
            Ok(bundle.set(&pointer, json!({"any": ["thing"]})).report().map(drop)?)
        })
    };
    let mut tests: Vec<Test> =
        ["the document", "/process", "/process/user", "/root", "/linux", "/linux/resources", "/mounts/0"]
            .into_iter()
            .map(ignored)
            .collect();
    tests.push(must(
        "config.md#platform-specific-configuration",
        "other platforms' objects are ignored",
        |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/zos", json!({})).set("/vm", json!({"kernel": {"path": "/k"}}));
            Ok(bundle.report().map(drop)?)
        },
    ));
    tests
}

/// Each is a value that its field cannot have.
fn wrong_types() -> Vec<Test> {
    let wrong: [(&str, Value); 12] = [
        ("/process", json!("sh")),
        ("/process/args", json!("sh")),
        ("/process/args", json!([1])),
        ("/process/env", json!({"A": "b"})),
        ("/process/cwd", json!(1)),
        ("/process/terminal", json!("yes")),
        ("/process/user/uid", json!("0")),
        ("/root/readonly", json!("no")),
        ("/mounts", json!({})),
        ("/linux/namespaces", json!({"type": "pid"})),
        ("/linux/resources/memory", json!({"limit": "1G"})),
        ("/linux/maskedPaths", json!("/proc/kcore")),
    ];
    let mut tests: Vec<Test> = wrong
        .into_iter()
        .map(|(pointer, value)| {
            must(VALUES, format!("{pointer} = {value} is an error"), move |lab| {
                lab.bundle()?.set(pointer, value.clone()).refused()
            })
        })
        .collect();
    tests.push(must(VALUES, "a NUL in an argument is an error", |lab| {
        lab.bundle()?.args(&["/probe", "a\0b"]).refused()
    }));
    tests.push(must(VALUES, "a NUL in the environment is an error", |lab| {
        lab.bundle()?.set("/process/env", json!(["A=a\0b"])).refused()
    }));
    tests
}

fn annotations() -> Vec<Test> {
    vec![
        must(ANNOTATIONS, "a value that is no string is an error", |lab| {
            lab.bundle()?.set("/annotations", json!({"com.example.a": 1})).refused()
        }),
        must(ANNOTATIONS, "an empty key is an error", |lab| {
            lab.bundle()?.set("/annotations", json!({"": "x"})).refused()
        }),
        must(ANNOTATIONS, "unknown keys are kept and have no effect", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/annotations", json!({"org.example.anything": "at all"})).create()?;
            is("it", &bundle.state()?["annotations"]["org.example.anything"], "at all")
        }),
        should(ANNOTATIONS, "none is an empty map or nothing", |lab| {
            let bundle = lab.bundle()?;
            bundle.create()?;
            let state = bundle.state()?;
            let found = state["annotations"].as_object().map_or(0, serde_json::Map::len);
            same("annotations", found, 0)
        }),
    ]
}
