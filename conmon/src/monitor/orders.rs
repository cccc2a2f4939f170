//! What a container's runtime does to a container that is there: lets it go, enters it, signals it, limits it. By a child
//! where that may hang, since a server may be away or another runtime's command may not end.

use std::os::fd::OwnedFd;

use conmon_protocol::{Answer, ContainerPlan, ExecPlan, Refusal, RefusalKind, Scope};

use super::work::NO_TIME;
use super::{Asker, Monitor};
use crate::container::{self, Container, Key};
use crate::error::Error;
use crate::exec::{self, Exec, MAX_EXECS};
use crate::handler;
use crate::job::{Job, Of, OrderOf, Task, Until, until};
use crate::life::{Asked, Life};

/// Processes that the kernel holds for one container; whoever asks for more is refused at once.
const MAX_HELD: usize = 4;
/// A little longer than a runtime's command may take before it is killed, so that its end is what is told.
const COMMAND_MS: u64 = 70_000;

impl Monitor {
    pub(crate) fn start(&mut self, asker: Asker, id: &str) {
        match self.try_start(asker, id) {
            Ok(Some(started_at_ns)) => self.answer(asker, Ok(Answer::Started { started_at_ns }), Vec::new()),
            Ok(None) => {}
            Err(error) => self.answer(asker, Err(error), Vec::new()),
        }
    }

    /// `None`: a child does it, and tells.
    fn try_start(&mut self, asker: Asker, id: &str) -> Result<Option<i64>, Error> {
        let container = self.find(id)?;
        let (key, may_hang) = (container.key, container.may_hang());
        if let (false, Life::Running { started_at_ns, .. }) = (container.may(Asked::Start)?, container.life) {
            return Ok(Some(started_at_ns));
        }
        if self.is_being_started(key) {
            return Err(Error::refused(RefusalKind::State, format!("container {id} is being started")));
        }
        self.refuse_what_hangs_in(key)?;
        let container = self.find_mut(id)?;
        let at_ns = container.begin_start()?;
        let plan = container.record.plan.clone();
        let start = match container.record.restored {
            true => handler::start_restored,
            false => handler::start,
        };
        if !may_hang {
            return container.finish_start(at_ns, start(&plan)).map(Some);
        }
        let task = Task::Start { asker, container: key, at_ns };
        match self.begin_order(task, &plan, || start(&plan)) {
            Ok(()) => Ok(None),
            Err(error) => self.find_mut(id)?.finish_start(at_ns, Err(error)).map(Some),
        }
    }

    pub(super) fn start_done(&mut self, asker: Asker, key: Key, at_ns: i64, started: Result<(), Error>) {
        let Some(container) = self.containers.get_mut(&key) else {
            return self.answer(asker, Err(gone()), Vec::new());
        };
        let pid = container.life.pid();
        let started = container.finish_start(at_ns, started);
        let answer = started.map(|started_at_ns| Answer::Started { started_at_ns });
        self.answer(asker, answer, Vec::new());
        // It may have ended since; its start is told first.
        if let Some(ended) = pid.and_then(|pid| self.take_stray(pid)) {
            self.container_ended(key, ended.code);
        }
    }

    pub(crate) fn signal(&mut self, asker: Asker, id: &str, signal: i32, scope: Scope) {
        let may = self.find(id).and_then(|container| container.may(Asked::Signal));
        match may {
            Ok(true) => self.order(asker, id, OrderOf::Signal, |plan| handler::kill(plan, signal, scope)),
            Ok(false) => self.answer(asker, Ok(Answer::Done), Vec::new()),
            Err(error) => self.answer(asker, Err(error), Vec::new()),
        }
    }

    pub(crate) fn update(&mut self, asker: Asker, id: &str, resources: serde_json::Value) {
        let may = self
            .find(id)
            .and_then(|container| container.may(Asked::Update).map(|_| container.record.cgroup.clone()));
        match may {
            Ok(cgroup) => self.order(asker, id, OrderOf::Update, |plan| {
                handler::update(plan, cgroup.as_deref(), resources)
            }),
            Err(error) => self.answer(asker, Err(error), Vec::new()),
        }
    }

    fn order(
        &mut self,
        asker: Asker,
        id: &str,
        of: OrderOf,
        work: impl FnOnce(&ContainerPlan) -> Result<(), Error>,
    ) {
        let Ok(container) = self.find(id) else { return self.answer(asker, Err(gone()), Vec::new()) };
        let (key, plan) = (container.key, container.record.plan.clone());
        if !handler::is_command(&plan) {
            return self.order_done(asker, key, of, work(&plan));
        }
        let task = Task::Order { asker, container: key, of };
        if let Err(error) = self.begin_order(task, &plan, || work(&plan)) {
            self.answer(asker, Err(error), Vec::new());
        }
    }

    pub(super) fn order_done(&mut self, asker: Asker, key: Key, of: OrderOf, done: Result<(), Error>) {
        let done = match (self.containers.get(&key), of) {
            (None, _) => done,
            (Some(container), OrderOf::Signal) => container.or_needs_none(done),
            (Some(container), OrderOf::Update) => done.map_err(|error| container.or_has_ended(error)),
        };
        self.answer(asker, done.map(|()| Answer::Done), Vec::new());
    }

    pub(super) fn begin_order(
        &mut self,
        task: Task,
        plan: &ContainerPlan,
        work: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let key = self.next_key();
        let enters = matches!(task, Task::Start { .. });
        let until = if enters { patience_to_enter(plan) } else { patience_for(plan) };
        let job = Job::order(key, task, work, until)?;
        self.add_job(job)
    }

    pub(crate) fn exec(&mut self, asker: Asker, plan: ExecPlan, fds: Vec<OwnedFd>) {
        if self.is_frozen(&plan.container_id) {
            return self.exec_later(asker, plan, fds);
        }
        if let Err(error) = self.try_exec(asker, plan, fds) {
            self.answer(asker, Err(error), Vec::new());
        }
    }

    fn try_exec(&mut self, asker: Asker, plan: ExecPlan, fds: Vec<OwnedFd>) -> Result<(), Error> {
        let container = self.find(&plan.container_id)?;
        container.may(Asked::Exec)?;
        let of = container.key;
        self.refuse_exec(&plan.exec_id)?;
        self.refuse_what_hangs_in(of)?;
        self.say_that_exec_begins(&plan.exec_id);
        let asked = exec::Asked::of(of, plan, fds)?;
        let key = self.next_key();
        let Some(container) = self.containers.get(&of) else { return Err(gone()) };
        let plan = &container.record.plan;
        if container.may_hang() {
            let until = patience_to_enter(plan).or_at(asked.begun.deadline_ns);
            let job = Job::exec(key, asker, plan, asked, until)?;
            return self.add_job(job);
        }
        let entered = handler::exec(plan, asked.process, asked.ends);
        let entered = entered.map_err(|error| container.or_has_ended(error))?;
        let (exec, console) = asked.begun.finish(key, entered);
        self.exec_started(asker, exec, console);
        Ok(())
    }

    pub(super) fn exec_started(&mut self, asker: Asker, exec: Exec, console: Option<OwnedFd>) {
        let pid = exec.pid;
        self.give_exec_to_keep(&exec);
        self.execs.push(exec);
        self.answer(asker, Ok(Answer::ExecStarted { pid }), console.into_iter().collect());
        if let Some(ended) = self.take_stray(pid) {
            self.child_ended(ended);
        }
    }

    fn refuse_exec(&self, id: &str) -> Result<(), Error> {
        let starting = |job: &&Job| matches!(&job.task, Task::Exec { .. });
        if self.execs.iter().any(|exec| exec.id == id) || self.exec_job(id).is_some() {
            return Err(Error::refused(RefusalKind::Exists, format!("exec {id} exists")));
        }
        if self.execs.len() + self.jobs.values().filter(starting).count() >= MAX_EXECS {
            let message = format!("{MAX_EXECS} processes are being executed in this pod already");
            return Err(Error::refused(RefusalKind::Failed, message));
        }
        Ok(())
    }

    pub(crate) fn kill_exec(&mut self, id: &str) -> Result<Answer, Error> {
        if let Some(exec) = self.execs.iter().find(|exec| exec.id == id) {
            exec.kill()?;
        } else if let Some(key) = self.exec_job(id) {
            self.give_up_job(key);
        } else {
            self.forget_waiting_exec(id);
        }
        Ok(Answer::Done)
    }

    fn exec_job(&self, id: &str) -> Option<Key> {
        let starts = |job: &&Job| matches!(&job.task, Task::Exec { begun, .. } if begun.exec_id == id);
        self.jobs.values().find(starts).map(|job| job.key)
    }

    pub(super) fn is_being_started(&self, container: Key) -> bool {
        let starts = |job: &Job| matches!(job.task, Task::Start { container: of, .. } if of == container);
        self.jobs.values().any(starts)
    }

    /// A probe that hangs comes again every few seconds; each would leave one more process to the kernel.
    fn refuse_what_hangs_in(&mut self, container: Key) -> Result<(), Error> {
        self.forget_ended();
        let held = self.abandoned.iter().filter(|it| it.of == Of::Container(container)).count();
        if held < MAX_HELD {
            return Ok(());
        }
        let id = self.containers.get(&container).map(Container::id).unwrap_or_default();
        let message = format!(
            "the kernel holds what was started {held} times in container {id}; does a volume of its not answer?"
        );
        Err(Error::refused(RefusalKind::TimedOut, message))
    }

    /// Takes an ended container away, or what a making left of one. What fails may be asked for again.
    pub(crate) fn unmake_container(&mut self, key: Key) {
        let Some(container) = self.containers.get(&key) else { return };
        let (plan, unfinished) = (container.record.plan.clone(), container.record.process.is_none());
        let unmake = || match unfinished {
            false => container::unmake(&plan),
            true => container::unmake_unfinished(&plan, NO_TIME),
        };
        if !handler::is_command(&plan) {
            return self.unmade(key, unmake());
        }
        let unmakes = |job: &Job| matches!(job.task, Task::Unmake { container } if container == key);
        if !self.jobs.values().any(unmakes)
            && let Err(error) = self.begin_order(Task::Unmake { container: key }, &plan, unmake)
        {
            self.unmade(key, Err(error));
        }
    }

    /// Tells who asked for it to be made in vain, and who asked for it to be taken away.
    pub(super) fn unmade(&mut self, key: Key, result: Result<(), Error>) {
        let left = result.as_ref().err().map(Error::refusal);
        let refusal = |refusal: &Refusal| Error::refused(refusal.kind, refusal.message.clone());
        if left.is_none() {
            self.containers.remove(&key);
        }
        let (failures, others) = std::mem::take(&mut self.failures).into_iter().partition(|it| it.0 == key);
        self.failures = others;
        let failures: Vec<(Key, Asker, Error)> = failures;
        for (_, asker, failed) in failures {
            let error = match &left {
                None => failed,
                Some(left) => Error::LeftBy { failed: Box::new(failed), left: Box::new(refusal(left)) },
            };
            self.answer(asker, Err(error), Vec::new());
        }
        for asker in self.waiting_for(key) {
            let answer = left.as_ref().map_or(Ok(Answer::Done), |left| Err(refusal(left)));
            self.answer(asker, answer, Vec::new());
        }
        if !self.unmakes.is_empty() {
            self.left.note(result);
        }
    }
}

fn patience_for(plan: &ContainerPlan) -> Until {
    until(if handler::is_command(plan) { COMMAND_MS } else { plan.patience_ms })
}

/// A program or a working directory may lie on a volume, which gets its own time, whosever command asks it.
fn patience_to_enter(plan: &ContainerPlan) -> Until {
    if plan.volumes.is_empty() { patience_for(plan) } else { until(plan.patience_ms) }
}

fn gone() -> Error {
    Error::refused(RefusalKind::NotFound, "the container was taken away meanwhile")
}
