//! All that one monitor has: the pod, its containers, their execs and clients, and the daemons it answers to.
//!
//! Its parts move what touches more than one of them: output, input, and ends.

mod end;
mod input;
mod orders;
mod output;
mod work;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use conmon_protocol::{Answer, ContainerState, Event, Exit, KeptExec, Message, PodState};
use rustix::event::epoll::EventFlags;

use crate::attach::Attached;
use crate::checkpoint::Checkpoint;
use crate::container::{Container, Key};
use crate::daemon::{Daemon, Gone};
use crate::error::{Error, Leftovers};
use crate::exec::Exec;
use crate::job::{Abandoned, Job};
use crate::journal::Journal;
use crate::keep::{self, AllReturned};
use crate::life::Life;
use crate::poll::{Poll, Token};
use crate::reap::Ended;
use crate::record::{self, PodRecord};
use crate::stage::Stage;

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
    /// What children do.
    pub(crate) jobs: BTreeMap<Key, Job>,
    abandoned: Vec<Abandoned>,
    /// The one that is being made.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Ends of children that nobody knew, while something is being made.
    strays: Vec<Ended>,
    pub(crate) daemons: BTreeMap<Key, Daemon>,
    /// Who asked for which container to be made in vain, and why; told when what is left of it is taken away.
    failures: Vec<(Key, Asker, Error)>,
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
            jobs: BTreeMap::new(),
            abandoned: Vec::new(),
            checkpoint: None,
            strays: Vec::new(),
            daemons: BTreeMap::new(),
            failures: Vec::new(),
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

    /// Takes up what an earlier monitor left, with what was kept of it.
    pub(crate) fn resume(&mut self, mut returned: AllReturned) {
        match PodRecord::read(&self.pod_dir) {
            Ok(Some(pod)) => {
                self.note(crate::placing::settle(&pod.plan, pod.init));
                self.pod = Some(pod);
            }
            Ok(None) => self.note(crate::pod::unmake_unfinished(&self.pod_dir)),
            Err(error) => self.journal.note(&error.chain()),
        }
        let (records, errors) = record::containers(&self.pod_dir);
        errors.iter().for_each(|error| self.journal.note(&error.chain()));
        let unfinished = self.stage.unfinished();
        for record in records {
            let key = self.next_key();
            let returned = returned.containers.remove(&record.plan.container_id).unwrap_or_default();
            let (container, troubles) = Container::resume(key, record, returned, &self.poll);
            troubles.iter().for_each(|error| self.journal.note(&error.chain()));
            let Some(mut container) = container else {
                continue;
            };
            if let Some(unfinished) = unfinished.as_ref().filter(|it| it.container_id == container.id()) {
                container.log.finish(&unfinished.batch, &unfinished.text);
                self.stage.clear();
            }
            container.log.learn_cuts();
            self.take_up(container);
        }
        self.thaw_what_was_left();
        returned.execs.into_iter().for_each(|(kept, pidfd)| self.take_up_exec(kept, pidfd));
    }

    fn take_up_exec(&mut self, kept: KeptExec, pidfd: OwnedFd) {
        let key = self.next_key();
        let exec = Exec::take_up(key, kept, pidfd);
        if let Err(errno) = self.poll.watch(&exec.pidfd, Token::InheritedExec(key), EventFlags::IN) {
            self.journal.note(&format!("watching exec {}: {errno}", exec.id));
        }
        self.execs.push(exec);
    }

    fn take_up(&mut self, container: Container) {
        let (key, life) = (container.key, container.life);
        let lost = container.inherited.is_none();
        self.containers.insert(key, container);
        match life {
            Life::Created { .. } | Life::Running { .. } | Life::Dying { .. } if lost => {
                let id = &self.containers[&key].record.plan.container_id;
                self.journal.note(&format!("container {id} ended while no monitor watched"));
                self.container_ended(key, Exit::UNSEEN);
            }
            Life::Created { .. } | Life::Running { .. } | Life::Dying { .. } | Life::Exited(_) => {}
        }
    }

    pub(crate) fn state(&self) -> PodState {
        let state = |container: &Container| ContainerState {
            container_id: container.id().to_owned(),
            phase: container.life.phase(),
        };
        PodState {
            made: self.pod.is_some(),
            containers: self.containers.values().map(state).collect(),
            execs: self.execs.iter().map(|exec| exec.id.clone()).collect(),
        }
    }

    // Daemons.

    pub(crate) fn add_daemon(&mut self, daemon: Daemon) -> Option<Key> {
        let key = self.next_key();
        match self.poll.watch(&daemon.socket, Token::Daemon(key), EventFlags::IN) {
            Ok(()) => {
                self.daemons.insert(key, daemon);
                Some(key)
            }
            Err(errno) => {
                self.journal.note(&format!("watching a connection: {errno}"));
                None
            }
        }
    }

    pub(crate) fn drop_daemon(&mut self, key: Key) {
        if let Some(daemon) = self.daemons.remove(&key) {
            self.poll.unwatch(&daemon.socket);
            self.checkpoint_loses(key);
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

    /// Gives a daemon all that is to be kept, and from now on what will be.
    pub(crate) fn give_all_to_keep(&mut self, daemon: Key) {
        if let Some(daemon) = self.daemons.get_mut(&daemon) {
            daemon.keeps = true;
        }
        let living = self.containers.values().filter(|container| container.life.pid().is_some());
        let execs = self.execs.iter().filter_map(keep::exec_message);
        for (message, fds) in living.map(keep::message).chain(execs).collect::<Vec<_>>() {
            self.send(daemon, &message, fds);
        }
    }

    /// Gives what is to be kept of a container to all who keep.
    pub(crate) fn give_to_keep(&mut self, container: Key) {
        for daemon in self.keepers() {
            let Some(container) = self.containers.get(&container) else { return };
            let (message, fds) = keep::message(container);
            self.send(daemon, &message, fds);
        }
    }

    pub(crate) fn give_exec_to_keep(&mut self, exec: &Exec) {
        for daemon in self.keepers() {
            if let Some((message, fds)) = keep::exec_message(exec) {
                self.send(daemon, &message, fds);
            }
        }
    }

    pub(crate) fn say_that_exec_begins(&mut self, exec_id: &str) {
        for daemon in self.keepers() {
            self.send(daemon, &Message::ExecBegins { exec_id: exec_id.to_owned() }, Vec::new());
        }
    }

    fn keepers(&self) -> Vec<Key> {
        self.daemons.iter().filter(|(_, daemon)| daemon.keeps).map(|(key, _)| *key).collect()
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

    /// For what nobody waits to hear.
    pub(crate) fn note(&self, result: Result<(), Error>) {
        if let Err(error) = result {
            self.journal.note(&error.chain());
        }
    }
}
