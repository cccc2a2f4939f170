//! A container as its sandbox's task has it.

use std::sync::Arc;

use conmon_protocol::Exit;
use proto::v1;

use super::Reply;
use crate::container;
use crate::container::life::Ask as ContainerAsk;
use crate::error::{Error, Noun};
use crate::making::{Done, Underway};
use crate::node;

/// A container, and who waits for something of it.
pub(super) struct Slot {
    pub(super) stage: Stage,
    pub(super) waiting: Vec<(ContainerAsk, Reply)>,
}

pub(super) enum Stage {
    Making { config: Box<v1::ContainerConfig>, underway: Underway, done: Done, ended: Option<Exit> },
    Made { facts: Arc<container::Facts>, life: container::Life },
}

impl Slot {
    pub(super) fn config(&self) -> &v1::ContainerConfig {
        match &self.stage {
            Stage::Making { config, .. } => config,
            Stage::Made { facts, .. } => &facts.config,
        }
    }

    /// The same asked for again.
    pub(super) fn join(&self, id: &Arc<str>, asked: &v1::ContainerConfig) -> Result<Underway, Error> {
        let (name, attempt) = container::name(asked);
        let name = format!("{name} (attempt {attempt})");
        let exists = Error::Exists { noun: Noun::Container, name, id: id.to_string() };
        match &self.stage {
            Stage::Making { config, underway, .. } if **config == *asked => Ok(underway.clone()),
            Stage::Made { facts, life } if facts.config == *asked && life.pid().is_some() => {
                Ok(node::made(Noun::Container, id))
            }
            Stage::Making { .. } | Stage::Made { .. } => Err(exists),
        }
    }

    /// Nothing of it runs, and no work on it is in flight.
    pub(super) fn is_quiet(&self) -> bool {
        match &self.stage {
            Stage::Made { life: container::Life::Exited { .. } | container::Life::Broken { .. }, .. } => true,
            Stage::Made { .. } | Stage::Making { .. } => false,
        }
    }

    pub(super) fn kill_at_ms(&self) -> Option<u64> {
        match &self.stage {
            Stage::Made { life, .. } => life.kill_at_ms(),
            Stage::Making { .. } => None,
        }
    }
}

impl Stage {
    /// Tells those who wait for a making how it went.
    pub(super) fn tell(self, outcome: Result<(), Error>) {
        if let Stage::Making { done, .. } = self {
            done.tell(outcome);
        }
    }
}
