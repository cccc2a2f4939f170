//! What a task writes down and lets others know: its sandbox's state, to the store, the world and whoever waits.

use std::sync::Arc;

use proto::v1::ContainerEventType;

use super::super::life::Event;
use super::super::{LIMITS, Life, PodLimits, Sandbox};
use super::Task;
use crate::error::{Error, Noun, chain};
use crate::world::Change;

impl Task {
    pub(super) fn set(&mut self, event: Event) {
        let Some(life) = self.life.after(event) else {
            return tracing::error!(sandbox = &*self.facts.id, life = ?self.life, ?event, "cannot happen");
        };
        self.life = life;
        let kept = self.node.store.sandbox(&self.facts.id).write_json("life", &life);
        // A removal that failed at the network has taken the record away already.
        if let Err(error) = kept
            && !(error.is_missing() && life == Life::Broken)
        {
            tracing::error!(
                sandbox = &*self.facts.id,
                error = chain(&error),
                "keeping the sandbox's state failed"
            );
        }
        self.publish();
    }

    /// The kubelet owns the pod's cgroup and has written to it before it says so here (CRI
    /// UpdatePodSandboxResources): what is left is to know it, for whoever asks and for the next daemon.
    pub(super) fn note_limits(&mut self, limits: PodLimits) -> Result<(), Error> {
        match self.life {
            Life::Ready => {}
            Life::Making | Life::Stopping | Life::Stopped | Life::Broken | Life::Removing => {
                return Err(self.state_error("the sandbox is not ready"));
            }
        }
        self.node.store.sandbox(&self.facts.id).write_message(LIMITS, &limits)?;
        self.limits = Some(Arc::new(limits));
        self.publish();
        Ok(())
    }

    pub(super) fn refuse_all(&mut self, error: &Error) {
        for (_, reply) in self.waiting.drain(..) {
            let _ = reply.send(Err(error.clone()));
        }
    }

    pub(super) fn publish(&self) {
        self.node.world.publish_sandbox(Arc::new(self.sandbox()));
    }

    pub(super) fn sandbox(&self) -> Sandbox {
        Sandbox {
            facts: self.facts.clone(),
            life: self.life,
            ips: self.ips.clone(),
            limits: self.limits.clone(),
            monitor: self.monitor.clone().or_else(|| self.lost.clone()),
            task: self.own.clone(),
        }
    }

    pub(super) fn tell(&self, kind: ContainerEventType) {
        self.tell_of(kind, self.facts.id.clone());
    }

    pub(super) fn tell_of(&self, kind: ContainerEventType, id: Arc<str>) {
        let at_ns = self.node.now_ns();
        self.node.world.tell(Change { kind, id, at_ns, sandbox: Arc::new(self.sandbox()) });
    }

    pub(super) fn state_error(&self, why: &'static str) -> Error {
        Error::State { noun: Noun::Sandbox, id: self.facts.id.to_string(), why }
    }
}
