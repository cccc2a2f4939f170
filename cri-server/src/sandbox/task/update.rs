//! The task and changes of limits. Those of one container are made one after the other, in the order asked.

use std::sync::Arc;

use oci_spec::runtime::LinuxResources;
use proto::v1::LinuxContainerResources;

use super::slot::Stage;
use super::{Outcome, Reply, Task};
use crate::container::life::Life;
use crate::container::update::{self, Order};
use crate::error::{Error, Noun};
use crate::monitor;

/// A change that was asked for, and who waits for it.
pub(super) struct Update {
    pub(super) asked: LinuxContainerResources,
    pub(super) rest: Option<Box<LinuxResources>>,
    pub(super) reply: Reply,
}

impl Task {
    /// The first in the queue is the one in flight.
    pub(super) fn update(&mut self, id: &Arc<str>, update: Update) {
        match self.containers.get_mut(id) {
            Some(slot) => {
                slot.updates.push_back(update);
                if slot.updates.len() == 1 {
                    self.begin_update(id);
                }
            }
            None => {
                let error = Error::NotFound { noun: Noun::Container, id: id.to_string() };
                drop(update.reply.send(Err(error)));
            }
        }
    }

    fn begin_update(&mut self, id: &Arc<str>) {
        let ready = self.order_of(id);
        let (node, id) = (self.node.clone(), id.clone());
        self.work_on(async move {
            let updated = match ready {
                Ok(order) => update::update(&node, order).await,
                Err(error) => Err(error),
            };
            Outcome::Updated { id, updated }
        });
    }

    fn order_of(&self, id: &Arc<str>) -> Result<Order, Error> {
        let state = |why| Error::State { noun: Noun::Container, id: id.to_string(), why };
        let slot = self.containers.get(id).ok_or_else(|| state("is gone"))?;
        let update = slot.updates.front().ok_or_else(|| state("has no change to be made"))?;
        let Stage::Made { facts, life, limits } = &slot.stage else { return Err(state("is not made yet")) };
        match life {
            Life::Created { .. } | Life::Starting { .. } | Life::Running { .. } => {}
            Life::Making => return Err(state("is not made yet")),
            Life::Stopping { .. } => return Err(state("is being stopped")),
            Life::Exited { .. } => return Err(state("has exited and uses nothing")),
            Life::Removing { .. } | Life::Broken { .. } => return Err(state("is being removed")),
        }
        let before = limits.clone().unwrap_or_else(|| Arc::new(facts.asked_resources()));
        Ok(Order {
            id: id.clone(),
            sandbox_id: facts.sandbox_id.clone(),
            before,
            asked: update.asked.clone(),
            rest: update.rest.clone(),
            monitor: self.monitor.clone().ok_or(monitor::Error::Gone)?,
        })
    }

    pub(super) fn hear_updated(
        &mut self,
        id: &Arc<str>,
        updated: Result<Arc<LinuxContainerResources>, Error>,
    ) {
        let Some(slot) = self.containers.get_mut(id) else { return };
        let done = slot.updates.pop_front();
        let more = !slot.updates.is_empty();
        if let (Stage::Made { limits, .. }, Ok(after)) = (&mut slot.stage, &updated) {
            *limits = Some(after.clone());
            self.publish_container(id);
        }
        if let Some(Update { reply, .. }) = done {
            let _ = reply.send(updated.map(drop));
        }
        if more {
            self.begin_update(id);
        }
    }
}
