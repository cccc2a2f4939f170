//! A checkpoint of this pod: some of its containers are frozen, a child has criu write down their processes, and they stay
//! frozen until the daemon has copied their files. One at a time.
//!
//! ```text
//! (none) ── Checkpoint ──► Dumping ── the child is done ──► Frozen ── Thaw ──► (none)
//!                            └── failed, late, the daemon is gone ─────────────► ▲
//! ```
//! One that is late or nobody's goes on while criu is in the processes, which would die of its death, and is then nothing.
//! No container stays frozen: not past the time that was given, not without the daemon that asked, and not past this
//! monitor, which writes down beforehand whom it freezes; the next one lets them run on.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use conmon_protocol::{Answer, ContainerPlan, Dump, ExecPlan, RefusalKind};
use rustix::event::Timespec;
use serde::{Deserialize, Serialize};

use crate::container::{Container, Key};
use crate::error::{Error, Leftovers, Named as _};
use crate::handler;
use crate::job::{self, Job, Task, Until};
use crate::life::Asked;
use crate::monitor::{Asker, Monitor};
use crate::reap::{self, Birth};
use crate::record;
use crate::stdio;

/// Execs that wait until their containers run on; more are refused.
const MAX_WAITING: usize = 64;
/// criu has written the processes down by then, which it does for a monitor that is gone as well.
const LAST_DUMP: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// A killed child, and the criu that dies with it, are gone by then.
const LAST_DEATH: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

#[derive(Debug)]
pub(crate) struct Checkpoint {
    asker: Asker,
    containers: Vec<Key>,
    stage: Stage,
    /// When they run on at the latest.
    pub(crate) until_ns: u64,
    /// Execs in containers that are frozen: they begin when those run on.
    waiting: Vec<(Asker, ExecPlan, Vec<OwnedFd>)>,
}

impl Checkpoint {
    pub(crate) fn begun(asker: Asker, containers: Vec<Key>, job: Key, until: Until) -> Checkpoint {
        let (stage, until_ns) = (Stage::Dumping { job }, until.at_ns);
        Checkpoint { asker, containers, stage, until_ns, waiting: Vec::new() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dumping { job: Key },
    Frozen,
}

/// What the next monitor must know.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    container_ids: Vec<String>,
    child: Option<Birth>,
}

impl Monitor {
    pub(crate) fn checkpoint(&mut self, asker: Asker, dumps: Vec<Dump>, criu: PathBuf, patience_ms: u64) {
        if let Err(error) = self.begin_checkpoint(asker, dumps, criu, patience_ms) {
            if self.checkpoint.is_none() {
                self.note(remove_mark(&self.pod_dir));
            }
            self.answer(asker, Err(error), Vec::new());
        }
    }

    fn begin_checkpoint(
        &mut self,
        asker: Asker,
        dumps: Vec<Dump>,
        criu: PathBuf,
        patience_ms: u64,
    ) -> Result<(), Error> {
        if self.checkpoint.is_some() {
            let message = "a checkpoint of this pod is being made already; ask again when it is done";
            return Err(Error::refused(RefusalKind::State, message));
        }
        let mut orders: Vec<(ContainerPlan, Dump)> = Vec::with_capacity(dumps.len());
        let mut containers = Vec::with_capacity(dumps.len());
        for dump in dumps {
            let container = self.find(&dump.container_id)?;
            container.may(Asked::Checkpoint)?;
            refuse_terminal(container)?;
            containers.push(container.key);
            orders.push((container.record.plan.clone(), dump));
        }
        let container_ids = orders.iter().map(|(plan, _)| plan.container_id.clone()).collect();
        let mut mark = Mark { container_ids, child: None };
        write_mark(&self.pod_dir, &mark)?;
        let until = job::until(patience_ms);
        let key = self.next_key();
        let names: Vec<&str> = orders.iter().map(|(plan, _)| plan.container_id.as_str()).collect();
        let task = Task::Dump { asker, names: names.join(", ") };
        let job = Job::order(key, task, || dump(&orders, &criu), until)?;
        mark.child = Some(Birth::of(job.child.pid));
        let marked = write_mark(&self.pod_dir, &mark);
        self.checkpoint = Some(Checkpoint::begun(asker, containers, key, until));
        // The child freezes from now on. When it is not to go on, it ends as one whose time is over: once criu is in
        // nobody, and then its containers are thawed and the mark is removed.
        let kept = self.keep_job(job);
        if marked.is_err() {
            self.give_up_job(key);
        }
        self.note(marked);
        self.note(kept);
        Ok(())
    }

    /// The child has said how it went, or is gone.
    pub(crate) fn checkpoint_done(&mut self, asker: Asker, dumped: Result<(), Error>) {
        match (&mut self.checkpoint, &dumped) {
            (Some(checkpoint), Ok(())) if self.daemons.contains_key(&asker.daemon) => {
                checkpoint.stage = Stage::Frozen;
            }
            (Some(_) | None, _) => self.thaw(),
        }
        self.answer(asker, dumped.map(|()| Answer::Done), Vec::new());
    }

    /// Nobody is left to say when its containers may run on.
    pub(crate) fn checkpoint_loses(&mut self, daemon: Key) {
        match self.checkpoint.as_ref().filter(|checkpoint| checkpoint.asker.daemon == daemon) {
            Some(Checkpoint { stage: Stage::Frozen, .. }) => self.thaw(),
            Some(Checkpoint { stage: Stage::Dumping { job }, .. }) => self.give_up_job(*job),
            None => {}
        }
    }

    pub(crate) fn meet_checkpoints_deadline(&mut self, now_ns: u64) {
        let Some(checkpoint) = &self.checkpoint else { return };
        // While criu is at it, its child is given up first.
        if checkpoint.stage == Stage::Frozen && checkpoint.until_ns <= now_ns {
            self.journal.note("the time of a checkpoint is over; its containers run on");
            self.thaw();
        }
    }

    pub(crate) fn checkpoints_deadline(&self) -> Option<u64> {
        let checkpoint = self.checkpoint.as_ref()?;
        (checkpoint.stage == Stage::Frozen).then_some(checkpoint.until_ns)
    }

    /// All run on, and execs that waited for them begin.
    pub(crate) fn thaw(&mut self) {
        let Some(checkpoint) = self.checkpoint.take() else { return };
        let mut left = Leftovers::default();
        for container in checkpoint.containers.iter().filter_map(|key| self.containers.get(key)) {
            left.note(handler::thaw(&container.record.plan));
        }
        self.note(left.result());
        self.note(remove_mark(&self.pod_dir));
        for (asker, plan, fds) in checkpoint.waiting {
            // Whoever is gone wants nothing any more.
            if self.daemons.contains_key(&asker.daemon) {
                self.exec(asker, plan, fds);
            }
        }
    }

    /// Whether criu, or somebody else who traces, is in a process that is to be written down.
    pub(crate) fn is_criu_inside(&self) -> bool {
        self.checkpointed().any(|container| handler::is_traced(&container.record.plan))
    }

    /// Whether its processes stand still; an exec in it would too, half-way.
    pub(crate) fn is_frozen(&self, container_id: &str) -> bool {
        self.checkpointed().any(|container| container.id() == container_id)
    }

    /// The containers of the checkpoint that is being made.
    fn checkpointed(&self) -> impl Iterator<Item = &Container> {
        let keys = self.checkpoint.iter().flat_map(|checkpoint| &checkpoint.containers);
        keys.filter_map(|key| self.containers.get(key))
    }

    /// One that is killed before it began never begins.
    pub(crate) fn forget_waiting_exec(&mut self, exec_id: &str) {
        let Some(Checkpoint { waiting, .. }) = &mut self.checkpoint else { return };
        let Some(at) = waiting.iter().position(|(_, plan, _)| plan.exec_id == exec_id) else { return };
        let (asker, ..) = waiting.remove(at);
        let message = format!("exec {exec_id} was given up as it waited for the end of a checkpoint");
        self.answer(asker, Err(Error::refused(RefusalKind::State, message)), Vec::new());
    }

    pub(crate) fn exec_later(&mut self, asker: Asker, plan: ExecPlan, fds: Vec<OwnedFd>) {
        match self.checkpoint.as_mut().filter(|checkpoint| checkpoint.waiting.len() < MAX_WAITING) {
            Some(checkpoint) => checkpoint.waiting.push((asker, plan, fds)),
            None => {
                let message = format!(
                    "a checkpoint of container {} is being made, and {MAX_WAITING} execs wait for its end",
                    plan.container_id
                );
                self.answer(asker, Err(Error::refused(RefusalKind::State, message)), Vec::new());
            }
        }
    }

    /// Lets run on whom an earlier monitor froze, once nobody can freeze them again.
    pub(crate) fn thaw_what_was_left(&mut self) {
        let mark: Mark = match record::read(&mark_path(&self.pod_dir)) {
            Ok(Some(mark)) => mark,
            Ok(None) => return,
            Err(error) => return self.journal.note(&error.chain()),
        };
        self.note(mark.child.map_or(Ok(()), outlast));
        let left = self.containers.values().filter(|it| mark.container_ids.iter().any(|id| id == it.id()));
        let thawed: Vec<_> = left.map(|container| handler::thaw(&container.record.plan)).collect();
        thawed.into_iter().for_each(|thawed| self.note(thawed));
        self.journal.note("a checkpoint was not finished; its containers run on");
        self.note(remove_mark(&self.pod_dir));
    }
}

/// Waits for the end of the child that an earlier monitor had, or sees to it.
fn outlast(child: Birth) -> Result<(), Error> {
    let Some(pidfd) = child.open() else { return Ok(()) };
    if reap::those_that_stay(&[child.pid], LAST_DUMP).is_empty() {
        return Ok(());
    }
    reap::kill(pidfd.as_fd()).named("killing", "the child of a checkpoint")?;
    reap::those_that_stay(&[child.pid], LAST_DEATH);
    Ok(())
}

/// In a child. One after the other is near enough: what talks to another container finds it silent, as it would a slow one.
fn dump(orders: &[(ContainerPlan, Dump)], criu: &Path) -> Result<(), Error> {
    orders.iter().try_for_each(|(plan, _)| handler::freeze(plan))?;
    orders.iter().try_for_each(|(plan, dump)| handler::dump(plan, dump, criu))
}

/// The terminal's other end is ours, and criu can't leave it with us.
fn refuse_terminal(container: &Container) -> Result<(), Error> {
    if !container.record.plan.terminal {
        return Ok(());
    }
    let message = format!(
        "container {} has a terminal (tty), which can't be checkpointed; run it without one",
        container.id()
    );
    Err(Error::refused(RefusalKind::Unsupported, message))
}

fn mark_path(pod_dir: &Path) -> PathBuf {
    pod_dir.join("monitor.frozen")
}

fn write_mark(pod_dir: &Path, mark: &Mark) -> Result<(), Error> {
    record::write(&mark_path(pod_dir), mark)
}

fn remove_mark(pod_dir: &Path) -> Result<(), Error> {
    stdio::remove(&mark_path(pod_dir))
}
