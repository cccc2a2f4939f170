//! Another OCI runtime, such as runc or crun, driven by its command line.
//!
//! It wants what our own does not: a root file system at a path, a pid in a file, a terminal over a socket. All of
//! that lies in the container's directory. Its words are read from a log of its own, since its standard error is the
//! container's. A command that does not end is killed. A child of the monitor runs it ([`crate::job`]), so nothing else
//! waits; only a monitor that takes over asks for states itself, and not for long.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use conmon_protocol::{CgroupDriver, ContainerPlan, RefusalKind, Rootfs, Scope};
use runtime::spec::{Namespace, NamespaceKind, Process, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;

use super::{Entered, Started};
use crate::error::{Error, Leftovers, Named as _};
use crate::pod;
use crate::reap::{self, Birth};
use crate::stdio::{self, Ends};

mod console;

/// A runtime makes a container in 40 ms; one that takes this long hangs.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// What a new monitor waits for a container's state, before it serves anybody.
const STATE_PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// As much of its log as may hold its last words.
const MAX_WORDS: usize = 64 << 10;

#[derive(Debug, Clone, Copy)]
pub(super) struct Command<'a> {
    pub(super) program: &'a Path,
    pub(super) root: &'a Path,
    pub(super) cgroup_driver: CgroupDriver,
    pub(super) plan: &'a ContainerPlan,
}

/// What is put in the container's directory.
const LOG: &str = "runtime.log";
const PID: &str = "runtime.pid";
/// What runc writes it to before it renames it.
const PID_NEW: &str = ".runtime.pid";
const PROCESS: &str = "runtime.process";
const RESOURCES: &str = "runtime.resources";

impl Command<'_> {
    pub(super) fn create(self, spec: &Spec, ends: Option<Ends>) -> Result<Entered, Error> {
        self.mount_root(spec)?;
        let mut command = self.command("create");
        command.arg("--bundle").arg(&self.plan.bundle_dir);
        self.run_for_process(command, ends, Some(&self.plan.container_id))
    }

    pub(super) fn start(self) -> Result<(), Error> {
        let mut command = self.command("start");
        command.arg(&self.plan.container_id);
        self.run(command)
    }

    pub(super) fn started(self) -> Started {
        let mut command = self.command("state");
        command.arg(&self.plan.container_id).stdout(Stdio::piped());
        let Some(output) = output_of(command) else {
            return Started::Yes;
        };
        let state: serde_json::Value = serde_json::from_slice(&output).unwrap_or_default();
        if state["status"] == "created" { Started::No } else { Started::Yes }
    }

    pub(super) fn kill(self, signal: i32, scope: Scope) -> Result<(), Error> {
        let mut command = self.command("kill");
        if scope == Scope::All {
            command.arg("--all");
        }
        command.arg(&self.plan.container_id).arg(signal.to_string());
        self.run(command)
    }

    pub(super) fn exec(self, process: &Process, ends: Option<Ends>) -> Result<Entered, Error> {
        let path = self.file(PROCESS);
        self.write(&path, process)?;
        let mut command = self.command("exec");
        command.arg("--detach").arg("--process").arg(&path);
        let entered = self.run_for_process(command, ends, Some(&self.plan.container_id));
        stdio::remove(&path)?;
        entered
    }

    pub(super) fn update(self, resources: &serde_json::Value) -> Result<(), Error> {
        let path = self.file(RESOURCES);
        let updated = self.write(&path, resources).and_then(|()| {
            let mut command = self.command("update");
            command.arg("--resources").arg(&path).arg(&self.plan.container_id);
            self.run(command)
        });
        stdio::remove(&path)?;
        updated
    }

    pub(super) fn delete(self) -> Result<(), Error> {
        let mut left = Leftovers::default();
        left.note(self.stop_orphans());
        left.note(self.forget());
        if let Rootfs::Overlay { .. } = &self.plan.rootfs {
            let root = self.root_dir();
            left.note(pod::unmount_all(&root));
            left.note(pod::remove_dir(&root));
        }
        for name in [LOG, PID, PID_NEW, PROCESS, RESOURCES] {
            left.note(stdio::remove(&self.file(name)));
        }
        left.result()
    }

    fn write<T: Serialize>(self, path: &Path, value: &T) -> Result<(), Error> {
        let bytes = serde_json::to_vec(value).map_err(|source| Error::Json {
            step: "writing",
            object: path.display().to_string(),
            source,
        })?;
        fs::write(path, bytes).named("writing", path)
    }

    /// A monitor that is killed leaves its runtime behind, which goes on making for nobody. Each is told by the log that
    /// is in its command line.
    fn stop_orphans(self) -> Result<(), Error> {
        let log = self.file(LOG);
        let Ok(processes) = fs::read_dir("/proc") else {
            return Ok(());
        };
        let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        for pid in pids.filter(|pid| has_word(*pid, log.as_os_str().as_bytes())) {
            if let Some(pidfd) = Birth::of(pid).open() {
                reap::kill_and_wait(pidfd.as_fd()).named("stopping the runtime", self.program)?;
            }
        }
        Ok(())
    }

    /// Runtimes differ in whether forgetting what they don't know is an error; here it is what was asked for.
    fn forget(self) -> Result<(), Error> {
        if !self.root.exists() {
            return Ok(());
        }
        let mut command = self.command("delete");
        command.arg("--force").arg(&self.plan.container_id);
        match self.run(command) {
            Err(Error::Refused { kind: RefusalKind::NotFound, .. }) => Ok(()),
            result => result,
        }
    }

    fn file(self, name: &str) -> PathBuf {
        self.plan.container_dir.join(name)
    }

    /// Where config.json says it is: always `rootfs` in the bundle.
    fn root_dir(self) -> PathBuf {
        self.plan.bundle_dir.join("rootfs")
    }

    /// As our own runtime mounts it: the layers show the pod's users, which no runtime does for a directory that it is
    /// given.
    fn mount_root(self, spec: &Spec) -> Result<(), Error> {
        let Rootfs::Overlay { lower, upper, work } = &self.plan.rootfs else {
            return Ok(());
        };
        let root = self.root_dir();
        match rustix::fs::mkdir(&root, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).named("making", &root),
        }
        let linux = spec.linux.as_ref();
        let users = linux.and_then(|linux| users_of(&linux.namespaces));
        let users = users.map(|path| File::open(path).named("opening", path)).transpose()?;
        let label = linux.and_then(|linux| linux.mount_label.clone()).filter(|label| !label.is_empty());
        let label = label.and_then(|label| CString::new(label).ok());
        let userns = users.as_ref().map(File::as_fd);
        let overlay = runtime::layers(lower, upper, work, userns, label.as_deref())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&overlay, "", CWD, &root, flags).named("mounting the layers of", &root)
    }

    /// The command up to its own arguments. Its words go to a log that begins anew.
    fn command(self, verb: &str) -> std::process::Command {
        let mut command = std::process::Command::new(self.program);
        command.arg("--root").arg(self.root);
        if self.cgroup_driver == CgroupDriver::Systemd {
            command.arg("--systemd-cgroup");
        }
        command.arg("--log").arg(self.file(LOG)).args(["--log-format", "json", verb]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        command
    }

    fn run(self, mut command: std::process::Command) -> Result<(), Error> {
        stdio::remove(&self.file(LOG))?;
        let child = command.spawn().named("starting the runtime", self.program)?;
        drop(command);
        self.wait(child)
    }

    /// Runs what leaves a process behind: its number is in a file, and it is our child now, as all orphans are.
    fn run_for_process(
        self,
        mut command: std::process::Command,
        ends: Option<Ends>,
        id: Option<&str>,
    ) -> Result<Entered, Error> {
        let pid_file = self.file(PID);
        command.arg("--pid-file").arg(&pid_file);
        let console = match ends {
            None => Some(console::Console::listen(&self.plan.container_dir)?),
            Some(Ends { stdin, stdout, stderr }) => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
                None
            }
        };
        if let Some(console) = &console {
            command.arg("--console-socket").arg(console.path());
        }
        command.args(id);
        self.run(command)?;
        let console = console.map(console::Console::receive).transpose()?;
        let (pid, pidfd) = process_in(&pid_file)?;
        stdio::remove(&pid_file)?;
        Ok(Entered { pid, pidfd, console, warnings: Vec::new() })
    }

    fn wait(self, mut child: Child) -> Result<(), Error> {
        let ended = wait_for(&child, &PATIENCE).named("waiting for the runtime", self.program)?;
        if !ended {
            let _ = child.kill();
        }
        let status = child.wait().named("waiting for the runtime", self.program)?;
        if ended && status.success() {
            return Ok(());
        }
        let why = if ended { self.last_words() } else { "it did not end in time and was killed".into() };
        let kind = kind_of(&why);
        Err(Error::refused(kind, format!("{}: {why}", self.program.display())))
    }

    fn last_words(self) -> String {
        let log = fs::read(self.file(LOG)).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(MAX_WORDS)..];
        words_in(tail).unwrap_or_else(|| "it failed without a word".into())
    }
}

/// The user namespace of the pod, which the monitor made and pinned.
fn users_of(namespaces: &[Namespace]) -> Option<&Path> {
    let users = namespaces.iter().find(|namespace| namespace.kind == NamespaceKind::User)?;
    users.path.as_deref()
}

fn has_word(pid: i32, word: &[u8]) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|found| found == word)
}

/// The last line's message: both runc and crun write one object a line.
fn words_in(log: &[u8]) -> Option<String> {
    let lines = log.rsplit(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut messages = lines.filter_map(|line| {
        let line: serde_json::Value = serde_json::from_slice(line).ok()?;
        Some(line["msg"].as_str()?.to_owned())
    });
    messages.next()
}

/// Runtimes have words for this, not codes.
fn kind_of(words: &str) -> RefusalKind {
    let is = |text: &str| words.contains(text);
    if is("executable file") && is("not found") || is("exec: \"") || is("exec failed") && is("no such file") {
        RefusalKind::NoSuchCommand
    } else if words.starts_with("container ") && words.ends_with("does not exist") {
        RefusalKind::NotFound
    } else {
        RefusalKind::Failed
    }
}

/// False when it takes too long.
fn wait_for(child: &Child, patience: &Timespec) -> rustix::io::Result<bool> {
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(Errno::SRCH)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let ready = poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(patience))?;
    Ok(ready > 0)
}

/// What a command says that says little, when it ends soon.
fn output_of(mut command: std::process::Command) -> Option<Vec<u8>> {
    let mut child = command.spawn().ok()?;
    let ended = wait_for(&child, &STATE_PATIENCE).unwrap_or(false);
    if !ended {
        let _ = child.kill();
    }
    let output = child.wait_with_output().ok()?;
    ended.then_some(output.stdout)
}

fn process_in(pid_file: &Path) -> Result<(i32, OwnedFd), Error> {
    let text = fs::read_to_string(pid_file).named("reading", pid_file)?;
    let pid =
        text.trim().parse().ok().and_then(Pid::from_raw).ok_or(Errno::SRCH).named("reading", pid_file)?;
    // An orphan of ours and not reaped, so the number is its own, even if it has ended.
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).named("opening the process of", pid_file)?;
    Ok((pid.as_raw_nonzero().get(), pidfd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtimes_last_words_are_found_and_sorted() {
        let check = |log: &str, words: Option<&str>, kind: RefusalKind| {
            let found = words_in(log.as_bytes());
            assert_eq!(found.as_deref(), words);
            assert_eq!(kind_of(found.as_deref().unwrap_or_default()), kind);
        };
        check("", None, RefusalKind::Failed);
        check("not json\n", None, RefusalKind::Failed);
        check(
            "{\"level\":\"error\",\"msg\":\"first\"}\n{\"msg\":\"last\"}\n",
            Some("last"),
            RefusalKind::Failed,
        );
        let runc =
            r#"{"level":"error","msg":"exec failed: exec: \"nope\": executable file not found in $PATH"}"#;
        check(
            runc,
            Some("exec failed: exec: \"nope\": executable file not found in $PATH"),
            RefusalKind::NoSuchCommand,
        );
        let crun = r#"{"msg":"executable file `nope` not found in $PATH: No such file or directory"}"#;
        check(
            crun,
            Some("executable file `nope` not found in $PATH: No such file or directory"),
            RefusalKind::NoSuchCommand,
        );
        check(
            r#"{"msg":"container does not exist"}"#,
            Some("container does not exist"),
            RefusalKind::NotFound,
        );
    }
}
