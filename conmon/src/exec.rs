//! Further processes in a container: started, timed, ended. Their streams are the daemon's own descriptors, so no
//! byte of theirs passes through here.

use std::os::fd::{AsFd as _, OwnedFd};

use conmon_protocol::{ExecPlan, KeptExec, RefusalKind};

use crate::clock;
use crate::container::Key;
use crate::error::{Error, Named as _};
use crate::handler::Entered;
use crate::reap::{self, Birth};
use crate::stdio::{self, Ends};

/// In a pod at once; more are refused.
pub(crate) const MAX_EXECS: usize = 1024;
/// Descendants that a kill follows.
const MAX_DESCENDANTS: usize = 4096;

#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) key: Key,
    pub(crate) id: String,
    pub(crate) container_id: String,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) parent: Parent,
    pub(crate) deadline_ns: Option<u64>,
    pub(crate) timed_out: bool,
}

/// Who hears of the process's end by wait(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    Us,
    /// An earlier monitor started it.
    Another,
}

/// One that is being started.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) exec_id: String,
    pub(crate) container_id: String,
    pub(crate) container: Key,
    pub(crate) deadline_ns: Option<u64>,
}

/// What to start, and with which streams; none for a terminal.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) begun: Begun,
    pub(crate) process: serde_json::Value,
    pub(crate) ends: Option<Ends>,
}

impl Asked {
    /// Its time begins now.
    pub(crate) fn of(container: Key, plan: ExecPlan, fds: Vec<OwnedFd>) -> Result<Asked, Error> {
        let ends = if plan.terminal { None } else { Some(ends(&plan, fds)?) };
        let deadline_ns =
            plan.timeout_ms.map(|ms| clock::monotonic_ns().saturating_add(ms.saturating_mul(1_000_000)));
        let ExecPlan { exec_id, container_id, process, .. } = plan;
        Ok(Asked { begun: Begun { exec_id, container_id, container, deadline_ns }, process, ends })
    }
}

impl Begun {
    /// Now that it has a process; and its terminal's master if it has one.
    pub(crate) fn finish(self, key: Key, entered: Entered) -> (Exec, Option<OwnedFd>) {
        let Begun { exec_id, container_id, deadline_ns, .. } = self;
        let Entered { pid, pidfd, console, .. } = entered;
        let parent = Parent::Us;
        let exec = Exec { key, id: exec_id, container_id, pid, pidfd, parent, deadline_ns, timed_out: false };
        (exec, console)
    }
}

/// The descriptors that came, in the order stdin, stdout, stderr; /dev/null for those that did not.
fn ends(plan: &ExecPlan, fds: Vec<OwnedFd>) -> Result<Ends, Error> {
    let flagged = [plan.stdin, plan.stdout, plan.stderr];
    let count = flagged.iter().filter(|flag| **flag).count();
    if count != fds.len() {
        let message = format!("exec {} names {count} descriptors and brings {}", plan.exec_id, fds.len());
        return Err(Error::refused(RefusalKind::Invalid, message));
    }
    let mut fds = fds.into_iter();
    let mut next = |flag: bool| match flag.then(|| fds.next()).flatten() {
        Some(fd) => Ok(fd),
        None => stdio::null(),
    };
    Ok(Ends { stdin: next(plan.stdin)?, stdout: next(plan.stdout)?, stderr: next(plan.stderr)? })
}

impl Exec {
    /// One that an earlier monitor started.
    pub(crate) fn take_up(key: Key, kept: KeptExec, pidfd: OwnedFd) -> Exec {
        let KeptExec { exec_id, container_id, pid, deadline_ns } = kept;
        Exec {
            key,
            id: exec_id,
            container_id,
            pid,
            pidfd,
            parent: Parent::Another,
            deadline_ns,
            timed_out: false,
        }
    }

    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        !self.timed_out && self.deadline_ns.is_some_and(|deadline| deadline <= now_ns)
    }

    /// Its time is over. The end of the process is heard as any other.
    pub(crate) fn time_out(&mut self) -> Result<(), Error> {
        self.timed_out = true;
        self.deadline_ns = None;
        self.kill()
    }

    /// Kills the process and what it started, as far as that can still be told from its parents.
    pub(crate) fn kill(&self) -> Result<(), Error> {
        let descendants = descendants(self.pid);
        let result = reap::kill(self.pidfd.as_fd()).named("killing exec", &self.id);
        for pidfd in descendants.into_iter().filter_map(Birth::open) {
            // One that is gone already was not ours to kill.
            let _ = reap::kill(pidfd.as_fd());
        }
        result
    }
}

pub(crate) fn descendants(pid: i32) -> Vec<Birth> {
    let mut found: Vec<Birth> = Vec::new();
    let mut parent = Some(pid);
    let mut looked_at = 0;
    while let Some(pid) = parent {
        let room = MAX_DESCENDANTS.saturating_sub(found.len());
        found.extend(children(pid).into_iter().take(room).map(Birth::of));
        parent = found.get(looked_at).map(|birth| birth.pid);
        looked_at += 1;
    }
    found
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists =
        threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(stdin: bool, stdout: bool, stderr: bool) -> ExecPlan {
        ExecPlan {
            exec_id: "e".into(),
            container_id: "c".into(),
            process: serde_json::Value::Null,
            terminal: false,
            stdin,
            stdout,
            stderr,
            timeout_ms: None,
        }
    }

    #[test]
    fn descriptors_go_where_the_plan_says_and_their_number_must_fit() {
        let check = |flags: [bool; 3], count: usize, fits: bool| {
            let fds = (0..count).map(|_| stdio::null().unwrap()).collect();
            assert_eq!(ends(&plan(flags[0], flags[1], flags[2]), fds).is_ok(), fits, "{flags:?} {count}");
        };
        check([false; 3], 0, true);
        check([false, true, true], 2, true);
        check([true; 3], 3, true);
        check([true; 3], 2, false);
        check([false; 3], 1, false);
    }

    #[test]
    fn descendants_are_found_through_generations() {
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "sh -c 'sleep 60 & echo; wait' & wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        let found = descendants(child.id() as i32);
        assert_eq!(found.len(), 2);
        for birth in found {
            reap::kill(birth.open().unwrap().as_fd()).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
