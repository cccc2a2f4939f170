//! All that one monitor has: the pod, its containers, their execs and clients, and the daemons it answers to.
//!
//! Here are the movements that touch more than one of them: output goes to a log and to clients, an end goes to a
//! file, to daemons and to whoever waits to take the container away.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use conmon_protocol::{Answer, ContainerState, Event, Message, PodState};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use crate::attach::{Attached, Input};
use crate::clock;
use crate::container::{self, Container, Key};
use crate::daemon::{Daemon, Gone};
use crate::error::{Error, Leftovers};
use crate::exec::Exec;
use crate::journal::Journal;
use crate::life::Life;
use crate::logfile::{Change, MAX_TEXT};
use crate::poll::{Poll, Token};
use crate::reap::{self, Ended};
use crate::record::{self, PodRecord};
use crate::stage::{Batch, Stage};

/// Read from one stream before others get their turn, and after the container's end.
const MAX_LAST_BYTES: usize = 4 << 20;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) daemon: Key,
    pub(crate) seq: u64,
}

#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) poll: Poll,
    pub(crate) journal: Journal,
    pub(crate) pod_dir: PathBuf,
    pub(crate) pod: Option<PodRecord>,
    pub(crate) containers: BTreeMap<Key, Container>,
    pub(crate) execs: Vec<Exec>,
    pub(crate) attached: BTreeMap<Key, Attached>,
    pub(crate) daemons: BTreeMap<Key, Daemon>,
    /// Who waits for which container to be gone.
    pub(crate) deletes: Vec<(Key, Asker)>,
    /// Who waits for the whole pod to be gone; somebody does from the first `UnmakePod` to its answer.
    pub(crate) unmakes: Vec<Asker>,
    /// What could not be taken away since then.
    pub(crate) left: Leftovers,
    /// The pod is gone, and so shall the monitor be once its answers are sent.
    pub(crate) over: bool,
    /// Something was done that leaves memory behind.
    pub(crate) untidy: bool,
    stage: Stage,
    last_key: Key,
}

impl Monitor {
    pub(crate) fn new(poll: Poll, pod_dir: &Path) -> Monitor {
        let journal = Journal::open(pod_dir);
        let (stage, opened) = Stage::open(pod_dir);
        if let Err(errno) = opened {
            journal.note(&format!("a kill of this monitor may lose output: making monitor.stage: {errno}"));
        }
        Monitor {
            poll,
            journal,
            pod_dir: pod_dir.to_path_buf(),
            pod: None,
            containers: BTreeMap::new(),
            execs: Vec::new(),
            attached: BTreeMap::new(),
            daemons: BTreeMap::new(),
            deletes: Vec::new(),
            unmakes: Vec::new(),
            left: Leftovers::default(),
            over: false,
            untidy: true,
            stage,
            last_key: 0,
        }
    }

    pub(crate) fn next_key(&mut self) -> Key {
        self.last_key += 1;
        self.last_key
    }

    /// Takes up what an earlier monitor left.
    pub(crate) fn resume(&mut self) {
        match PodRecord::read(&self.pod_dir) {
            Ok(Some(pod)) => self.pod = Some(pod),
            Ok(None) => self.note(crate::pod::unmake_unfinished(&self.pod_dir)),
            Err(error) => self.journal.note(&error.chain()),
        }
        let (records, errors) = record::containers(&self.pod_dir);
        errors.iter().for_each(|error| self.journal.note(&error.chain()));
        let unfinished = self.stage.unfinished();
        for record in records {
            let key = self.next_key();
            let (container, troubles) = Container::resume(key, record, &self.poll);
            troubles.iter().for_each(|error| self.journal.note(&error.chain()));
            let Some(mut container) = container else {
                continue;
            };
            if let Some(unfinished) = unfinished.as_ref().filter(|it| it.container_id == container.id()) {
                container.log.finish(&unfinished.batch, &unfinished.text);
                self.stage.clear();
            }
            self.take_up(container);
        }
    }

    fn take_up(&mut self, container: Container) {
        let (key, life) = (container.key, container.life);
        let lost = container.inherited.is_none();
        self.containers.insert(key, container);
        match life {
            Life::Created { .. } | Life::Running { .. } | Life::Dying { .. } if lost => {
                self.journal.note("a container's process ended while no monitor watched");
                self.container_ended(key, reap::UNKNOWN_CODE);
            }
            Life::Created { .. } | Life::Running { .. } | Life::Dying { .. } | Life::Exited(_) => {}
        }
    }

    pub(crate) fn state(&self) -> PodState {
        let state = |container: &Container| ContainerState {
            container_id: container.id().to_owned(),
            phase: container.life.phase(),
        };
        PodState { made: self.pod.is_some(), containers: self.containers.values().map(state).collect() }
    }

    // Daemons.

    pub(crate) fn add_daemon(&mut self, socket: OwnedFd) {
        let key = self.next_key();
        match self.poll.watch(&socket, Token::Daemon(key), EventFlags::IN) {
            Ok(()) => {
                self.daemons.insert(key, Daemon::new(socket));
            }
            Err(errno) => self.journal.note(&format!("watching a connection: {errno}")),
        }
    }

    pub(crate) fn drop_daemon(&mut self, key: Key) {
        if let Some(daemon) = self.daemons.remove(&key) {
            self.poll.unwatch(&daemon.socket);
        }
    }

    pub(crate) fn answer(&mut self, asker: Asker, answer: Result<Answer, Error>, fds: Vec<OwnedFd>) {
        let answer = answer.map_err(|error| error.refusal());
        self.send(asker.daemon, &Message::Answer { seq: asker.seq, answer }, fds);
    }

    pub(crate) fn tell_all(&mut self, event: Event) {
        let message = Message::Event(event);
        let keys: Vec<Key> = self.daemons.keys().copied().collect();
        for key in keys {
            self.send(key, &message, Vec::new());
        }
    }

    fn send(&mut self, key: Key, message: &Message, fds: Vec<OwnedFd>) {
        let Some(daemon) = self.daemons.get_mut(&key) else {
            return;
        };
        match daemon.send(message, fds) {
            Ok(()) => self.watch_daemon(key),
            Err(Gone) => self.drop_daemon(key),
        }
    }

    pub(crate) fn watch_daemon(&mut self, key: Key) {
        let Some(daemon) = self.daemons.get(&key) else {
            return;
        };
        let mut interest = EventFlags::IN;
        interest.set(EventFlags::OUT, daemon.has_unsent());
        // It fails only for a descriptor that is not watched, and this one is.
        let _ = self.poll.rewatch(&daemon.socket, Token::Daemon(key), interest);
    }

    /// Lends the one read buffer. Everything that reads shares it.
    pub(crate) fn with_stage<T>(&mut self, work: impl FnOnce(&mut Monitor, &mut Stage) -> T) -> T {
        let mut stage = std::mem::take(&mut self.stage);
        let result = work(self, &mut stage);
        stage.clear();
        self.stage = stage;
        result
    }

    // Output.

    /// Reads one stream once.
    pub(crate) fn pump(&mut self, token: Token, key: Key) {
        let more = self.with_stage(|monitor, stage| monitor.read_output(token, key, stage));
        if more == Flow::Ended {
            self.close_output(token, key);
        }
    }

    fn read_output(&mut self, token: Token, key: Key, stage: &mut Stage) -> Flow {
        let Some(container) = self.containers.get_mut(&key) else {
            return Flow::Dry;
        };
        let Some((fd, stream)) = container.output(token) else {
            return Flow::Dry;
        };
        let at_ns = clock::now_ns();
        let mut room = MAX_TEXT;
        if let (Some(log), Ok(waiting @ 1..)) = (container.log.end_of_file(), rustix::io::ioctl_fionread(fd))
        {
            room = room.min(usize::try_from(waiting).unwrap_or(MAX_TEXT));
            stage.expect(&container.record.plan.container_id, &Batch { stream, length: room, at_ns, log });
        }
        let length = match rustix::io::read(fd, &mut stage.text()[..room]) {
            Ok(0) => return Flow::Ended,
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Flow::Dry,
            Err(_) => return Flow::Ended,
        };
        let bytes = &stage.text()[..length];
        let change = container.log.write(stream, bytes, at_ns);
        match change {
            Change::None => {}
            Change::Losing(errno) => {
                self.journal.note(&format!("losing the log of {}: {errno}", container.id()))
            }
            Change::Recovered { lost_bytes } => {
                self.journal.note(&format!("the log of {} lost {lost_bytes} bytes", container.id()));
            }
        }
        let poll = &self.poll;
        let mut lost_stdin = false;
        self.attached.retain(|_, client| {
            let stays = client.container != key || client.send(stream, bytes);
            if !stays {
                poll.unwatch(&client.socket);
                lost_stdin |= client.stdin;
            }
            stays
        });
        if lost_stdin {
            container.end_stdin(poll);
        }
        Flow::More(length)
    }

    /// Nobody can write to a FIFO any more that has no writer. A terminal may be opened again by whoever is
    /// still in the container, so it stays, watched for changes only.
    fn close_output(&mut self, token: Token, key: Key) {
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        let streams = &mut container.streams;
        let closed = match token {
            Token::Stdout(_) => streams.stdout.take(),
            Token::Stderr(_) => streams.stderr.take(),
            _ => {
                if let Some(console) = &streams.console {
                    let _ = self.poll.rewatch(console, token, EventFlags::IN | EventFlags::ET);
                }
                None
            }
        };
        if let Some(fd) = closed {
            self.poll.unwatch(&fd);
        }
    }

    /// Reads what a container left behind, to a bound: others may hold its streams and write on for ever.
    fn drain(&mut self, key: Key) {
        for token in [Token::Stdout(key), Token::Stderr(key), Token::Console(key)] {
            let mut bytes = 0;
            while bytes < MAX_LAST_BYTES {
                match self.with_stage(|monitor, stage| monitor.read_output(token, key, stage)) {
                    Flow::More(count) => bytes += count,
                    Flow::Dry | Flow::Ended => break,
                }
            }
        }
    }

    // Input.

    /// Takes a packet from a client, if its container took the last one.
    pub(crate) fn take_input(&mut self, key: Key, hung_up: bool) {
        let Some(client) = self.attached.get(&key) else {
            return;
        };
        let container = client.container;
        let input = self.with_stage(|monitor, stage| match monitor.attached.get(&key) {
            None => Input::Nothing,
            Some(client) => {
                let input = client.receive(stage.text());
                if let (Input::Bytes(count), true) = (&input, client.stdin) {
                    monitor.feed(container, &stage.text()[..*count]);
                }
                input
            }
        });
        match input {
            Input::Nothing | Input::Bytes(_) => {}
            Input::End => self.input_ended(key),
            Input::Gone => self.drop_attached(key),
        }
        if hung_up && !matches!(input, Input::Bytes(_)) {
            self.drop_attached(key);
        }
    }

    fn input_ended(&mut self, key: Key) {
        let Some(client) = self.attached.get_mut(&key) else {
            return;
        };
        let had_stdin = std::mem::replace(&mut client.stdin, false);
        let container = client.container;
        // It may still listen; only a full hang-up is news from now on.
        let _ = self.poll.rewatch(&client.socket, Token::Attached(key), EventFlags::empty());
        if had_stdin && let Some(container) = self.containers.get_mut(&container) {
            container.end_stdin(&self.poll);
        }
    }

    fn feed(&mut self, key: Key, bytes: &[u8]) {
        if let Some(container) = self.containers.get_mut(&key) {
            container.feed(bytes, &self.poll);
            self.watch_input(key);
        }
    }

    /// The container takes input again.
    pub(crate) fn feed_rest(&mut self, key: Key) {
        if let Some(container) = self.containers.get_mut(&key) {
            let rest = std::mem::take(&mut container.stdin_rest);
            container.feed(&rest, &self.poll);
            self.watch_input(key);
        }
    }

    /// Clients are read while nothing is left to be fed. Meanwhile they are not watched at all: a hang-up would
    /// be told again and again, and it can wait until what the client said before has been fed.
    fn watch_input(&mut self, container: Key) {
        let hungry = self.containers.get(&container).is_some_and(|container| container.stdin_rest.is_empty());
        let speakers = |client: &Attached| client.container == container && client.stdin;
        for (key, client) in self.attached.iter().filter(|(_, client)| speakers(client)) {
            if hungry {
                // Watched already is what is wanted.
                let _ = self.poll.watch(&client.socket, Token::Attached(*key), EventFlags::IN);
            } else {
                self.poll.unwatch(&client.socket);
            }
        }
    }

    pub(crate) fn drop_attached(&mut self, key: Key) {
        self.input_ended(key);
        if let Some(client) = self.attached.remove(&key) {
            self.poll.unwatch(&client.socket);
        }
    }

    // Ends.

    /// A child of ours ended: a container's first process, an exec's, or an orphan's, of which nobody asks.
    pub(crate) fn child_ended(&mut self, ended: Ended) {
        if let Some(at) = self.execs.iter().position(|exec| exec.pid == ended.pid) {
            let exec = self.execs.swap_remove(at);
            self.tell_all(Event::ExecExited {
                exec_id: exec.id,
                code: ended.code,
                timed_out: exec.timed_out,
            });
            return;
        }
        let key = self.containers.values().find(|container| container.life.pid() == Some(ended.pid));
        if let Some(key) = key.map(|container| container.key) {
            self.container_ended(key, ended.code);
        }
    }

    /// A process that an earlier monitor started has ended, or has been reaped by its new parent.
    pub(crate) fn inherited_ended(&mut self, key: Key, reaped: bool) {
        use std::os::fd::AsFd as _;
        let Some(container) = self.containers.get(&key) else {
            return;
        };
        let (Some(pidfd), Some(pid)) = (&container.inherited, container.life.pid()) else {
            return;
        };
        match reap::inherited_code(pidfd.as_fd(), pid) {
            Some(code) => self.container_ended(key, code),
            None if reaped || !reap::exists(pidfd.as_fd()) => {
                self.journal.note(&format!("nobody can tell how container {} ended", container.id()));
                self.container_ended(key, reap::UNKNOWN_CODE);
            }
            // Only the reaping is news from now on.
            None => {
                let _ = self.poll.rewatch(pidfd, Token::Inherited(key), EventFlags::empty());
            }
        }
    }

    fn container_ended(&mut self, key: Key, code: i32) {
        let Some(container) = self.containers.get(&key) else {
            return;
        };
        self.note(container.end_the_rest());
        self.untidy = true;
        self.drain(key);
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        container.unwatch_all(&self.poll);
        let (exit, result) = container.ended(code);
        let container_id = container.id().to_owned();
        self.note(result);
        let clients = self.attached.iter().filter(|(_, client)| client.container == key);
        for client in clients.map(|(client, _)| *client).collect::<Vec<_>>() {
            self.drop_attached(client);
        }
        if exit.oom_killed {
            self.tell_all(Event::Oom { container_id: container_id.clone() });
        }
        self.tell_all(Event::Exited { container_id, exit });
        if self.is_to_be_deleted(key) {
            self.unmake_container(key);
        }
        if !self.unmakes.is_empty() {
            self.unmake_pod_when_empty();
        }
    }

    // Taking away.

    fn is_to_be_deleted(&self, key: Key) -> bool {
        !self.unmakes.is_empty() || self.deletes.iter().any(|(container, _)| *container == key)
    }

    /// Takes an ended container away and tells those who wait. What fails may be asked for again.
    pub(crate) fn unmake_container(&mut self, key: Key) {
        let Some(container) = self.containers.get(&key) else {
            return;
        };
        let result = container::unmake(&container.record.plan);
        let refused = result.as_ref().err().map(Error::refusal);
        if refused.is_none() {
            self.containers.remove(&key);
        }
        for asker in self.waiting_for(key) {
            let answer = match &refused {
                None => Ok(Answer::Done),
                Some(refusal) => Err(Error::refused(refusal.kind, refusal.message.clone())),
            };
            self.answer(asker, answer, Vec::new());
        }
        if !self.unmakes.is_empty() {
            self.left.note(result);
        }
    }

    fn waiting_for(&mut self, key: Key) -> Vec<Asker> {
        let (waiting, others) = self.deletes.iter().partition(|(container, _)| *container == key);
        self.deletes = others;
        let waiting: Vec<(Key, Asker)> = waiting;
        waiting.into_iter().map(|(_, asker)| asker).collect()
    }

    /// Those who wait for a container that can't be killed are told so.
    pub(crate) fn give_up(&mut self, key: Key) {
        let Some(container) = self.containers.get(&key) else {
            return;
        };
        let message = format!("container {} was killed and still has not ended", container.id());
        let refusal = || Error::refused(conmon_protocol::RefusalKind::Failed, message.clone());
        for asker in self.waiting_for(key) {
            self.answer(asker, Err(refusal()), Vec::new());
        }
        for asker in std::mem::take(&mut self.unmakes) {
            self.answer(asker, Err(refusal()), Vec::new());
        }
    }

    /// The last step of taking a pod away, once each container was tried.
    pub(crate) fn unmake_pod_when_empty(&mut self) {
        if self.containers.values().any(|container| container.life.pid().is_some()) {
            return;
        }
        let mut left = std::mem::take(&mut self.left);
        let init = self.pod.as_ref().and_then(|pod| pod.init);
        left.note(crate::pod::unmake(&self.pod_dir, init));
        let result = left.result();
        if result.is_ok() {
            self.pod = None;
            self.over = true;
        }
        let refused = result.err().map(|error| error.refusal());
        for asker in std::mem::take(&mut self.unmakes) {
            let answer = match &refused {
                None => Ok(Answer::Done),
                Some(refusal) => Err(Error::refused(refusal.kind, refusal.message.clone())),
            };
            self.answer(asker, answer, Vec::new());
        }
    }

    /// For what nobody waits to hear.
    pub(crate) fn note(&self, result: Result<(), Error>) {
        if let Err(error) = result {
            self.journal.note(&error.chain());
        }
    }
}

/// What a read of a stream came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    More(usize),
    Dry,
    Ended,
}
