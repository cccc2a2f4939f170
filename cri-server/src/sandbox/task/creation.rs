//! The task and the containers that are being made.

use std::sync::Arc;

use proto::v1::{self, ContainerEventType};

use super::slot::{Slot, Stage};
use super::{Outcome, Task};
use crate::container::life::Event as ContainerEvent;
use crate::container::{self, make::Order};
use crate::error::{Error, Noun, chain};
use crate::making::Underway;
use crate::monitor;
use crate::node;
use crate::sandbox::life::{Answer, Ask};
use crate::step::{Progress, Step};

impl Task {
    pub(super) fn create(&mut self, config: Box<v1::ContainerConfig>) -> Result<Underway, Error> {
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
        let order = Order { id: id.clone(), config: (*config).clone(), sandbox: self.facts.clone(), monitor };
        let stage = Stage::Making { config, underway: underway.clone(), done, ended: None };
        self.containers.insert(id.clone(), Slot { stage, waiting: Vec::new() });
        let node = self.node.clone();
        self.work.spawn(async move {
            let made = container::make::make(&node, order, &progress).await;
            let made = made.map(|(facts, life)| (Arc::new(facts), life));
            Outcome::ContainerMade { id, made }
        });
        Ok(underway)
    }

    pub(super) fn hear_made(
        &mut self,
        id: &Arc<str>,
        made: Result<(Arc<container::Facts>, container::Life), Error>,
    ) {
        match made {
            Ok((facts, life)) => {
                let stage = Stage::Made { facts, life };
                let Some(slot) = self.containers.get_mut(id) else { return };
                let before = std::mem::replace(&mut slot.stage, stage);
                self.publish_container(id);
                self.tell_of(ContainerEventType::ContainerCreatedEvent, id.clone());
                if let Stage::Making { ended: Some(exit), .. } = before {
                    self.change(id, ContainerEvent::Exited(exit));
                }
                before.tell(Ok(()));
            }
            Err(error) => {
                let (node, sandbox_id, id) = (self.node.clone(), self.facts.id.clone(), id.clone());
                let monitor = self.monitor.clone();
                self.work.spawn(async move {
                    let undone = container::unmake::unmake(&node, &sandbox_id, &id, monitor.as_ref()).await;
                    if let Err(leftover) = undone {
                        // The sandbox's own removal takes it away at the latest.
                        tracing::error!(
                            container = &*id,
                            error = chain(&leftover),
                            "what a failed making left stays"
                        );
                    }
                    Outcome::ContainerUndone { id, error }
                });
            }
        }
    }

    pub(super) fn hear_undone(&mut self, id: &Arc<str>, error: Error) {
        if let Some(slot) = self.containers.remove(id) {
            slot.stage.tell(Err(error));
        }
    }
}
