//! The loop of a monitor: wait for one thing to happen, do what follows from it, wait again. Nothing polls.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::epoll::EventFlags;
use rustix::net::{SocketFlags, accept_with};

use crate::clock;
use crate::container::Key;
use crate::daemon::{Asked, Daemon, Gone};
use crate::error::{Error, Named as _};
use crate::life::Life;
use crate::monitor::Monitor;
use crate::poll::{Ready, Token};
use crate::reap;

/// Connections at once; the oldest makes room, since it is likely a daemon that died without a word.
const MAX_DAEMONS: usize = 16;

#[derive(Debug)]
pub(crate) struct Turn {
    monitor: Monitor,
    listener: OwnedFd,
    signals: SignalFd,
}

/// Signals that a monitor hears of in its own time, or never: only `UnmakePod` ends it.
pub(crate) fn block_signals() -> Result<SigSet, Error> {
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        blocked.add(signal);
    }
    blocked.thread_block().named("blocking", "signals")?;
    Ok(blocked)
}

impl Turn {
    pub(crate) fn new(monitor: Monitor, listener: OwnedFd, signals: &SigSet) -> Result<Turn, Error> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(signals, flags).named("listening for", "signals")?;
        monitor.poll.watch(signals.as_fd(), Token::Children, EventFlags::IN).named("watching", "signals")?;
        monitor.poll.watch(&listener, Token::Listener, EventFlags::IN).named("watching", "the socket")?;
        Ok(Turn { monitor, listener, signals })
    }

    /// What the daemon that started us said before we listened.
    pub(crate) fn hear_early(&mut self, daemon: Key) {
        self.hear_daemon(daemon, EventFlags::IN);
    }

    /// Until the pod is gone and everybody who asked has heard so.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        self.reap();
        self.tidy();
        while !self.is_done() {
            let now_ns = clock::monotonic_ns();
            let timeout_ns = self.next_deadline().map(|deadline| deadline.saturating_sub(now_ns));
            let batch = self.monitor.poll.wait(timeout_ns).named("waiting for", "events")?;
            batch.into_iter().flatten().for_each(|ready| self.hear(ready));
            self.meet_deadlines();
            self.tidy();
        }
        self.reap();
        Ok(())
    }

    /// After the answers are out: giving memory back is not what anybody waits for.
    fn tidy(&mut self) {
        if std::mem::take(&mut self.monitor.untidy) {
            kernel::malloc_trim();
            kernel::madvise_stack();
        }
    }

    fn is_done(&self) -> bool {
        self.monitor.over && !self.monitor.daemons.values().any(|daemon| daemon.has_unsent())
    }

    fn hear(&mut self, ready: Ready) {
        match ready.token {
            Token::Listener => self.accept(),
            Token::Children => self.reap(),
            Token::Daemon(key) => self.hear_daemon(key, ready.flags),
            Token::Stdin(key) => self.stdin_ready(key, ready.flags),
            Token::Stdout(key) | Token::Stderr(key) => self.monitor.pump(ready.token, key),
            Token::Console(key) => self.console_ready(ready.token, key, ready.flags),
            Token::Inherited(key) => {
                self.monitor.inherited_ended(key, ready.flags.contains(EventFlags::HUP));
            }
            Token::Attached(key) => {
                self.monitor.take_input(key, ready.flags.intersects(EventFlags::HUP | EventFlags::ERR));
            }
            Token::InheritedExec(key) => {
                self.monitor.inherited_exec_ended(key, ready.flags.contains(EventFlags::HUP));
            }
            Token::Job(key) => self.monitor.hear_job(key),
            Token::Memory(key) => self.monitor.memory_ran_out(key),
            Token::Unknown => {}
        }
    }

    fn accept(&mut self) {
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
            return;
        };
        if self.monitor.daemons.len() >= MAX_DAEMONS
            && let Some(oldest) = self.monitor.daemons.keys().next().copied()
        {
            self.monitor.drop_daemon(oldest);
        }
        self.monitor.add_daemon(Daemon::new(socket));
    }

    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Some(ended) = reap::next_child() {
            self.monitor.child_ended(ended);
        }
    }

    fn hear_daemon(&mut self, key: Key, flags: EventFlags) {
        if self.talk(key, flags).is_err() {
            self.monitor.drop_daemon(key);
        }
    }

    fn talk(&mut self, key: Key, flags: EventFlags) -> Result<(), Gone> {
        if flags.contains(EventFlags::OUT) {
            self.monitor.daemons.get_mut(&key).ok_or(Gone)?.flush()?;
            self.monitor.watch_daemon(key);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
        self.monitor.with_stage(|monitor, stage| match monitor.daemons.get_mut(&key) {
            Some(daemon) => daemon.receive(stage.text()).map(drop),
            None => Err(Gone),
        })?;
        // An answer may have found the daemon gone; then there is nothing more to hear from it.
        while let Some(daemon) = self.monitor.daemons.get_mut(&key) {
            match daemon.next_request()? {
                Some(Asked::Request(request, fds)) => self.monitor.hear(key, *request, fds),
                Some(Asked::Unknown { seq, why }) => self.monitor.refuse_unknown(key, seq, &why),
                None => break,
            }
        }
        Ok(())
    }

    fn stdin_ready(&mut self, key: Key, flags: EventFlags) {
        if flags.intersects(EventFlags::OUT | EventFlags::ERR) {
            self.monitor.feed_rest(key);
        }
    }

    fn console_ready(&mut self, token: Token, key: Key, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.monitor.feed_rest(key);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP) {
            self.monitor.pump(token, key);
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        let execs = self.monitor.execs.iter().filter_map(|exec| exec.deadline_ns);
        let deaths = self.monitor.containers.values().filter_map(|container| match container.life {
            Life::Dying { .. } if container.dies_until_ns > 0 => Some(container.dies_until_ns),
            Life::Dying { .. } | Life::Created { .. } | Life::Running { .. } | Life::Exited(_) => None,
        });
        let jobs = self.monitor.jobs.values().map(|job| job.until_ns);
        execs.chain(deaths).chain(jobs).chain(self.monitor.checkpoints_deadline()).min()
    }

    fn meet_deadlines(&mut self) {
        let now_ns = clock::monotonic_ns();
        for exec in self.monitor.execs.iter_mut().filter(|exec| exec.is_due(now_ns)) {
            if let Err(error) = exec.time_out() {
                self.monitor.journal.note(&error.chain());
            }
        }
        let due = |container: &&mut crate::container::Container| {
            container.dies_until_ns > 0 && container.dies_until_ns <= now_ns && container.life.pid().is_some()
        };
        let mut stuck = Vec::new();
        for container in self.monitor.containers.values_mut().filter(due) {
            container.dies_until_ns = 0;
            stuck.push(container.key);
        }
        for key in stuck {
            self.monitor.give_up(key);
        }
        self.monitor.meet_jobs_deadlines(now_ns);
        self.monitor.meet_checkpoints_deadline(now_ns);
    }
}
