//! runtime.md: state, lifecycle and the five operations.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::super::bundle::Bundle;
use super::super::verdict::{Outcome, fails, is, same, that};
use super::super::{Lab, Test, must};

pub(crate) fn tests() -> Vec<Test> {
    [state(), create(), start(), kill(), delete(), unknown_containers()].into_iter().flatten().collect()
}

const STATE: &str = "runtime.md#state";
const CREATE: &str = "runtime.md#create";
const START: &str = "runtime.md#start";
const KILL: &str = "runtime.md#kill";
const DELETE: &str = "runtime.md#delete";

fn state() -> Vec<Test> {
    vec![
        must(STATE, "a created container has version, id, status, pid and bundle", |lab| {
            let bundle = lab.bundle()?;
            bundle.create()?;
            let state = bundle.state()?;
            is("status", &state["status"], "created")?;
            same("id", state["id"].as_str(), Some(bundle.id.as_str()))?;
            same("bundle", state["bundle"].as_str(), bundle.path().to_str())?;
            that(is_semver(&state["ociVersion"]), || format!("ociVersion is {}", state["ociVersion"]))?;
            that(is_a_process(&state["pid"]), || format!("pid is {}", state["pid"]))
        }),
        must(STATE, "a running container says so, with its pid", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            let state = bundle.state()?;
            is("status", &state["status"], "running")?;
            that(is_a_process(&state["pid"]), || format!("pid is {}", state["pid"]))
        }),
        must(STATE, "a container whose process has ended is stopped", |lab| {
            let bundle = lab.bundle()?;
            bundle.create()?;
            bundle.start()?;
            Ok(bundle.until_stopped()?)
        }),
        must(STATE, "annotations are part of it", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.set("/annotations", json!({"com.example.key": "value", "com.example.empty": ""}));
            bundle.create()?;
            let state = bundle.state()?;
            is("a value", &state["annotations"]["com.example.key"], "value")?;
            is("an empty value", &state["annotations"]["com.example.empty"], "")
        }),
        must(STATE, "the bundle's path is absolute", |lab| {
            let bundle = lab.bundle()?;
            bundle.write()?;
            let said = bundle.say(&["create", "--bundle", ".", "ID"])?;
            that(said.is_ok(), || said.last_words())?;
            let path = bundle.state()?["bundle"].as_str().unwrap_or_default().to_owned();
            that(Path::new(&path).is_absolute(), || format!("{path:?} is not"))
        }),
        must(STATE, "the pid is that of the container's process", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            let command = fs::read(format!("/proc/{}/cmdline", bundle.pid()?))?;
            same("its command line", String::from_utf8_lossy(&command), "/probe\0wait\0")
        }),
    ]
}

fn is_semver(version: &Value) -> bool {
    let version = version.as_str().unwrap_or_default();
    let core = version.split(['-', '+']).next().unwrap_or_default();
    core.split('.').filter(|part| part.parse::<u32>().is_ok()).count() == 3
}

fn is_a_process(pid: &Value) -> bool {
    pid.as_i64().is_some_and(|pid| pid > 1 && Path::new(&format!("/proc/{pid}")).exists())
}

fn create() -> Vec<Test> {
    vec![
        must(CREATE, "without an id is an error", |lab| {
            let bundle = lab.bundle()?;
            bundle.write()?;
            refused(&bundle, &["create"])
        }),
        must(CREATE, "of a bundle that is not there is an error", |lab| {
            let bundle = lab.bundle()?;
            refused(&bundle, &["create", "--bundle", "/nosuch", "ID"])
        }),
        must("bundle.md", "a bundle without config.json is an error", |lab| {
            let bundle = lab.bundle()?;
            refused(&bundle, &["create", "ID"])
        }),
        must("bundle.md", "a config.json that is no JSON is an error", |lab| {
            let bundle = lab.bundle()?;
            fs::write(bundle.path().join("config.json"), "{\"ociVersion\": ")?;
            refused(&bundle, &["create", "ID"])
        }),
        must(CREATE, "with an id in use is an error, and changes nothing", |lab| {
            let bundle = lab.bundle()?;
            bundle.create()?;
            let before = bundle.state()?;
            that(!bundle.try_create()?.is_ok(), || "it was created twice".into())?;
            same("the state", bundle.state()?, before)
        }),
        must(CREATE, "with an id in use by a stopped container is an error", |lab| {
            let bundle = lab.bundle()?;
            bundle.create()?;
            bundle.stop()?;
            that(!bundle.try_create()?.is_ok(), || "it was created twice".into())?;
            same("the status", bundle.status()?, "stopped")
        }),
        must(CREATE, "with an id that is a path is an error", |lab| {
            let bundle = lab.bundle()?;
            bundle.write()?;
            for id in ["../x", "a/b", "", ".", ".."] {
                let said = bundle.say(&["create", id])?;
                that(!said.is_ok(), || format!("{id:?} was taken"))?;
            }
            Ok(())
        }),
        must(CREATE, "does not run the program", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.args(&["/probe", "note", "/out/notes", "program"]);
            bundle.create()?;
            std::thread::sleep(std::time::Duration::from_millis(50));
            same("notes", bundle.notes()?.len(), 0)
        }),
        must("runtime.md#lifecycle", "later changes of config.json do not matter", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.args(&["/probe", "note", "/out/notes", "first", "quiet"]);
            bundle.create()?;
            bundle.args(&["/probe", "note", "/out/notes", "second", "quiet"]).write()?;
            bundle.start()?;
            bundle.until_stopped()?;
            is("the program", &bundle.notes()?[0]["name"], "first")
        }),
        must("runtime.md#errors", "a create that fails leaves nothing", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.bind(Path::new("/nosuch"), "/mnt", &[]);
            bundle.refused()?;
            let mounts = fs::read_to_string("/proc/self/mountinfo")?;
            let here = bundle.path().display().to_string();
            that(!mounts.contains(&here), || "a mount stays".into())?;
            if let Some(mounts) = bundle.config["mounts"].as_array_mut() {
                mounts.pop();
            }
            Ok(bundle.create()?)
        }),
    ]
}

fn start() -> Vec<Test> {
    vec![
        must(START, "without an id is an error", |lab| refused(&lab.bundle()?, &["start"])),
        must(START, "runs the program of the configuration", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.args(&["/probe", "note", "/out/notes", "program", "quiet"]);
            bundle.create()?;
            bundle.start()?;
            bundle.until_stopped()?;
            same("notes", bundle.notes()?.len(), 1)
        }),
        must(START, "leaves the status running", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.args(&["/probe", "wait"]);
            bundle.create()?;
            bundle.start()?;
            same("the status", bundle.status()?, "running")
        }),
        must(START, "of a running container is an error, and changes nothing", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            let before = bundle.state()?;
            refused(&bundle, &["start", "ID"])?;
            same("the state", bundle.state()?, before)
        }),
        must(START, "of a stopped container is an error", |lab| {
            let bundle = lab.bundle()?;
            bundle.create()?;
            bundle.start()?;
            bundle.until_stopped()?;
            refused(&bundle, &["start", "ID"])?;
            same("the status", bundle.status()?, "stopped")
        }),
        must(START, "without a process in the configuration is an error by then", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.unset("/process");
            if !bundle.try_create()?.is_ok() {
                return Ok(());
            }
            refused(&bundle, &["start", "ID"])
        }),
    ]
}

fn kill() -> Vec<Test> {
    let signals = [("TERM", "SIGTERM"), ("SIGUSR1", "SIGUSR1"), ("12", "SIGUSR2"), ("HUP", "SIGHUP")];
    let mut tests: Vec<Test> = signals
        .into_iter()
        .map(|(word, signal)| {
            must(KILL, format!("{word} reaches the process"), move |lab| {
                let mut bundle = lab.bundle()?;
                bundle.running()?;
                let said = bundle.say(&["kill", "ID", word])?;
                that(said.is_ok(), || said.last_words())?;
                Ok(bundle.until("the signal is there", || Ok(bundle.output()?.contains(signal)))?)
            })
        })
        .collect();
    tests.extend([
        must(KILL, "without an id is an error", |lab| refused(&lab.bundle()?, &["kill"])),
        must(KILL, "of a created container works, and stops it", |lab| {
            let bundle = lab.bundle()?;
            bundle.create()?;
            Ok(bundle.stop()?)
        }),
        must(KILL, "of a running container with KILL stops it", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            Ok(bundle.stop()?)
        }),
        must(KILL, "of a stopped container is an error", |lab| {
            let bundle = lab.bundle()?;
            bundle.create()?;
            bundle.stop()?;
            refused(&bundle, &["kill", "ID", "TERM"])?;
            same("the status", bundle.status()?, "stopped")
        }),
        must(KILL, "with a signal that does not exist is an error, and changes nothing", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            refused(&bundle, &["kill", "ID", "SIGNOSUCH"])?;
            refused(&bundle, &["kill", "ID", "999"])?;
            same("the status", bundle.status()?, "running")
        }),
    ]);
    tests
}

fn delete() -> Vec<Test> {
    vec![
        must(DELETE, "without an id is an error", |lab| refused(&lab.bundle()?, &["delete"])),
        must(DELETE, "of a created container is an error, and changes nothing", |lab| {
            let bundle = lab.bundle()?;
            bundle.create()?;
            refused(&bundle, &["delete", "ID"])?;
            same("the status", bundle.status()?, "created")
        }),
        must(DELETE, "of a running container is an error, and changes nothing", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            refused(&bundle, &["delete", "ID"])?;
            same("the status", bundle.status()?, "running")
        }),
        must(DELETE, "of a stopped container takes its record and its cgroup away", |lab| {
            let bundle = deleted(lab)?;
            refused(&bundle, &["state", "ID"])?;
            same("cgroups", bundle.cgroups(), Vec::<std::path::PathBuf>::new())
        }),
        must(DELETE, "twice is an error", |lab| refused(&deleted(lab)?, &["delete", "ID"])),
        must(DELETE, "sets the id free", |lab| Ok(deleted(lab)?.create()?)),
        must(DELETE, "leaves what the container did not make", |lab| {
            let mut bundle = lab.bundle()?;
            let source = bundle.outside("volume");
            fs::create_dir(&source)?;
            fs::write(source.join("file"), "kept")?;
            bundle.bind(&source, "/mnt", &[]);
            bundle.create()?;
            bundle.stop()?;
            let said = bundle.say(&["delete", "ID"])?;
            that(said.is_ok(), || said.last_words())?;
            same("the file", fs::read_to_string(source.join("file"))?, "kept")?;
            that(bundle.rootfs().join("probe").exists(), || "the root is gone".into())
        }),
        must(DELETE, "leaves no process of the container", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.running()?;
            let pid = bundle.pid()?;
            bundle.stop()?;
            let said = bundle.say(&["delete", "ID"])?;
            that(said.is_ok(), || said.last_words())?;
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            that(status.is_empty() || status.contains("Z (zombie)"), || format!("process {pid} lives"))
        }),
    ]
}

/// Made, stopped and deleted.
fn deleted<'a>(lab: &'a Lab<'_>) -> anyhow::Result<Bundle<'a>> {
    let bundle = lab.bundle()?;
    bundle.create()?;
    bundle.stop()?;
    let said = bundle.say(&["delete", "ID"])?;
    anyhow::ensure!(said.is_ok(), "delete: {}", said.last_words());
    Ok(bundle)
}

fn unknown_containers() -> Vec<Test> {
    let operations: [(&str, &[&str]); 4] = [
        ("runtime.md#query-state", &["state", "ID"]),
        (START, &["start", "ID"]),
        (KILL, &["kill", "ID", "TERM"]),
        (DELETE, &["delete", "ID"]),
    ];
    let mut tests: Vec<Test> = operations
        .into_iter()
        .map(|(section, words)| {
            must(section, "of a container that does not exist is an error", move |lab| {
                refused(&lab.bundle()?, words)
            })
        })
        .collect();
    tests.push(must("runtime.md#query-state", "without an id is an error", |lab| {
        refused(&lab.bundle()?, &["state"])
    }));
    tests
}

fn refused(bundle: &Bundle<'_>, words: &[&str]) -> Outcome {
    let said = bundle.say(words)?;
    match said.code {
        0 => fails(format!("{} succeeded", words.join(" "))),
        -1 => fails(format!("{} hung", words.join(" "))),
        _ => Ok(()),
    }
}
