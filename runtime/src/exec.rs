//! `exec`: one more process in a running container, with one clone.

use std::os::fd::{AsFd as _, OwnedFd};

use kernel::clone_flags as flag;
use rustix::io::Errno;
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use crate::cgroup::Cgroup;
use crate::child::{self, ExecKit};
use crate::plan::{self, ProcessPlan};
use crate::report::{Line, Step, Word, lines};
use crate::state::{Record, StateDir, Status};
use crate::{Error, Process, Runtime, Stdio, make, spec};

/// What to run, and how.
pub(crate) struct Exec<'a> {
    pub(crate) id: &'a str,
    pub(crate) process: &'a spec::Process,
    pub(crate) stdio: &'a Stdio,
    pub(crate) preserve_fds: u32,
}

pub(crate) fn exec(runtime: &Runtime, exec: &Exec<'_>) -> Result<Process, Error> {
    let mut process = plan::plan_exec(exec.process)?;
    let dir = StateDir::of(&runtime.root, exec.id)?;
    let record = dir.read()?;
    let init = running(&dir, &record)?;
    let in_userns = record.namespaces & flag::NEWUSER != 0;
    let mut warnings: Vec<String> = make::grant(&mut process, in_userns)?.into_iter().collect();
    let filter = record.seccomp_flags.map(|flags| dir.read_filter(flags)).transpose()?;
    let cgroup = Cgroup::open(&record.cgroup_path)
        .map_err(|source| Error::Cgroup { id: exec.id.to_owned(), source })?;
    let (ours, theirs) = lines().map_err(|e| Error::step("making", "a socket pair", e))?;
    let kit = ExecKit {
        process: &process,
        line: &theirs,
        init: init.as_fd(),
        namespaces: record.namespaces & !flag::NEWPID,
        tasks: cgroup.task_files(),
        stdio: make::stdio(exec.stdio),
        filter: filter.as_ref(),
        personality: record.personality,
        preserve_fds: exec.preserve_fds,
        keyring: runtime.keyring,
    };
    let pid_namespace = (record.namespaces & flag::NEWPID != 0).then_some(&init);
    let clone = || make::clone_into(pid_namespace, 0, cgroup.unified_dir(), || child::exec(&kit));
    let child = match &process.affinity[0] {
        Some(cpus) => on_cpus(cpus, clone)?,
        None => clone()?,
    };
    drop(theirs);
    if let Some(value) = process.oom_score_adj {
        warnings.extend(make::set_oom_score_adj(child.pid, value)?);
    }
    match hear_until_exec(&ours, &process, exec.id) {
        Ok(console) => Ok(Process { pid: child.pid, pidfd: child.pidfd, console, warnings }),
        Err(error) => {
            make::end(&child);
            Err(error)
        }
    }
}

/// config.md, `execCPUAffinity`: `initial` counts before the process is in the container's cgroup, where it may be born.
fn on_cpus(
    cpus: &[u64],
    clone: impl FnOnce() -> Result<kernel::Child, Error>,
) -> Result<kernel::Child, Error> {
    let at = |e: Errno| Error::step(Step::Affinity.words(), "(process.execCPUAffinity.initial)", e);
    let ours = sched_getaffinity(None).map_err(at)?;
    kernel::sched_setaffinity(cpus).map_err(at)?;
    let child = clone();
    sched_setaffinity(None, &ours).map_err(at)?;
    child
}

fn running(dir: &StateDir, record: &Record) -> Result<OwnedFd, Error> {
    let refuse = |is: Status| Error::State { id: record.id.clone(), is: is.as_str(), wanted: "running" };
    let init = record.init.ok_or_else(|| refuse(Status::Creating))?;
    let pidfd = init.open().ok_or_else(|| refuse(Status::Stopped))?;
    // OCI: exec is not part of the specification; peers allow it in a created container as well.
    match record.status(dir) {
        Status::Created | Status::Running => Ok(pidfd),
        status @ (Status::Creating | Status::Stopped) => Err(refuse(status)),
    }
}

/// The child's end closes at exec: silence means success.
fn hear_until_exec(ours: &Line, process: &ProcessPlan, id: &str) -> Result<Option<OwnedFd>, Error> {
    let mut console = None;
    loop {
        match ours.hear().map_err(|e| Error::step("hearing", "the new process", e))? {
            None => return Ok(console),
            Some(Word::Ready { console: master }) => console = master,
            Some(Word::Failed(failure)) => {
                return Err(make::explain(failure, process, || format!("in {id}")));
            }
            Some(Word::Cloned { .. } | Word::BeforePivot) => return Err(Error::Died),
        }
    }
}
