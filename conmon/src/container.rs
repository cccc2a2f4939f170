//! One container: made, started, heard of, taken away. Each is a list of steps on values that others decided.

use std::os::fd::{AsFd as _, OwnedFd};

use conmon_protocol::{ContainerPlan, Exit, RefusalKind};
use runtime::cgroup::OomWatch;
use rustix::event::{Timespec, epoll::EventFlags};
use rustix::fs::OFlags;

use crate::clock;
use crate::error::{Error, Leftovers, Named as _};
use crate::handler::{self, Started};
use crate::keep::Returned;
use crate::life::{Answer, Asked, Heard, Life};
use crate::logfile::Log;
use crate::oom;
use crate::poll::{Poll, Token};
use crate::reap::{self, Birth};
use crate::record::{self, ContainerRecord};
use crate::stdio::{self, Streams};

mod begun;
mod streams;
mod unmake;

pub(crate) use begun::{Begun, Origin};
pub(crate) use unmake::{unmake, unmake_unfinished};

/// A number that is never used twice in this monitor.
pub(crate) type Key = u32;

/// What killed processes that nothing holds take to die, and more.
const LAST_DEATHS: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) key: Key,
    pub(crate) record: ContainerRecord,
    pub(crate) life: Life,
    pub(crate) streams: Streams,
    pub(crate) log: Log,
    /// Read from a client, not yet taken by the container; at most one packet.
    pub(crate) stdin_rest: Vec<u8>,
    /// What to do with stdin once the rest is written.
    pub(crate) stdin_ends: bool,
    /// Of a process that an earlier monitor started.
    pub(crate) inherited: Option<OwnedFd>,
    /// Tells when it runs out of memory.
    pub(crate) oom: Option<OomWatch>,
    /// Whether somebody was told that it did.
    pub(crate) oom_told: bool,
    /// How many kills its pod's cgroup had counted when the watch began.
    pub(crate) pod_oom_kills: u64,
    /// When we say that it could not be killed; 0 when nobody waits.
    pub(crate) dies_until_ns: u64,
    /// What was asked and done in part only.
    pub(crate) warnings: Vec<String>,
}

impl Container {
    /// Makes a container whose process waits. On failure nothing stays.
    pub(crate) fn make(key: Key, plan: ContainerPlan, poll: &Poll) -> Result<Container, Error> {
        let made = Begun::begin(&plan, Origin::Command).and_then(|(begun, ends)| {
            let made = handler::create(&plan, ends)?;
            begun.finish(key, made, poll)
        });
        made.map_err(|error| match unmake(&plan) {
            Ok(()) => error,
            Err(left) => Error::Left(vec![error, left]),
        })
    }

    /// What a failed making left and could not be taken away yet. It can be asked for again.
    pub(crate) fn leftover(key: Key, record: ContainerRecord) -> Container {
        let exit = Exit { code: Exit::UNSEEN, oom_killed: false, finished_at_ns: clock::now_ns() };
        Container::new(key, record, Life::Exited(exit), Streams::default(), Log::without_file(None))
    }

    fn new(key: Key, record: ContainerRecord, life: Life, streams: Streams, log: Log) -> Container {
        Container {
            key,
            record,
            life,
            streams,
            log,
            stdin_rest: Vec::new(),
            stdin_ends: false,
            inherited: None,
            oom: None,
            oom_told: false,
            pod_oom_kills: 0,
            dies_until_ns: 0,
            warnings: Vec::new(),
        }
    }

    /// A container that an earlier monitor made. Its log is opened again; what it wrote meanwhile is in the FIFOs.
    /// It is taken up whatever is wrong with it, and what is wrong is told. `None`: it was not made when its monitor
    /// was killed, nobody was told of it, and it is gone now.
    pub(crate) fn resume(
        key: Key,
        record: ContainerRecord,
        returned: Returned,
        poll: &Poll,
    ) -> (Option<Container>, Vec<Error>) {
        if record.process.is_some() {
            let (container, troubles) = Self::take_up(key, record, returned, poll);
            return (Some(container), troubles);
        }
        match unmake_unfinished(&record.plan, LAST_DEATHS) {
            Ok(()) => (None, Vec::new()),
            Err(left) => (Some(Container::leftover(key, record)), vec![left]),
        }
    }

    fn take_up(
        key: Key,
        record: ContainerRecord,
        returned: Returned,
        poll: &Poll,
    ) -> (Container, Vec<Error>) {
        let mut troubles = Vec::new();
        let exit = record::read_exit(&record.plan.container_dir).unwrap_or_else(|error| {
            troubles.push(error);
            None
        });
        if let Some(exit) = exit {
            let (streams, log) = (Streams::default(), Log::without_file(None));
            return (Container::new(key, record, Life::Exited(exit), streams, log), troubles);
        }
        let path = record.plan.log_path.as_deref();
        let log = Log::open(path).unwrap_or_else(|error| {
            troubles.push(error);
            Log::without_file(path)
        });
        let (process, streams) = stdio::take_up(&record.plan, returned);
        let life = life_of(&record);
        let mut container = Container::new(key, record, life, streams, log);
        container.inherited = process.or_else(|| container.record.process.and_then(Birth::open));
        troubles.extend(container.watch_streams(poll).err());
        // One that has ended already has no more to tell.
        if container.inherited.is_some() {
            troubles.extend(container.watch_memory(poll).err());
        }
        if let Some(pidfd) = &container.inherited {
            let watched = poll.watch(pidfd, Token::Inherited(key), EventFlags::IN);
            troubles.extend(watched.named("watching", "the process").err());
        }
        (container, troubles)
    }

    fn watch_streams(&self, poll: &Poll) -> Result<(), Error> {
        let (key, streams) = (self.key, &self.streams);
        if let Some(stdout) = &streams.stdout {
            poll.watch(stdout, Token::Stdout(key), EventFlags::IN).named("watching", "stdout")?;
        }
        if let Some(stderr) = &streams.stderr {
            poll.watch(stderr, Token::Stderr(key), EventFlags::IN).named("watching", "stderr")?;
        }
        if let Some(console) = &streams.console {
            rustix::fs::fcntl_setfl(console, OFlags::RDWR | OFlags::NONBLOCK)
                .named("opening", "the terminal")?;
            poll.watch(console, Token::Console(key), EventFlags::IN).named("watching", "the terminal")?;
        }
        Ok(())
    }

    fn watch_memory(&mut self, poll: &Poll) -> Result<(), Error> {
        self.oom = handler::watch_oom(self.record.cgroup.as_deref())?;
        self.pod_oom_kills = self.record.cgroup.as_deref().and_then(oom::pod_kills).unwrap_or(0);
        if let Some(oom) = &self.oom {
            poll.watch(oom, Token::Memory(self.key), EventFlags::IN)
                .named("watching the memory of", self.id())?;
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.plan.container_id
    }

    /// Yes, already so, or no and why.
    pub(crate) fn may(&self, asked: Asked) -> Result<bool, Error> {
        match self.life.answer(asked) {
            Answer::Do => Ok(true),
            Answer::Already => Ok(false),
            Answer::No(why) => {
                let message = format!("container {} {why}", self.id());
                Err(Error::refused(RefusalKind::State, message))
            }
        }
    }

    /// What fails in a container that is ending fails because of that, and we are yet to hear it.
    pub(crate) fn or_has_ended(&self, error: Error) -> Error {
        if self.record.process.is_some_and(Birth::is_running) {
            return error;
        }
        Error::refused(RefusalKind::State, format!("container {} has exited", self.id()))
    }

    /// The process is about to be let go on. Written down first: a monitor that dies in between must not think it waits.
    pub(crate) fn begin_start(&mut self) -> Result<i64, Error> {
        let at_ns = clock::now_ns();
        self.record.started_at_ns = Some(at_ns);
        self.record.write()?;
        Ok(at_ns)
    }

    /// Whether it goes on is known now.
    pub(crate) fn finish_start(&mut self, at_ns: i64, started: Result<(), Error>) -> Result<i64, Error> {
        if let Err(error) = started {
            self.record.started_at_ns = None;
            self.record.write()?;
            return Err(error);
        }
        self.life = self.life.hear(Heard::Started { at_ns });
        Ok(at_ns)
    }

    /// One that is ending needs no signal any more.
    pub(crate) fn or_needs_none(&self, sent: Result<(), Error>) -> Result<(), Error> {
        match sent {
            Err(_) if !self.record.process.is_some_and(Birth::is_running) => Ok(()),
            result => result,
        }
    }

    /// Whether what its runtime does to it may take for ever.
    pub(crate) fn may_hang(&self) -> bool {
        handler::is_command(&self.record.plan) || !self.record.plan.volumes.is_empty()
    }

    /// Kills it so that it can be taken away once it has ended.
    pub(crate) fn kill(&mut self, until_ns: u64) -> Result<(), Error> {
        self.life = self.life.hear(Heard::DeleteAsked);
        self.dies_until_ns = until_ns;
        let Some(pidfd) = self.record.process.and_then(Birth::open) else {
            return Ok(());
        };
        let whole = handler::kill_all(&self.record.plan, self.record.cgroup.as_deref());
        reap::kill(pidfd.as_fd()).named("killing the first process of", self.id())?;
        whole
    }

    /// Its first process ended. Says what could not be done about it; the container is Exited in any case.
    pub(crate) fn ended(&mut self, code: i32, oom_kills: u64) -> (Exit, Result<(), Error>) {
        let finished_at_ns = clock::now_ns();
        let mut left = Leftovers::default();
        self.log.end_lines(finished_at_ns);
        let oom_killed = code != 0 && oom_kills > 0;
        let exit = Exit { code, oom_killed, finished_at_ns };
        left.note(record::write_exit(&self.record.plan.container_dir, &exit));
        self.life = self.life.hear(Heard::Ended(exit));
        self.streams = Streams::default();
        self.inherited = None;
        self.oom = None;
        self.stdin_rest = Vec::new();
        (exit, left.result())
    }

    /// Processes that its first process left behind, where no PID namespace ends with it.
    pub(crate) fn end_the_rest(&self) -> Result<(), Error> {
        if self.record.owns_pid_namespace {
            return Ok(());
        }
        handler::kill_all(&self.record.plan, self.record.cgroup.as_deref())
    }

    /// Others may hold copies for a moment (a child between clone and exec), so closing alone is not enough.
    pub(crate) fn unwatch_all(&self, poll: &Poll) {
        let streams = &self.streams;
        let fds = [&streams.stdin, &streams.stdout, &streams.stderr, &streams.console, &self.inherited];
        fds.into_iter().flatten().for_each(|fd| poll.unwatch(fd));
        self.oom.iter().for_each(|oom| poll.unwatch(oom));
    }
}

fn life_of(record: &ContainerRecord) -> Life {
    let pid = record.process.map_or(0, |process| process.pid);
    let started = record.started_at_ns.filter(|_| handler::started(&record.plan) == Started::Yes);
    match started {
        Some(started_at_ns) => Life::Running { pid, started_at_ns },
        None => Life::Created { pid },
    }
}
