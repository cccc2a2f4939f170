//! config.md, "POSIX-platform Hooks", and where runtime.md's lifecycle calls them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::bundle::Bundle;
use super::super::verdict::{Outcome, fails, is, same, that};
use super::super::{Lab, Test, must};

const HOOKS: &str = "config.md#posix-platform-hooks";
const LIFECYCLE: &str = "runtime.md#lifecycle";

/// In the order of a container's life.
const ALL: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
/// Those that run in the container's namespaces.
const INSIDE: [&str; 2] = ["createContainer", "startContainer"];
/// Those that came with version 1.0.2.
const CREATING: [&str; 3] = ["prestart", "createRuntime", "createContainer"];

pub(crate) fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = ALL.into_iter().flat_map(each).collect();
    tests.extend([order(), before_pivot(), poststart_sees_the_program(), poststop_after_delete()]);
    tests.extend(failures());
    tests.extend(invalid());
    tests
}

impl Bundle<'_> {
    /// A hook that leaves a note called `note`.
    fn hook(&mut self, kind: &str, note: &str, how: &[&str]) -> &mut Self {
        let hook = self.hook_entry(kind, note, how);
        self.push(&format!("/hooks/{kind}"), hook)
    }

    /// startContainer's path is resolved inside; all others' outside.
    fn hook_entry(&self, kind: &str, note: &str, how: &[&str]) -> Value {
        let (program, file) = match kind {
            "startContainer" => ("/probe".to_owned(), "/out/notes".to_owned()),
            _ => (self.rootfs().join("probe").display().to_string(), self.notes_file().display().to_string()),
        };
        let mut args = vec!["hook".to_owned(), "note".to_owned(), file, note.to_owned()];
        args.extend(how.iter().map(|&word| word.to_owned()));
        json!({"path": program, "args": args, "env": ["HOOK=yes", "EMPTY="]})
    }

    /// From create to delete, with a program that leaves a note as well.
    fn live(&mut self) -> anyhow::Result<Vec<Value>> {
        self.args(&["/probe", "note", "/out/notes", "program", "quiet"]);
        self.create()?;
        self.start()?;
        self.until_stopped()?;
        let said = self.say(&["delete", "ID"])?;
        anyhow::ensure!(said.is_ok(), "delete: {}", said.last_words());
        self.notes()
    }
}

fn named<'a>(notes: &'a [Value], name: &str) -> anyhow::Result<&'a Value> {
    use anyhow::Context as _;
    notes.iter().find(|note| note["name"] == name).with_context(|| format!("{name} was not called"))
}

fn names(notes: &[Value]) -> Vec<&str> {
    notes.iter().filter_map(|note| note["name"].as_str()).collect()
}

/// What holds for each kind of hook.
fn each(kind: &'static str) -> Vec<Test> {
    let lived = move |lab: &Lab<'_>| -> anyhow::Result<Value> {
        let mut bundle = lab.bundle()?;
        let notes = bundle.set("/annotations", json!({"com.example.a": "b"})).hook(kind, kind, &[]).live()?;
        let mut note = named(&notes, kind)?.clone();
        note["own id"] = json!(bundle.id);
        note["own bundle"] = json!(bundle.path());
        note["times"] = json!(names(&notes).iter().filter(|name| **name == kind).count());
        Ok(note)
    };
    vec![
        must(HOOKS, format!("{kind}: called once, with its arguments"), move |lab| {
            let note = lived(lab)?;
            is("calls", &note["times"], 1)?;
            is("argv[0]", &note["args"][0], "hook")?;
            is("the last argument", &note["args"][3], kind)
        }),
        must(HOOKS, format!("{kind}: its environment is the given one"), move |lab| {
            let note = lived(lab)?;
            let mut env: Vec<&str> =
                note["env"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            env.sort_unstable();
            same("its environment", env, ["EMPTY=", "HOOK=yes"])
        }),
        must(HOOKS, format!("{kind}: the state comes on stdin"), move |lab| {
            let note = lived(lab)?;
            let state = &note["state"];
            same("id", &state["id"], &note["own id"])?;
            same("bundle", &state["bundle"], &note["own bundle"])?;
            is("annotations", &state["annotations"], json!({"com.example.a": "b"}))?;
            that(state["ociVersion"].is_string(), || "no ociVersion".into())?;
            same("status", state["status"].as_str(), Some(status_at(kind)))
        }),
        must(HOOKS, format!("{kind}: runs in the {} namespaces", place(kind)), move |lab| {
            let note = lived(lab)?;
            let host = std::fs::read_link("/proc/self/ns/mnt")?;
            let is_host = note["namespaces"]["mnt"] == json!(host);
            same("in the runtime's mount namespace", is_host, !INSIDE.contains(&kind))
        }),
        must("runtime.md#state", format!("{kind}: the pid is as seen from its namespace"), move |lab| {
            let pid = lived(lab)?["state"]["pid"].as_i64();
            match kind {
                // Without a process there need not be one.
                "poststop" => Ok(()),
                _ if INSIDE.contains(&kind) => same("pid", pid, Some(1)),
                _ => that(pid.is_some_and(|pid| pid > 1), || format!("pid is {pid:?}")),
            }
        }),
        must(HOOKS, format!("{kind}: several run in their order"), move |lab| {
            let mut bundle = lab.bundle()?;
            bundle.hook(kind, "1", &[]).hook(kind, "2", &[]).hook(kind, "3", &[]);
            let notes = bundle.live()?;
            let mut found = names(&notes);
            found.retain(|name| *name != "program");
            same("order", found, ["1", "2", "3"])
        }),
        must(HOOKS, format!("{kind}: without args its path is argv[0]"), move |lab| {
            // It is called without words, says so on its output and does no harm.
            let mut bundle = lab.bundle()?;
            let mut entry = bundle.hook_entry(kind, kind, &[]);
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("args");
            }
            bundle.push(&format!("/hooks/{kind}"), entry);
            same("notes", names(&bundle.live()?), ["program"])
        }),
    ]
}

fn place(kind: &str) -> &'static str {
    if INSIDE.contains(&kind) { "container's" } else { "runtime's" }
}

/// runtime.md#state: what the status is when each is called.
fn status_at(kind: &str) -> &'static str {
    match kind {
        "startContainer" => "created",
        "poststart" => "running",
        "poststop" => "stopped",
        _ => "creating",
    }
}

fn order() -> Test {
    must(LIFECYCLE, "all six kinds and the program run in the order of the lifecycle", |lab| {
        let mut bundle = lab.bundle()?;
        for kind in ALL {
            bundle.hook(kind, kind, &[]);
        }
        let notes = bundle.live()?;
        // The program and poststart run at the same time.
        let found: Vec<&str> = names(&notes).into_iter().filter(|name| *name != "program").collect();
        same("order", found, ALL)?;
        let at = |name: &str| names(&notes).iter().position(|known| *known == name);
        that(at("program") > at("startContainer"), || "the program ran before startContainer".into())
    })
}

fn before_pivot() -> Test {
    must(
        "config.md#createcontainer-hooks",
        "they run before the root is changed, seeing the runtime's",
        |lab| {
            let mut bundle = lab.bundle()?;
            let notes = bundle.hook("createContainer", "it", &[]).live()?;
            let root = named(&notes, "it")?["root"].clone();
            let has =
                |name: &str| root.as_array().is_some_and(|names| names.iter().any(|known| known == name));
            that(has("usr") && !has("probe"), || format!("the root holds {root}"))
        },
    )
}

fn poststart_sees_the_program() -> Test {
    must("config.md#poststart", "they run after the program has been executed", |lab| {
        let mut bundle = lab.bundle()?;
        bundle.hook("poststart", "it", &[]).args(&["/probe", "wait"]);
        for _ in 0..5 {
            bundle.create()?;
            bundle.start()?;
            bundle.stop()?;
            bundle.say(&["delete", "ID"])?;
        }
        for note in bundle.notes()? {
            is("the process then", &note["target"], json!(["/probe", "wait"]))?;
        }
        same("notes", bundle.notes()?.len(), 5)
    })
}

fn poststop_after_delete() -> Test {
    must("config.md#poststop", "they run after the container is deleted", |lab| {
        let mut bundle = lab.bundle()?;
        let file = bundle.notes_file().display().to_string();
        // Whatever cgroup there is by then is written into the notes as a name.
        let script = format!(
            "set -- $(find /sys/fs/cgroup -name '*{}*' -type d); echo \"{{\\\"name\\\": $#}}\" >> {file}",
            bundle.id
        );
        bundle.push(
            "/hooks/poststop",
            json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}),
        );
        let notes = bundle.live()?;
        same("cgroups of it that are left", notes.last().map(|note| &note["name"]), Some(&json!(0)))
    })
}

fn failures() -> Vec<Test> {
    let mut tests: Vec<Test> = CREATING.into_iter().flat_map(creating_fails).collect();
    tests.extend([
        must(LIFECYCLE, "startContainer fails: start is an error, the program does not run", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.hook("startContainer", "it", &["fail"]);
            bundle.args(&["/probe", "note", "/out/notes", "program", "quiet"]).create()?;
            let said = bundle.say(&["start", "ID"])?;
            that(!said.is_ok(), || "start succeeded".into())?;
            std::thread::sleep(Duration::from_millis(50));
            same("notes", names(&bundle.notes()?), ["it"])
        }),
        must(LIFECYCLE, "poststart fails: start is an error, the container stops", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.hook("poststart", "it", &["fail"]).args(&["/probe", "wait"]).create()?;
            let said = bundle.say(&["start", "ID"])?;
            that(!said.is_ok(), || "start succeeded".into())?;
            let running = || Ok(bundle.say(&["state", "ID"])?.out.contains("running"));
            Ok(bundle.until("it runs no more", || running().map(|is: bool| !is))?)
        })
        .since(2),
        must(LIFECYCLE, "poststop fails: the rest runs and delete succeeds", |lab| {
            let mut bundle = lab.bundle()?;
            bundle.hook("poststop", "1", &["fail"]).hook("poststop", "2", &[]);
            same("notes", names(&bundle.live()?), ["program", "1", "2"])
        }),
    ]);
    tests
}

fn creating_fails(kind: &'static str) -> Vec<Test> {
    vec![
        must(LIFECYCLE, format!("{kind} fails: create is an error and nothing stays"), move |lab| {
            let mut bundle = lab.bundle()?;
            bundle.hook(kind, "it", &["fail"]).refused()
        }),
        must(LIFECYCLE, format!("{kind} fails: later hooks do not run, poststop does"), move |lab| {
            let mut bundle = lab.bundle()?;
            bundle.hook(kind, "it", &["fail"]).hook(kind, "next", &[]).hook("startContainer", "start", &[]);
            bundle.hook("poststop", "stop", &[]);
            that(!bundle.try_create()?.is_ok(), || "create succeeded".into())?;
            let notes = bundle.notes()?;
            same("notes", names(&notes), ["it", "stop"])
        }),
        must(HOOKS, format!("{kind}: one that hangs is aborted at its timeout"), move |lab| {
            let mut bundle = lab.bundle()?;
            let mut entry = bundle.hook_entry(kind, "it", &["hang"]);
            entry["timeout"] = json!(1);
            bundle.push(&format!("/hooks/{kind}"), entry);
            let begin = Instant::now();
            bundle.refused()?;
            that(begin.elapsed() < Duration::from_secs(10), || format!("it took {:?}", begin.elapsed()))
        }),
    ]
}

fn invalid() -> Vec<Test> {
    let wrong = |name: &'static str, pointer: &'static str, value: Value| {
        must(HOOKS, name, move |lab| {
            let mut bundle = lab.bundle()?;
            bundle
                .hook("createRuntime", "it", &[])
                .set(&format!("/hooks/createRuntime/0/{pointer}"), value.clone());
            bundle.refused()?;
            ran_not(&bundle)
        })
    };
    vec![
        wrong("a path that is not absolute is an error", "path", json!("bin/true")),
        wrong("a program that is not there is an error", "path", json!("/nosuch/hook")),
        wrong("a timeout of 0 is an error", "timeout", json!(0)),
        wrong("a timeout below 0 is an error", "timeout", json!(-1)),
    ]
}

fn ran_not(bundle: &Bundle<'_>) -> Outcome {
    match bundle.notes()?.len() {
        0 => Ok(()),
        _ => fails("the hook ran"),
    }
}
