//! Commands that are killed at each of their system calls: whatever had been made by then, `delete --force` takes it
//! away. strace does the killing, by name and count of the call. All calls are taken, but of `exec` every fifth: where
//! the node's init reaps orphans only now and then, a container with a killed exec takes that long to end.
//! `BERTH_KILL_STEP=1` takes each of those as well, in four minutes there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bundle::{Bundle, is_root};

/// The call that a command is killed at.
type Moment = (String, u32);

pub(crate) fn can_run() -> bool {
    let there = Path::new("/usr/bin/strace").exists();
    if !there {
        println!("skipped: strace is not installed");
    }
    is_root() && there
}

pub(crate) fn bundle() -> Bundle {
    let mut bundle = Bundle::new("exec sleep 100");
    let mark = format!("BERTH_MARK={}", bundle.id);
    bundle.spec["process"]["env"] = json!(["PATH=/bin", mark]);
    bundle.write();
    bundle
}

/// `strace -f OPTIONS berth-runtime WORDS`, to its end.
fn strace(bundle: &Bundle, options: &[&str], words: &[&str]) {
    let own = bundle.command(words);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(bundle.path().join("trace")).args(options);
    command.arg(own.get_program()).args(own.get_args()).current_dir(bundle.path());
    let null = || Stdio::null();
    command.stdin(null()).stdout(null()).stderr(null());
    let mut child = command.spawn().unwrap();
    // A container's init that is traced would keep strace here: it goes when the command itself has gone, and what
    // it traced goes on untraced.
    let end = Instant::now() + Duration::from_secs(10);
    let mut traced = None;
    while child.try_wait().unwrap().is_none() && Instant::now() < end {
        traced = traced.or_else(|| first_traced(bundle));
        if traced.is_some_and(has_ended) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().unwrap();
}

/// The command: the first call of all is its execve.
fn first_traced(bundle: &Bundle) -> Option<u32> {
    let trace = fs::read_to_string(bundle.path().join("trace")).ok()?;
    trace.split_once(' ')?.0.parse().ok()
}

fn has_ended(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

/// Every call of the command's own process and its children, once each by name and count, every `step`-th of them.
fn moments(bundle: &Bundle, words: &[&str], step: usize) -> Vec<Moment> {
    strace(bundle, &[], words);
    let trace = fs::read_to_string(bundle.path().join("trace")).unwrap();
    let mut most: BTreeMap<String, u32> = BTreeMap::new();
    let mut counts: BTreeMap<(String, String), u32> = BTreeMap::new();
    for line in trace.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        let count = counts.entry((pid.to_owned(), name.to_owned())).or_default();
        *count += 1;
        let top = most.entry(name.to_owned()).or_default();
        *top = (*top).max(*count);
    }
    let step = std::env::var("BERTH_KILL_STEP").ok().and_then(|step| step.parse().ok()).unwrap_or(step);
    let all = most.into_iter().flat_map(|(name, top)| (1..=top).map(move |count| (name.clone(), count)));
    all.step_by(step).collect()
}

/// Processes, cgroups, mounts and records that bear the container's name.
fn left(bundle: &Bundle) -> Vec<String> {
    let mut left = bundle.leftovers();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let said = [read("cmdline"), read("environ")].concat();
        if String::from_utf8_lossy(&said).contains(&bundle.id) {
            left.push(format!("process {}", entry.file_name().to_string_lossy()));
        }
    }
    left
}

/// Kills `words` at each moment, after `before`, and looks what `delete --force` leaves.
fn killed_everywhere(words: &[&str], before: impl Fn(&Bundle), step: usize) {
    everywhere(bundle, words, before, |_, _| {}, step);
}

/// The same for bundles of any kind, of which `after` has more to say.
pub(crate) fn everywhere(
    bundle: impl Fn() -> Bundle,
    words: &[&str],
    before: impl Fn(&Bundle),
    after: impl Fn(&Bundle, &str),
    step: usize,
) {
    let first = bundle();
    before(&first);
    let named: Vec<&str> = words.iter().map(|word| if *word == "ID" { &first.id } else { *word }).collect();
    let moments = moments(&first, &named, step);
    drop(first);
    assert!(moments.len() > 20, "only {} calls were seen", moments.len());
    for (name, count) in moments {
        let bundle = bundle();
        before(&bundle);
        let named: Vec<&str> =
            words.iter().map(|word| if *word == "ID" { &bundle.id } else { *word }).collect();
        let inject = format!("inject={name}:signal=KILL:when={count}");
        strace(&bundle, &["-e", &inject], &named);
        let moment = format!("after {words:?} was killed at {name} {count}, {}", bundle.status());
        let said = bundle.say(&["delete", "--force", "ID"]);
        assert_eq!(said.code, 0, "{moment}: {}", said.err);
        let end = Instant::now() + Duration::from_secs(3);
        while !left(&bundle).is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(left(&bundle), Vec::<String>::new(), "{moment}");
        after(&bundle, &moment);
    }
}

#[test]
fn a_create_killed_at_each_of_its_calls_can_be_taken_away() {
    if can_run() {
        killed_everywhere(&["create", "ID"], |_| {}, 1);
    }
}

/// With what a plain one has not: maps to be written, hooks of every kind, mounts that show other ids.
fn full_bundle() -> Bundle {
    let mut bundle = bundle();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map.clone();
    let hook = json!([{"path": "/bin/true", "timeout": 10}]);
    for name in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        bundle.spec["hooks"][name] = hook.clone();
    }
    let source = bundle.path().join("volume");
    fs::create_dir(&source).unwrap();
    bundle.mount(json!({"destination": "/volume", "type": "bind", "source": source, "options": ["idmap"],
        "uidMappings": map, "gidMappings": map}));
    std::os::unix::fs::chown(bundle.rootfs(), Some(100_000), Some(100_000)).unwrap();
    bundle.write();
    bundle
}

#[test]
fn a_run_with_hooks_and_a_user_namespace_killed_at_its_calls_can_be_taken_away() {
    if can_run() {
        everywhere(full_bundle, &["run", "--detach", "ID"], |_| {}, |_, _| {}, 4);
    }
}

#[test]
fn a_run_killed_at_each_of_its_calls_can_be_taken_away() {
    if can_run() {
        killed_everywhere(&["run", "--detach", "ID"], |_| {}, 1);
    }
}

#[test]
fn a_start_killed_at_each_of_its_calls_can_be_taken_away() {
    if can_run() {
        killed_everywhere(&["start", "ID"], Bundle::create, 1);
    }
}

#[test]
fn an_exec_killed_at_each_of_its_calls_can_be_taken_away() {
    if can_run() {
        killed_everywhere(&["exec", "--detach", "ID", "sleep", "50"], Bundle::start, 5);
    }
}

#[test]
fn a_delete_killed_at_each_of_its_calls_can_be_done_again() {
    if can_run() {
        killed_everywhere(&["delete", "--force", "ID"], Bundle::start, 1);
    }
}
