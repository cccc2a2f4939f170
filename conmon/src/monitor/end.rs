//! How containers end and are taken away: an end goes to a file, to daemons, and to whoever waits for it.

use std::os::fd::AsFd as _;

use conmon_protocol::{Answer, Event, RefusalKind};
use rustix::event::epoll::EventFlags;

use super::{Asker, Monitor};
use crate::container::{self, Key};
use crate::error::Error;
use crate::poll::Token;
use crate::reap::{self, Ended};

impl Monitor {
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

    pub(super) fn container_ended(&mut self, key: Key, code: i32) {
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
}
