//! `exec`: one more process in a running container, with one clone.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use kernel::{Child, clone_flags as flag};
use rustix::io::Errno;
use rustix::process::geteuid;
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use crate::cgroup::{Cgroup, SubCgroup};
use crate::child::{self, ExecKit};
use crate::later::Later;
use crate::plan::{self, ProcessPlan};
use crate::report::{Line, Step, Word, lines};
use crate::state::{Record, StateDir, Status};
use crate::{Error, Process, Runtime, Stdio, lsm, make, rootless, spec};

/// How long it may take from `start` to the container's program, hooks left aside.
const HIDING_MS: u32 = 500;

/// What to run in a container, and how.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    pub id: &'a str,
    pub process: &'a spec::Process,
    pub stdio: Stdio,
    /// Descriptors 3 and up that it keeps.
    pub preserve_fds: u32,
    pub paused: Paused,
    /// Below the container's own; empty: where its init is.
    pub cgroups: &'a [SubCgroup],
}

/// What to do when the container is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paused {
    Refuse,
    /// The new process freezes with the others as soon as it has joined them, and goes on when they do.
    Join,
}

pub(crate) fn exec(runtime: &Runtime, exec: &ExecRequest<'_>) -> Result<Process, Error> {
    lsm::refuse_unenforced(exec.process, None)?;
    let mut process = plan::plan_exec(exec.process)?;
    let dir = StateDir::of(&runtime.root, exec.id)?;
    let record = dir.read()?;
    let init = running(&record)?;
    let namespaces = record.namespaces | joined_by_its_maker(&record);
    let in_userns = namespaces & flag::NEWUSER != 0;
    let mut warnings: Vec<String> = make::grant(&mut process, in_userns)?;
    let filter = record.seccomp_flags.map(|_| dir.read_filter()).transpose()?;
    let cgroup = cgroup(exec, &record)?;
    let (ours, theirs) = lines().map_err(|e| Error::step("making", "a socket pair", e))?;
    let root = record.shared_root.as_ref().and(record.init).map(|init| root_of(init.pid)).transpose()?;
    // Its owner joins a user namespace first, to have the right to join the others; and who is in a user namespace
    // may not go back from another PID namespace.
    let two_steps = !rootless::in_first_user_namespace() || (in_userns && !rootless::may_administer());
    if in_userns && two_steps {
        wait_until_seen(&record);
    }
    let first = if two_steps { namespaces & (flag::NEWUSER | flag::NEWPID) } else { 0 };
    let waits = first != 0 || record.rdt.is_some() || process.oom_score_adj.is_some();
    let kit = ExecKit {
        process: &process,
        line: &theirs,
        init: init.as_fd(),
        root: root.as_ref(),
        namespaces: namespaces & !flag::NEWPID & !first,
        first,
        waits,
        tasks: cgroup.task_files(),
        stdio: make::stdio(&exec.stdio),
        filter: filter.as_ref(),
        personality: record.personality,
        memory_policy: record.memory_policy.as_ref(),
        preserve_fds: exec.preserve_fds,
        ignored_signals: make::ignored_signals(&Later::default()),
        keyring: runtime.keyring,
    };
    let two_steps = first != 0;
    let pid_namespace = (record.namespaces & flag::NEWPID != 0).then_some(&init);
    let clone = || {
        if two_steps {
            let first = make::clone_into(None, 0, cgroup.unified_dir(), || child::exec_first_of_two(&kit))?;
            return second_of_two(&first, &ours, exec.id, &process);
        }
        make::clone_into(pid_namespace, 0, cgroup.unified_dir(), || child::exec(&kit))
    };
    let child = match &process.affinity[0] {
        Some(cpus) => on_cpus(cpus, clone)?,
        None => clone()?,
    };
    drop(theirs);
    let heard = attend(&child, &record, &process, &mut warnings)
        .and_then(|()| if waits { release(&ours) } else { Ok(()) })
        .and_then(|()| hear_until_exec(&ours, &process, &record, &child));
    match heard {
        Ok(console) => Ok(Process { pid: child.pid, pidfd: child.pidfd, console, warnings, kept: None }),
        Err(error) => {
            make::end(&child);
            Err(error)
        }
    }
}

/// An ordinary user who joined a user namespace made the container from inside, and it has none of its own then.
fn joined_by_its_maker(record: &Record) -> u64 {
    let of = |process: &str| rustix::fs::stat(format!("/proc/{process}/ns/user")).map(|file| file.st_ino);
    if record.namespaces & flag::NEWUSER != 0 || rootless::may_administer() {
        return 0;
    }
    let init = record.init.map_or(0, |init| init.pid).to_string();
    match (of("self"), of(&init)) {
        (Ok(ours), Ok(its)) if ours == its => 0,
        // Its files may hide still, which those of a container in our own namespace never do from us.
        _ => flag::NEWUSER,
    }
}

/// Its number is its own: the pidfd of a process that lives is at hand.
fn root_of(pid: i32) -> Result<OwnedFd, Error> {
    use rustix::fs::{Mode, OFlags, open};
    let path = format!("/proc/{pid}/root");
    open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::step("opening", path, e))
}

fn release(line: &Line) -> Result<(), Error> {
    line.go().map_err(|e| Error::step("releasing", "the new process", e))
}

/// The child of the first child, which is ours (CLONE_PARENT). It waits until we know its number.
fn second_of_two(first: &Child, line: &Line, id: &str, process: &ProcessPlan) -> Result<Child, Error> {
    let word = line.hear();
    make::reap(first.pidfd.as_fd());
    let pid = match word.map_err(|e| Error::step("hearing", "the first child", e))? {
        Some(Word::Cloned { pid }) => pid,
        Some(Word::Failed(failure)) => {
            return Err(make::explain(failure, process, || format!("in {id}")));
        }
        Some(_) | None => return Err(Error::Died),
    };
    make::child_of_ours(pid)
}

/// Between `start` and its program the init still hides, and then only the node's root may join it: procfs says so by
/// its owner. A created container goes on hiding; joining it says that it may not be joined.
fn wait_until_seen(record: &Record) {
    let path = format!("/proc/{}/ns", record.init.map_or(0, |init| init.pid));
    let hidden = || rustix::fs::stat(&path).is_ok_and(|dir| dir.st_uid != geteuid().as_raw());
    for _ in 0..HIDING_MS {
        if !hidden() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
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

fn cgroup(exec: &ExecRequest<'_>, record: &Record) -> Result<Cgroup, Error> {
    let at = |source| Error::Cgroup { id: exec.id.to_owned(), source };
    let pid = record.init.map_or(0, |init| init.pid);
    record.scope.as_ref().map_or(Ok(()), |scope| scope.come_near(&record.cgroup_path)).map_err(at)?;
    let cgroup = Cgroup::open_beside(&record.cgroup_path, pid, exec.cgroups).map_err(at)?;
    if exec.paused == Paused::Refuse && cgroup.is_frozen().map_err(at)? {
        let (is, wanted) = (Status::Paused.as_str(), Status::Running.as_str());
        return Err(Error::State { id: exec.id.to_owned(), is, wanted });
    }
    Ok(cgroup)
}

/// OCI: exec is not part of the specification; peers allow it in a created container as well as in a running one.
fn running(record: &Record) -> Result<OwnedFd, Error> {
    let refuse = |is: Status| Error::State { id: record.id.clone(), is: is.as_str(), wanted: "running" };
    match record.init {
        _ if record.of_earlier_boot => Err(refuse(Status::Stopped)),
        None => Err(refuse(Status::Creating)),
        Some(init) => init.open().ok_or_else(|| refuse(Status::Stopped)),
    }
}

/// What is done to the process from outside, while it waits.
fn attend(
    child: &kernel::Child,
    record: &Record,
    process: &ProcessPlan,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    if let Some(groups) = &record.rdt {
        groups.join(child.pid)?;
    }
    if let Some(value) = process.oom_score_adj {
        warnings.extend(make::set_oom_score_adj(child.pid, value, &Later::default())?);
    }
    Ok(())
}

/// The child's end closes at exec: silence means success.
fn hear_until_exec(
    ours: &Line,
    process: &ProcessPlan,
    record: &Record,
    child: &kernel::Child,
) -> Result<Option<OwnedFd>, Error> {
    let mut console = None;
    loop {
        match ours.hear().map_err(|e| Error::step("hearing", "the new process", e))? {
            None => return Ok(console),
            Some(Word::Ready { console: master }) => console = master,
            Some(Word::Failed(failure)) => {
                return Err(make::explain(failure, process, || format!("in {}", record.id)));
            }
            Some(Word::Listening { number }) => {
                make::send_listener(record, child, number, Status::Running)?;
                release(ours)?;
            }
            Some(Word::Cloned { .. } | Word::BeforePivot) => return Err(Error::Died),
        }
    }
}
