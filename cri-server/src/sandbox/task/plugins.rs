//! The task and plugins: what they are told of the sandbox and of its containers, each once and in order.

use std::sync::Arc;

use super::Task;
use super::slot::Stage;
use crate::container::Container;
use crate::nri::{Event, Subject};

/// What plugins know of the end of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plugins {
    Unaware,
    /// They have been told that it stops.
    Aware,
}

impl Task {
    /// A container and its pod as they are now.
    pub(super) fn subject(&self, id: &Arc<str>) -> Option<Subject> {
        match self.stage(id)? {
            Stage::Made { facts, life, limits } => {
                let container = Container { facts: facts.clone(), life: *life, limits: limits.clone() };
                Some(Subject::container(Arc::new(self.sandbox()), Arc::new(container)))
            }
            Stage::Making { .. } | Stage::Failed { .. } | Stage::Undoing { .. } => None,
        }
    }

    pub(super) fn tell_plugins(&self, event: Event, id: &Arc<str>) {
        if self.node.nri.wants(event)
            && let Some(subject) = self.subject(id)
        {
            self.node.nri.tell(event, subject);
        }
    }

    /// A container is gone. One of which no end was heard has ended now.
    pub(super) fn tell_plugins_of_removal(&self, id: &Arc<str>) {
        if let Some(Stage::Made { life, .. }) = self.stage(id)
            && life.exit().is_none()
        {
            self.tell_plugins(Event::StopContainer, id);
        }
        self.tell_plugins(Event::RemoveContainer, id);
    }

    /// The sandbox is gone, with all that was in it.
    pub(super) fn tell_plugins_of_the_end(&self) {
        for id in self.containers.keys() {
            self.tell_plugins_of_removal(id);
        }
        let subject = Subject::pod(Arc::new(self.sandbox()));
        if self.plugins == Plugins::Unaware {
            self.node.nri.tell(Event::StopPodSandbox, subject.clone());
        }
        self.node.nri.tell(Event::RemovePodSandbox, subject);
    }

    /// Who is to hear that the sandbox stops, once: another attempt at it is no news.
    pub(super) fn subject_of_stop(&mut self) -> Option<Subject> {
        match std::mem::replace(&mut self.plugins, Plugins::Aware) {
            Plugins::Unaware => Some(Subject::pod(Arc::new(self.sandbox()))),
            Plugins::Aware => None,
        }
    }
}
