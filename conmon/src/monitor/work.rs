//! Work that children do ([`crate::job`]): begun, heard of, given up, and settled.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use conmon_protocol::{Answer, ContainerPlan, Images, RefusalKind};
use rustix::event::{PollFd, PollFlags, Timespec, epoll::EventFlags, poll};

use super::{Asker, Monitor};
use crate::clock;
use crate::container::{self, Begun, Container, Key, Origin};
use crate::error::{Error, Named as _};
use crate::handler::Made;
use crate::job::{self, Abandoned, GivenUp, Job, Of, Task, Until, Word, until};
use crate::poll::Token;
use crate::reap::Ended;
use crate::record::ContainerRecord;

pub(super) const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// Children of this pod that the kernel holds; who asks for more is refused at once.
const MAX_ABANDONED: usize = 8;
/// Ends that are remembered for what is being made.
const MAX_STRAYS: usize = 64;
/// A killed child that no volume holds is gone long before.
const CRIUS_DEATH: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

impl Monitor {
    pub(crate) fn look(&mut self, asker: Asker, paths: Vec<PathBuf>, patience_ms: u64) {
        let until = until(patience_ms);
        let key = self.next_key();
        let begun = self.refuse_what_hangs(paths.iter().map(PathBuf::as_path), until);
        let job = begun.and_then(|()| Job::look(key, asker, paths, until));
        if let Err(error) = job.and_then(|job| self.add_job(job)) {
            self.answer(asker, Err(error), Vec::new());
        }
    }

    /// Makes a container of which something may hang.
    pub(crate) fn begin_making(
        &mut self,
        key: Key,
        asker: Asker,
        plan: &ContainerPlan,
        from: Option<&Images>,
    ) {
        let until = until(from.map_or(plan.patience_ms, |from| from.patience_ms));
        let origin = from.map_or(Origin::Command, |_| Origin::Images);
        let paths = plan.volumes.iter().map(|volume| volume.path.as_path());
        if let Err(error) = self.refuse_what_hangs(paths, until) {
            return self.answer(asker, Err(error), Vec::new());
        }
        let job = Begun::begin(plan, origin)
            .and_then(|(begun, ends)| Job::make(key, asker, begun, (ends, from), until));
        if let Err(error) = job.and_then(|job| self.add_job(job)) {
            let error = match container::unmake(plan) {
                Ok(()) => error,
                Err(left) => Error::Left(vec![error, left]),
            };
            self.answer(asker, Err(error), Vec::new());
        }
    }

    pub(crate) fn add_job(&mut self, job: Job) -> Result<(), Error> {
        self.poll.watch(&job.line, Token::Job(job.key), EventFlags::IN).named("watching", "a child")?;
        self.jobs.insert(job.key, job);
        Ok(())
    }

    /// The same for a child that is not simply to be dropped: one that can't be heard is given up, and what it began is
    /// settled as with any that is.
    pub(crate) fn keep_job(&mut self, job: Job) -> Result<(), Error> {
        let key = job.key;
        let watched =
            self.poll.watch(&job.line, Token::Job(key), EventFlags::IN).named("watching", "a child");
        self.jobs.insert(key, job);
        if watched.is_err() {
            self.give_up_job(key);
        }
        watched
    }

    /// Whoever asks a server that is known to be silent would only be one more to wait for it.
    fn refuse_what_hangs<'a>(
        &mut self,
        mut paths: impl Iterator<Item = &'a Path>,
        until: Until,
    ) -> Result<(), Error> {
        self.forget_ended();
        let held: Vec<Option<PathBuf>> = self.abandoned.iter().filter_map(path_of).collect();
        let hangs = |path: &&Path| held.iter().any(|it| it.as_deref() == Some(path));
        if let Some(path) = paths.find(hangs) {
            return Err(job::silent(path, until.patience_ms));
        }
        if held.len() < MAX_ABANDONED {
            return Ok(());
        }
        let paths: Vec<String> = held.iter().flatten().map(|path| path.display().to_string()).collect();
        let message =
            format!("{MAX_ABANDONED} children of this pod wait for volumes already: {}", paths.join(", "));
        Err(Error::refused(RefusalKind::TimedOut, message))
    }

    pub(super) fn forget_ended(&mut self) {
        self.abandoned.retain(|abandoned| !has_ended(abandoned));
    }

    pub(crate) fn is_being_made(&self, id: &str) -> Option<Key> {
        let making = |job: &&Job| match &job.task {
            Task::Make { begun, .. } => begun.record.plan.container_id == id,
            _ => false,
        };
        self.jobs.values().find(making).map(|job| job.key)
    }

    pub(crate) fn makings(&self) -> usize {
        self.jobs.values().filter(|job| matches!(job.task, Task::Make { .. })).count()
    }

    /// Something is being made, taken away or written down that the pod's end must wait for.
    pub(crate) fn is_busy(&self) -> bool {
        let is_waited_for =
            |job: &Job| matches!(job.task, Task::Make { .. } | Task::Unmake { .. } | Task::Dump { .. });
        self.jobs.values().any(is_waited_for)
    }

    /// A child of ours ended that nobody knows: it may be the process that is being made or started.
    pub(super) fn stray_ended(&mut self, ended: Ended) {
        if self.jobs.is_empty() {
            self.strays.clear();
            return;
        }
        if self.strays.len() == MAX_STRAYS {
            self.strays.remove(0);
        }
        self.strays.push(ended);
    }

    pub(super) fn take_stray(&mut self, pid: i32) -> Option<Ended> {
        let at = self.strays.iter().position(|ended| ended.pid == pid)?;
        Some(self.strays.remove(at))
    }

    pub(crate) fn hear_job(&mut self, key: Key) {
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        match job.hear() {
            Ok(None) => {}
            Err(job::Silent) => self.settle(key),
            Ok(Some(heard)) => {
                if let Some(job) = self.remove_job(key) {
                    self.conclude(job.key, job.task, job.given_up, Ok(heard));
                }
            }
        }
    }

    /// Each task ends here, well or badly.
    fn conclude(&mut self, key: Key, task: Task, given_up: Option<GivenUp>, heard: Result<Heard, Error>) {
        match task {
            Task::Look { asker } => {
                let answer = heard.and_then(|(word, _)| match word {
                    Word::Seen(seen) => Ok(Answer::Looked(seen)),
                    word => Err(refusal_in(word)),
                });
                self.answer(asker, answer, Vec::new());
            }
            Task::Dump { asker, .. } => {
                let in_time = given_up.map_or(Ok(()), |_| Err(out_of_time()));
                self.checkpoint_done(asker, done(heard).and(in_time));
                self.go_on_unmaking();
            }
            Task::Make { asker, begun } => {
                let record = begun.record.clone();
                match made(heard).and_then(|made| begun.finish(key, made, &self.poll)) {
                    Ok(container) => self.making_done(asker, container, given_up),
                    Err(error) => self.making_failed(key, asker, record, error),
                }
            }
            Task::Exec { asker, begun } => match (made(heard), given_up) {
                (Ok(made), None) => {
                    let (exec, console) = begun.finish(key, made.process);
                    self.exec_started(asker, exec, console);
                }
                (Ok(made), Some(_)) => {
                    // It was killed, or is about to be; its end is nobody's.
                    self.note(begun.finish(key, made.process).0.kill());
                    self.answer(asker, Err(too_late()), Vec::new());
                }
                (Err(error), _) => {
                    let container = self.containers.get(&begun.container);
                    let error = container.map_or_else(unwanted, |container| container.or_has_ended(error));
                    self.answer(asker, Err(error), Vec::new());
                }
            },
            Task::Start { asker, container, at_ns } => {
                self.start_done(asker, container, at_ns, done(heard));
            }
            Task::Order { asker, container, of } => self.order_done(asker, container, of, done(heard)),
            Task::Unmake { container } => {
                self.unmade(container, done(heard));
                self.go_on_unmaking();
            }
        }
    }

    /// Its time may be over: then it is as good as if it were not.
    fn making_done(&mut self, asker: Asker, container: Container, given_up: Option<GivenUp>) {
        let (key, pid) = (container.key, container.life.pid().unwrap_or_default());
        self.add_made(container);
        let answer = match given_up {
            None | Some(GivenUp::Late) => Ok(Answer::Created { pid }),
            Some(GivenUp::Unwanted) => {
                self.kill_or_unmake(key);
                Err(unwanted())
            }
        };
        self.answer(asker, answer, Vec::new());
        if let Some(ended) = self.take_stray(pid) {
            self.container_ended(key, ended.code);
        }
    }

    /// What it left is taken away, or stays to be taken away when somebody asks again.
    fn making_failed(&mut self, key: Key, asker: Asker, record: ContainerRecord, error: Error) {
        self.failures.push((key, asker, error));
        self.containers.insert(key, Container::leftover(key, record));
        self.unmake_container(key);
        self.go_on_unmaking();
    }

    /// The pod's end waited for what is done now.
    fn go_on_unmaking(&mut self) {
        if !self.unmakes.is_empty() {
            self.unmake_pod_when_empty();
        }
    }

    /// Nothing more is heard of a job.
    fn settle(&mut self, key: Key) {
        let Some(job) = self.remove_job(key) else {
            return;
        };
        let (error, given_up) = (job.refusal(), job.given_up);
        let (task, abandoned) = job.abandoned();
        if matches!(task, Task::Dump { .. }) {
            // Only when criu is gone can nobody freeze them again.
            wait_for(&abandoned, CRIUS_DEATH);
        }
        if !has_ended(&abandoned) {
            self.abandoned.push(abandoned);
        }
        self.conclude(key, task, given_up, Err(error));
    }

    fn remove_job(&mut self, key: Key) -> Option<Job> {
        let job = self.jobs.remove(&key)?;
        self.poll.unwatch(&job.line);
        Some(job)
    }

    /// What takes away is not given up.
    pub(crate) fn give_up_job(&mut self, key: Key) {
        if let Some(job) = self.jobs.get_mut(&key)
            && !matches!(job.task, Task::Unmake { .. })
        {
            job.give_up(GivenUp::Unwanted, clock::monotonic_ns());
        }
    }

    /// What is done to a container that is to be taken away.
    pub(crate) fn give_up_jobs_in(&mut self, container: Key) {
        let is_in = |job: &&Job| match &job.task {
            Task::Exec { begun, .. } => begun.container == container,
            Task::Start { container: of, .. } | Task::Order { container: of, .. } => *of == container,
            Task::Look { .. } | Task::Make { .. } | Task::Dump { .. } | Task::Unmake { .. } => false,
        };
        let keys: Vec<Key> = self.jobs.values().filter(is_in).map(|job| job.key).collect();
        keys.into_iter().for_each(|key| self.give_up_job(key));
    }

    /// Those whose time is over are given up, and those given up long enough are settled.
    pub(crate) fn meet_jobs_deadlines(&mut self, now_ns: u64) {
        let due: Vec<Key> =
            self.jobs.values().filter(|job| job.until_ns <= now_ns).map(|job| job.key).collect();
        for key in due {
            // Only where it decides: it takes a look at every process.
            let is_criu_inside = self.jobs.get(&key).is_some_and(Job::may_finish) && self.is_criu_inside();
            let Some(job) = self.jobs.get_mut(&key) else { continue };
            if job.given_up.is_none() {
                job.give_up(GivenUp::Late, now_ns);
            } else if !job.goes_on(is_criu_inside, now_ns) {
                self.settle(key);
            }
        }
    }
}

fn has_ended(abandoned: &Abandoned) -> bool {
    let ended = |pidfd: &OwnedFd| {
        let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&NO_TIME)).is_ok_and(|ready| ready > 0)
    };
    abandoned.pidfds.iter().all(ended)
}

fn wait_for(abandoned: &Abandoned, patience: Timespec) {
    for pidfd in &abandoned.pidfds {
        // One that stays is held by the kernel, and does nothing more.
        let _ = poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&patience));
    }
}

fn path_of(abandoned: &Abandoned) -> Option<Option<PathBuf>> {
    match &abandoned.of {
        Of::Path(path) => Some(path.clone()),
        Of::Container(_) => None,
    }
}

/// A word and the descriptors that rode with it.
type Heard = (Word, Vec<OwnedFd>);

fn made(heard: Result<Heard, Error>) -> Result<Made, Error> {
    match heard? {
        (word @ Word::Made { .. }, fds) => word.made(fds).ok_or_else(nonsense),
        (word, _) => Err(refusal_in(word)),
    }
}

fn done(heard: Result<Heard, Error>) -> Result<(), Error> {
    match heard?.0 {
        Word::Done => Ok(()),
        word => Err(refusal_in(word)),
    }
}

fn refusal_in(word: Word) -> Error {
    match word {
        Word::Failed(refusal) => Error::refused(refusal.kind, refusal.message),
        Word::At(_) | Word::Seen(_) | Word::Made { .. } | Word::Done => nonsense(),
    }
}

fn nonsense() -> Error {
    Error::refused(RefusalKind::Failed, "a child of the monitor spoke nonsense")
}

fn too_late() -> Error {
    Error::refused(RefusalKind::TimedOut, "the process was started as its time was over, and was killed")
}

fn out_of_time() -> Error {
    Error::refused(RefusalKind::TimedOut, "the checkpoint was made as its time was over")
}

fn unwanted() -> Error {
    Error::refused(RefusalKind::State, "the container was taken away meanwhile")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::poll::Poll;

    /// As when the kernel has no memory to watch it with: a child that nobody would hear freezes nothing for ever.
    #[test]
    fn a_checkpoint_whose_child_can_not_be_watched_is_given_up_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut monitor = Monitor::new(Poll::new().unwrap(), dir.path());
        let (key, asker) = (monitor.next_key(), Asker { daemon: 7, seq: 1 });
        let task = Task::Dump { asker, names: "c1".into() };
        let hang = || loop {
            std::thread::sleep(std::time::Duration::from_secs(1000));
        };
        let mut job = Job::order(key, task, hang, until(60_000)).unwrap();
        job.line = tempfile::tempfile().unwrap().into();
        monitor.checkpoint = Some(Checkpoint::begun(asker, Vec::new(), key, until(60_000)));
        let mark = dir.path().join("monitor.frozen");
        std::fs::write(&mark, "").unwrap();
        monitor.keep_job(job).unwrap_err();
        assert!(mark.exists(), "as long as the child may freeze, the next monitor must know");
        for _ in ["killed", "settled"] {
            let later = monitor.jobs[&key].until_ns;
            monitor.meet_jobs_deadlines(later);
        }
        assert!(monitor.jobs.is_empty() && monitor.abandoned.is_empty(), "the child lives on");
        assert!(monitor.checkpoint.is_none() && !mark.exists());
    }
}
