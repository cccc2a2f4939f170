//! How containers end and are taken away: an end goes to a file, to daemons, and to whoever waits for it.

use std::os::fd::AsFd as _;

use conmon_protocol::{Answer, Event, Exit, RefusalKind};
use rustix::event::epoll::EventFlags;

use super::{Asker, Monitor};
use crate::container::Key;
use crate::error::Error;
use crate::exec::Parent;
use crate::handler;
use crate::oom;
use crate::poll::Token;
use crate::reap::{self, Ended};

impl Monitor {
    /// A child of ours ended: a container's first process, an exec's, or an orphan's, of which nobody asks.
    pub(crate) fn child_ended(&mut self, ended: Ended) {
        if let Some(at) = self.execs.iter().position(|exec| exec.pid == ended.pid) {
            return self.exec_ended(at, ended.code);
        }
        let key = self.containers.values().find(|container| container.life.pid() == Some(ended.pid));
        match key.map(|container| container.key) {
            // Its start is told first.
            Some(key) if self.is_being_started(key) => self.stray_ended(ended),
            Some(key) => self.container_ended(key, ended.code),
            None => self.stray_ended(ended),
        }
    }

    fn exec_ended(&mut self, at: usize, code: i32) {
        let exec = self.execs.swap_remove(at);
        if exec.parent == Parent::Another {
            self.poll.unwatch(&exec.pidfd);
        }
        self.tell_all(Event::ExecExited { exec_id: exec.id, code, timed_out: exec.timed_out });
    }

    /// An exec's process that an earlier monitor started has ended, or has been reaped by its new parent.
    pub(crate) fn inherited_exec_ended(&mut self, key: Key, reaped: bool) {
        let Some(at) = self.execs.iter().position(|exec| exec.key == key) else {
            return;
        };
        let exec = &self.execs[at];
        match reap::inherited_code(exec.pidfd.as_fd(), exec.pid) {
            Some(code) => self.exec_ended(at, code),
            None if reaped || !reap::exists(exec.pidfd.as_fd()) => self.exec_ended(at, Exit::UNSEEN),
            // Only the reaping is news from now on.
            None => {
                let _ = self.poll.rewatch(&exec.pidfd, Token::InheritedExec(key), EventFlags::empty());
            }
        }
    }

    /// A process that an earlier monitor started has ended, or has been reaped by its new parent.
    pub(crate) fn inherited_ended(&mut self, key: Key, reaped: bool) {
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
                self.container_ended(key, Exit::UNSEEN);
            }
            // Only the reaping is news from now on.
            None => {
                let _ = self.poll.rewatch(pidfd, Token::Inherited(key), EventFlags::empty());
            }
        }
    }

    pub(super) fn container_ended(&mut self, key: Key, code: i32) {
        let Some(container) = self.containers.get(&key) else {
            return;
        };
        // First of all: systemd takes the cgroup away as soon as it is empty, with what it has counted.
        let oom_kills = oom::kills(container, code, self.containers.values());
        self.note(container.end_the_rest());
        self.untidy = true;
        self.drain(key);
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        container.unwatch_all(&self.poll);
        let told = container.oom_told;
        let (exit, result) = container.ended(code, oom_kills);
        let container_id = container.id().to_owned();
        self.note(result);
        let clients = self.attached.iter().filter(|(_, client)| client.container == key);
        for client in clients.map(|(client, _)| *client).collect::<Vec<_>>() {
            self.drop_attached(client);
        }
        if exit.oom_killed && !told {
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

    /// Some process of a container was killed for want of memory, or is about to be.
    pub(crate) fn memory_ran_out(&mut self, key: Key) {
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        let cgroup = container.record.cgroup.as_deref();
        if container.oom.as_mut().is_some_and(|watch| handler::ran_out(watch, cgroup)) {
            container.oom_told = true;
            let container_id = container.id().to_owned();
            self.tell_all(Event::Oom { container_id });
        }
    }

    fn is_to_be_deleted(&self, key: Key) -> bool {
        !self.unmakes.is_empty() || self.deletes.iter().any(|(container, _)| *container == key)
    }

    pub(super) fn waiting_for(&mut self, key: Key) -> Vec<Asker> {
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
        let refusal = || Error::refused(RefusalKind::Failed, message.clone());
        for asker in self.waiting_for(key) {
            self.answer(asker, Err(refusal()), Vec::new());
        }
        for asker in std::mem::take(&mut self.unmakes) {
            self.answer(asker, Err(refusal()), Vec::new());
        }
    }

    /// The last step of taking a pod away, once each container was tried.
    pub(crate) fn unmake_pod_when_empty(&mut self) {
        if self.is_busy() || self.containers.values().any(|container| container.life.pid().is_some()) {
            return;
        }
        let mut left = std::mem::take(&mut self.left);
        let init = self.pod.as_ref().and_then(|pod| pod.init);
        left.note(crate::pod::unmake(&self.pod_dir, init));
        left.note(self.pod.as_ref().map_or(Ok(()), |pod| crate::placing::leave(&pod.plan)));
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
}
