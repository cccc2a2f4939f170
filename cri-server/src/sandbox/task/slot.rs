//! A container as its sandbox's task has it.

use std::collections::VecDeque;
use std::sync::Arc;

use conmon_protocol::Exit;
use proto::v1;

use super::Reply;
use super::update::Update;
use crate::container;
use crate::container::life::Ask as ContainerAsk;
use crate::error::{Error, Noun};
use crate::making::{Done, Underway};
use crate::node;

/// A container, and who waits for something of it.
pub(super) struct Slot {
    pub(super) stage: Stage,
    pub(super) waiting: Vec<(ContainerAsk, Reply)>,
    /// The first is in flight.
    pub(super) updates: VecDeque<Update>,
}

pub(super) enum Stage {
    Making {
        attempt: Attempt,
        ended: Option<Exit>,
    },
    /// To be taken away as soon as there is a monitor to ask.
    Failed {
        attempt: Attempt,
        error: Error,
    },
    Undoing {
        attempt: Attempt,
        error: Error,
    },
    Made {
        facts: Arc<container::Facts>,
        life: container::Life,
        limits: Option<Arc<v1::LinuxContainerResources>>,
    },
}

/// What was asked for and is being made, and who waits for it.
pub(super) struct Attempt {
    pub(super) config: Box<v1::ContainerConfig>,
    pub(super) underway: Underway,
    pub(super) done: Done,
}

impl Slot {
    pub(super) fn new(stage: Stage) -> Self {
        Self { stage, waiting: Vec::new(), updates: VecDeque::new() }
    }

    pub(super) fn config(&self) -> &v1::ContainerConfig {
        match &self.stage {
            Stage::Making { attempt, .. }
            | Stage::Failed { attempt, .. }
            | Stage::Undoing { attempt, .. } => &attempt.config,
            Stage::Made { facts, .. } => &facts.config,
        }
    }

    /// The same asked for again.
    pub(super) fn join(&self, id: &Arc<str>, asked: &v1::ContainerConfig) -> Result<Underway, Error> {
        let (name, attempt) = container::name(asked);
        let name = format!("{name} (attempt {attempt})");
        let exists = Error::Exists { noun: Noun::Container, name, id: id.to_string() };
        match &self.stage {
            Stage::Making { attempt, .. }
            | Stage::Failed { attempt, .. }
            | Stage::Undoing { attempt, .. }
                if *attempt.config == *asked =>
            {
                Ok(attempt.underway.clone())
            }
            Stage::Made { facts, life, .. } if facts.config == *asked && life.pid().is_some() => {
                Ok(node::made(Noun::Container, id))
            }
            Stage::Making { .. } | Stage::Failed { .. } | Stage::Undoing { .. } | Stage::Made { .. } => {
                Err(exists)
            }
        }
    }

    /// Nothing of it runs, and no work on it is in flight.
    pub(super) fn is_quiet(&self) -> bool {
        match &self.stage {
            Stage::Made { life: container::Life::Exited { .. } | container::Life::Broken { .. }, .. } => true,
            Stage::Made { .. } | Stage::Making { .. } | Stage::Failed { .. } | Stage::Undoing { .. } => false,
        }
    }

    pub(super) fn kill_at_ms(&self) -> Option<u64> {
        match &self.stage {
            Stage::Made { life, .. } => life.kill_at_ms(),
            Stage::Making { .. } | Stage::Failed { .. } | Stage::Undoing { .. } => None,
        }
    }
}
