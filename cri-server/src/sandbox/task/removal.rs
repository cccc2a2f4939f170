//! How a sandbox is taken away, and its task with it.

use proto::v1::ContainerEventType;

use super::super::life::Event;
use super::super::{Life, Name, unmake};
use super::{Outcome, Task, without};
use crate::error::{Error, chain};

impl Task {
    pub(super) fn begin_removal(&mut self) {
        let (node, id, monitor) = (self.node.clone(), self.facts.id.clone(), self.monitor.clone());
        self.work_on(async move { Outcome::Unmade(unmake::unmake(&node, &id, monitor).await) });
    }

    pub(super) fn hear_unmade(&mut self, ended: Result<(), Error>) {
        self.say_caught_up();
        match ended {
            Ok(()) => self.be_gone(),
            Err(error) => {
                tracing::error!(
                    sandbox = &*self.facts.id,
                    error = chain(&error),
                    "removing a sandbox failed"
                );
                self.set(Event::RemovalFailed);
                self.refuse_all(&error);
            }
        }
    }

    pub(super) fn be_gone(&mut self) {
        for id in self.containers.keys() {
            self.tell_of(ContainerEventType::ContainerDeletedEvent, id.clone());
        }
        self.tell(ContainerEventType::ContainerDeletedEvent);
        self.tell_plugins_of_the_end();
        self.node.world.forget_sandbox(&self.facts.id);
        self.node.release(&Name::of(&self.facts.request), &self.facts.id);
        self.life = Life::Removing;
        for (_, reply) in self.waiting.drain(..) {
            let _ = reply.send(Ok(()));
        }
        for (id, slot) in self.containers.drain() {
            for (ask, reply) in slot.waiting {
                let _ = reply.send(without(&id, ask));
            }
        }
        self.monitor = None;
        self.events = None;
    }

    /// Its entry in the world is what makes it be there.
    pub(super) fn is_gone(&self) -> bool {
        self.life == Life::Removing && !self.node.world.now().sandboxes.contains_key(&self.facts.id)
    }
}
