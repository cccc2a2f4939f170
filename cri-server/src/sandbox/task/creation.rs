//! The task and the containers that are being made.

use std::path::PathBuf;
use std::sync::Arc;

use proto::v1::{self, ContainerEventType};

use super::slot::{Attempt, Slot, Stage};
use super::{Outcome, Task};
use crate::container;
use crate::container::life::Event as ContainerEvent;
use crate::container::make::{Born, Order};
use crate::error::{Error, Noun, chain};
use crate::making::Underway;
use crate::monitor;
use crate::node;
use crate::nri::Event;
use crate::sandbox::life::{Answer, Ask, Life};
use crate::step::{Progress, Step};

impl Task {
    pub(super) fn create(
        &mut self,
        config: Box<v1::ContainerConfig>,
        from: Option<PathBuf>,
    ) -> Result<Underway, Error> {
        let name = container::name(&config);
        if name.0.is_empty() {
            return Err(Error::Request("config.metadata.name: must not be empty".into()));
        }
        if let Some((id, slot)) =
            self.containers.iter().find(|(_, slot)| container::name(slot.config()) == name)
        {
            return slot.join(id, &config);
        }
        if let Answer::No(why) = self.life.answer(Ask::Create) {
            return Err(self.state_error(why));
        }
        let monitor = self.monitor.clone().ok_or(monitor::Error::Gone)?;
        let id: Arc<str> = node::new_id().into();
        let progress = Progress::new(id.clone(), Step::ContainerPlan);
        let (underway, done) = Underway::new(Noun::Container, id.clone(), progress.clone());
        let (sandbox, copy) = (self.facts.clone(), (*config).clone());
        let order = Order { id: id.clone(), config: copy, sandbox, monitor, from };
        let attempt = Attempt { config, underway: underway.clone(), done };
        let stage = Stage::Making { attempt, ended: None };
        self.containers.insert(id.clone(), Slot::new(stage));
        let node = self.node.clone();
        self.work_on(async move {
            let made = Box::pin(container::make::make(&node, order, &progress)).await;
            Outcome::ContainerMade { id, made: made.map(Box::new) }
        });
        Ok(underway)
    }

    pub(super) fn hear_made(&mut self, id: &Arc<str>, made: Result<container::make::Born, Error>) {
        let Some(slot) = self.containers.remove(id) else { return };
        let Stage::Making { attempt, ended } = slot.stage else { return };
        let (stage, told) = match made {
            Ok(Born { facts, life, limits, birth }) => {
                (Stage::Made { facts: Arc::new(facts), life, limits }, Some((attempt.done, birth)))
            }
            Err(error) => (Stage::Failed { attempt, error }, None),
        };
        self.containers.insert(id.clone(), Slot { stage, ..slot });
        let Some((done, birth)) = told else { return };
        self.publish_container(id);
        birth.born();
        self.tell_plugins(Event::PostCreateContainer, id);
        self.tell_of(ContainerEventType::ContainerCreatedEvent, id.clone());
        if let Some(exit) = ended {
            self.change(id, ContainerEvent::Exited(exit));
        }
        done.tell(Ok(()));
    }

    /// Whether a pod that is over has a container in the making; it is undone soon.
    pub(super) fn is_making(&self) -> bool {
        let is_over = matches!(self.life, Life::Stopped | Life::Broken);
        is_over && self.containers.values().any(|slot| !matches!(slot.stage, Stage::Made { .. }))
    }

    /// Takes away what a failed making left, once there is a monitor to ask.
    pub(super) fn undo(&mut self, id: &Arc<str>) {
        if self.is_between() || !matches!(self.stage(id), Some(Stage::Failed { .. })) {
            return;
        }
        let Some(slot) = self.containers.remove(id) else { return };
        let Stage::Failed { attempt, error } = slot.stage else { return };
        self.containers.insert(id.clone(), Slot { stage: Stage::Undoing { attempt, error }, ..slot });
        let (node, sandbox_id, id) = (self.node.clone(), self.facts.id.clone(), id.clone());
        let monitor = self.monitor.clone();
        self.work_on(async move {
            let undone = container::unmake::unmake(&node, &sandbox_id, &id, monitor.as_ref()).await;
            Outcome::ContainerUndone { id, undone }
        });
    }

    pub(super) fn hear_undone(&mut self, id: &Arc<str>, undone: Result<(), Error>) {
        let Some(slot) = self.containers.remove(id) else { return };
        let Stage::Undoing { attempt, error } = slot.stage else { return };
        match undone {
            Err(gone) if gone.is_monitor_gone() => {
                self.containers.insert(id.clone(), Slot { stage: Stage::Failed { attempt, error }, ..slot });
            }
            undone => {
                if let Err(leftover) = undone {
                    // The sandbox's own removal takes it away at the latest.
                    tracing::error!(
                        container = &**id,
                        error = chain(&leftover),
                        "what a failed making left stays"
                    );
                }
                attempt.done.tell(Err(error));
            }
        }
    }
}
