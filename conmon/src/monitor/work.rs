//! Work that children do ([`crate::job`]): begun, heard of, given up, and settled.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use conmon_protocol::{Answer, ContainerPlan, RefusalKind};
use rustix::event::{PollFd, PollFlags, Timespec, epoll::EventFlags, poll};

use super::{Asker, Monitor};
use crate::clock;
use crate::container::{self, Begun, Container, Key};
use crate::error::{Error, Named as _};
use crate::job::{self, Abandoned, GivenUp, Job, Task, Until, Word};
use crate::poll::Token;
use crate::reap::Ended;
use crate::record::ContainerRecord;

/// When nobody says how long a volume may take to answer. A dead server takes for ever, a slow one seconds.
const PATIENCE_MS: u64 = 30_000;
pub(super) const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// Children of this pod that the kernel holds; who asks for more is refused at once.
const MAX_ABANDONED: usize = 8;
/// Ends that are remembered for what is being made.
const MAX_STRAYS: usize = 64;

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

    /// Makes a container that has volumes.
    pub(crate) fn begin_making(&mut self, key: Key, asker: Asker, plan: &ContainerPlan) {
        let until = until(plan.patience_ms);
        let paths = plan.volumes.iter().map(|volume| volume.path.as_path());
        if let Err(error) = self.refuse_what_hangs(paths, until) {
            return self.answer(asker, Err(error), Vec::new());
        }
        let job = Begun::begin(plan).and_then(|(begun, ends)| Job::make(key, asker, begun, ends, until));
        if let Err(error) = job.and_then(|job| self.add_job(job)) {
            let error = match container::unmake(plan) {
                Ok(()) => error,
                Err(left) => Error::Left(vec![error, left]),
            };
            self.answer(asker, Err(error), Vec::new());
        }
    }

    fn add_job(&mut self, job: Job) -> Result<(), Error> {
        self.poll.watch(&job.line, Token::Job(job.key), EventFlags::IN).named("watching", "a child")?;
        self.jobs.insert(job.key, job);
        Ok(())
    }

    /// Whoever asks a server that is known to be silent would only be one more to wait for it.
    fn refuse_what_hangs<'a>(
        &mut self,
        mut paths: impl Iterator<Item = &'a Path>,
        until: Until,
    ) -> Result<(), Error> {
        self.abandoned.retain(|abandoned| !has_ended(abandoned));
        let hangs = |path: &&Path| self.abandoned.iter().any(|it| it.path.as_deref() == Some(path));
        if let Some(path) = paths.find(hangs) {
            return Err(job::silent(path, until.patience_ms));
        }
        if self.abandoned.len() < MAX_ABANDONED {
            return Ok(());
        }
        let paths: Vec<String> = self
            .abandoned
            .iter()
            .filter_map(|it| it.path.as_ref())
            .map(|path| path.display().to_string())
            .collect();
        let message =
            format!("{MAX_ABANDONED} children of this pod wait for volumes already: {}", paths.join(", "));
        Err(Error::refused(RefusalKind::TimedOut, message))
    }

    pub(crate) fn is_being_made(&self, id: &str) -> Option<Key> {
        let making = |job: &&Job| match &job.task {
            Task::Make { begun, .. } => begun.record.plan.container_id == id,
            Task::Look { .. } => false,
        };
        self.jobs.values().find(making).map(|job| job.key)
    }

    pub(crate) fn is_making(&self) -> bool {
        self.jobs.values().any(|job| matches!(job.task, Task::Make { .. }))
    }

    /// A child of ours ended that nobody knows: it may be the first process of what is being made.
    pub(super) fn stray_ended(&mut self, ended: Ended) {
        if !self.is_making() {
            self.strays.clear();
        } else if self.strays.len() < MAX_STRAYS {
            self.strays.push(ended);
        }
    }

    pub(crate) fn hear_job(&mut self, key: Key) {
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        match job.hear() {
            Ok(None) => {}
            Err(job::Silent) => self.settle(key),
            Ok(Some((word, fds))) => {
                if let Some(job) = self.remove_job(key) {
                    self.take_word(job, word, fds);
                }
            }
        }
    }

    fn take_word(&mut self, job: Job, word: Word, fds: Vec<OwnedFd>) {
        let nonsense = || Error::refused(RefusalKind::Failed, "a child of the monitor spoke nonsense");
        match job.task {
            Task::Look { asker } => {
                let answer = match word {
                    Word::Seen(seen) => Ok(Answer::Looked(seen)),
                    Word::Failed(refusal) => Err(Error::refused(refusal.kind, refusal.message)),
                    Word::At(_) | Word::Made { .. } => Err(nonsense()),
                };
                self.answer(asker, answer, Vec::new());
            }
            Task::Make { asker, begun } => {
                let record = begun.record.clone();
                let made = match word {
                    Word::Failed(refusal) => Err(Error::refused(refusal.kind, refusal.message)),
                    word => word.made(fds).ok_or_else(nonsense),
                };
                match made.and_then(|made| begun.finish(job.key, made, &self.poll)) {
                    Ok(container) => self.making_done(asker, container, job.given_up),
                    Err(error) => self.making_failed(job.key, asker, record, error),
                }
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
                Err(Error::refused(RefusalKind::State, "the container was taken away meanwhile"))
            }
        };
        self.answer(asker, answer, Vec::new());
        let ended = std::mem::take(&mut self.strays).into_iter().find(|ended| ended.pid == pid);
        if let Some(ended) = ended {
            self.container_ended(key, ended.code);
        }
    }

    /// What it left is taken away, or stays to be taken away when somebody asks again.
    fn making_failed(&mut self, key: Key, asker: Asker, record: ContainerRecord, error: Error) {
        let unmade = container::unmake_unfinished(&record.plan, NO_TIME);
        let left = unmade.as_ref().err().map(Error::refusal);
        let error = match unmade {
            Ok(()) => error,
            Err(left) => {
                self.containers.insert(key, Container::leftover(key, record));
                Error::LeftBy { failed: Box::new(error), left: Box::new(left) }
            }
        };
        self.answer(asker, Err(error), Vec::new());
        for asker in self.waiting_for(key) {
            let answer = match &left {
                None => Ok(Answer::Done),
                Some(refusal) => Err(Error::refused(refusal.kind, refusal.message.clone())),
            };
            self.answer(asker, answer, Vec::new());
        }
        if !self.unmakes.is_empty() {
            let left = left.map(|refusal| Error::refused(refusal.kind, refusal.message));
            self.left.note(left.map_or(Ok(()), Err));
            self.unmake_pod_when_empty();
        }
    }

    /// Nothing more is heard of a job.
    fn settle(&mut self, key: Key) {
        let Some(job) = self.remove_job(key) else {
            return;
        };
        let error = job.refusal();
        let (asker, record) = match &job.task {
            Task::Look { asker } => (*asker, None),
            Task::Make { asker, begun } => (*asker, Some(begun.record.clone())),
        };
        let abandoned = job.abandoned();
        if !has_ended(&abandoned) {
            self.abandoned.push(abandoned);
        }
        match record {
            None => self.answer(asker, Err(error), Vec::new()),
            Some(record) => self.making_failed(key, asker, record, error),
        }
    }

    fn remove_job(&mut self, key: Key) -> Option<Job> {
        let job = self.jobs.remove(&key)?;
        self.poll.unwatch(&job.line);
        Some(job)
    }

    pub(crate) fn give_up_job(&mut self, key: Key) {
        if let Some(job) = self.jobs.get_mut(&key) {
            job.give_up(GivenUp::Unwanted, clock::monotonic_ns());
        }
    }

    /// Those whose time is over are given up, and those given up long enough are settled.
    pub(crate) fn meet_jobs_deadlines(&mut self, now_ns: u64) {
        let due: Vec<Key> =
            self.jobs.values().filter(|job| job.until_ns <= now_ns).map(|job| job.key).collect();
        for key in due {
            match self.jobs.get_mut(&key) {
                Some(job) if job.given_up.is_none() => job.give_up(GivenUp::Late, now_ns),
                Some(_) => self.settle(key),
                None => {}
            }
        }
    }
}

fn until(patience_ms: u64) -> Until {
    let patience_ms = if patience_ms == 0 { PATIENCE_MS } else { patience_ms };
    Until { at_ns: clock::monotonic_ns().saturating_add(patience_ms.saturating_mul(1_000_000)), patience_ms }
}

fn has_ended(abandoned: &Abandoned) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(abandoned.pidfd.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&NO_TIME)).is_ok_and(|ready| ready > 0)
}
