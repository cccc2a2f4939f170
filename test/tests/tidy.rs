//! The house rules that a program can check: arrows between crates, files that
//! say what they own, `unsafe` behind its fence, and no names of nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_test::programs::workspace;

/// Which of our crates each may know, outside of tests. ARCHITECTURE.md draws it.
const ARROWS: &[(&str, &[&str])] = &[
    ("kernel", &[]),
    ("proto", &[]),
    ("conmon-protocol", &[]),
    ("runtime", &["kernel"]),
    ("image-service", &["kernel"]),
    ("network", &["kernel"]),
    ("conmon", &["conmon-protocol", "kernel", "runtime"]),
    ("cri-server", &["conmon-protocol", "image-service", "kernel", "network", "proto"]),
    ("test-programs", &["kernel"]),
    ("pull-floor", &[]),
    ("berth-test", &["conmon-protocol", "proto"]),
    ("xtask", &["berth-test"]),
];

/// Names that say nothing of what a file owns.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "misc", "mod"];

fn rust_files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(workspace())
        .output()
        .expect("git ls-files");
    let names = String::from_utf8(listed.stdout).expect("UTF-8 names");
    let files: Vec<PathBuf> =
        names.lines().map(|name| workspace().join(name)).filter(|file| file.exists()).collect();
    assert!(files.len() > 20, "git lists only {} files", files.len());
    files
}

fn shown(file: &Path) -> String {
    file.strip_prefix(workspace()).unwrap_or(file).display().to_string()
}

fn none(what: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{what}:\n{}", offenders.join("\n"));
}

#[test]
fn crates_know_only_whom_they_may() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(workspace())
        .output()
        .expect("cargo metadata");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON of cargo metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut offenders = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in the list of arrows"));
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        for dependency in dependencies.iter().filter(|dependency| dependency["kind"] != "dev") {
            let target = dependency["name"].as_str().expect("a name");
            if ours.contains(target) && !allowed.contains(&target) {
                offenders.push(format!("{name} -> {target}"));
            }
        }
    }
    none("arrows that ARCHITECTURE.md does not draw", &offenders);
}

#[test]
fn every_file_opens_by_saying_what_it_owns() {
    let silent = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).expect("a source file");
        !text.starts_with("//!") && !text.contains("@generated")
    };
    let generated =
        |file: &PathBuf| file.ends_with("proto/src/v1.rs") || shown(file).starts_with("proto/src/berth");
    let offenders: Vec<String> =
        rust_files().iter().filter(|file| silent(file) && !generated(file)).map(|file| shown(file)).collect();
    none("files that do not open with //!", &offenders);
}

#[test]
fn unsafe_and_libc_live_only_in_kernel() {
    let mut offenders = Vec::new();
    for file in rust_files() {
        let name = shown(&file);
        if name.starts_with("runtime/kernel/") || name == "test/tests/tidy.rs" {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a source file");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let has = |word: &str| code.contains(word);
            if has("unsafe {")
                || has("unsafe fn")
                || has("unsafe impl")
                || has("libc::")
                || has("allow(unsafe_code)")
            {
                offenders.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none("unsafe or libc outside runtime/kernel", &offenders);
}

#[test]
fn files_are_named_for_what_they_own() {
    let empty = |file: &PathBuf| {
        file.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| EMPTY_NAMES.contains(&stem))
    };
    let offenders: Vec<String> =
        rust_files().iter().filter(|file| empty(file)).map(|file| shown(file)).collect();
    none("file names that name nothing", &offenders);
}

#[test]
fn nothing_answers_success_without_doing_its_work() {
    let mut offenders = Vec::new();
    for file in rust_files() {
        let name = shown(&file);
        if name == "test/tests/tidy.rs" {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a source file");
        let stub = |line: &&str| line.contains("todo!(") || line.contains("unimplemented!(");
        offenders.extend(text.lines().filter(stub).map(|line| format!("{name}: {}", line.trim())));
    }
    none("stubs", &offenders);
}
