//! How a task comes to own a sandbox: it has just been made, or the daemon before had it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::v1::{self, ContainerEventType};
use tokio::sync::oneshot;
use tracing::Instrument;

use super::super::{Facts, Life, Name, PodLimits, make as steps, unmake};
use super::Task;
use super::slot::{Slot, Stage};
use crate::container;
use crate::error::chain;
use crate::making::Done;
use crate::node::Node;
use crate::step::Progress;

/// A container as it was found on disk.
#[derive(Debug)]
pub struct Found {
    pub facts: container::Facts,
    pub life: container::Life,
    pub limits: Option<v1::LinuxContainerResources>,
}

/// Makes a sandbox and owns it from then on.
pub async fn make(node: Arc<Node>, facts: Arc<Facts>, progress: Progress, done: Done) {
    let name = Name::of(&facts.request);
    match steps::make(&node, &facts, &progress).instrument(progress.request().clone()).await {
        Ok(made) => {
            let (mut task, messages) = Task::new(node, facts, Life::Ready);
            task.ips = made.ips;
            let events = made.monitor.events();
            task.adopt(made.monitor, events);
            task.publish();
            made.birth.born();
            task.node.name_made(name, task.facts.id.clone());
            task.tell(ContainerEventType::ContainerCreatedEvent);
            task.tell(ContainerEventType::ContainerStartedEvent);
            done.tell(Ok(()));
            task.run(messages).await;
        }
        Err(error) => {
            let undone = unmake::unmake(&node, &facts.id, None).await;
            if let Err(leftover) = &undone {
                tracing::error!(
                    sandbox = &*facts.id,
                    error = chain(leftover),
                    "what a failed making left stays for now"
                );
            }
            // Only what has a record can be asked about and removed; the rest is swept up.
            if node.store.sandbox(&facts.id).dir().exists() {
                keep_leftover(node, facts);
            } else {
                node.release(&name, &facts.id);
            }
            done.tell(Err(error));
        }
    }
}

/// A half-made sandbox that could not be taken away stays to be seen, so that it can be removed later.
fn keep_leftover(node: Arc<Node>, facts: Arc<Facts>) {
    node.name_made(Name::of(&facts.request), facts.id.clone());
    let (task, messages) = Task::new(node, facts, Life::Broken);
    task.publish();
    tokio::spawn(task.run(messages));
}

/// Takes up a sandbox that was found at the start of the daemon. The receiver hears when its state is true.
pub fn resume(
    node: Arc<Node>,
    facts: Facts,
    life: Life,
    ips: Vec<IpAddr>,
    limits: Option<PodLimits>,
    containers: Vec<Found>,
) -> oneshot::Receiver<()> {
    let (caught_up, receiver) = oneshot::channel();
    let (mut task, messages) = Task::new(node, Arc::new(facts), life);
    task.node.name_made(Name::of(&task.facts.request), task.facts.id.clone());
    task.ips = ips;
    task.limits = limits.map(Arc::new);
    task.caught_up = Some(caught_up);
    for Found { facts, life, limits } in containers {
        let id = facts.id.clone();
        let stage = Stage::Made { facts: Arc::new(facts), life, limits: limits.map(Arc::new) };
        task.containers.insert(id.clone(), Slot::new(stage));
        task.publish_container(&id);
    }
    task.publish();
    task.pick_up();
    tokio::spawn(task.run(messages));
    receiver
}

impl Task {
    /// Goes on where the daemon before left off.
    fn pick_up(&mut self) {
        match self.life {
            Life::Ready | Life::Stopping => self.reach(Duration::ZERO),
            Life::Broken if self.has_lock() => self.reach(Duration::ZERO),
            Life::Making | Life::Removing => {
                self.life = Life::Removing;
                self.begin_removal();
            }
            Life::Stopped | Life::Broken => self.say_caught_up(),
        }
    }

    /// Whether a monitor may be there, or should be.
    fn has_lock(&self) -> bool {
        self.node.store.sandbox(&self.facts.id).dir().join("monitor.lock").exists()
    }
}
