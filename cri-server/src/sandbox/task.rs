//! The task that owns one sandbox and its containers: it hears asks, the monitor's events and the ends of
//! its own work, one at a time, and publishes what came of them.
//!
//! It never waits inside a turn. What takes time is work in its `JoinSet`; who asked waits in a list, and
//! after each change the list is put to `life::answer` again. So asks of any number and order join, and a
//! stop holds nothing while it waits out a grace.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use conmon_protocol::Event as MonitorEvent;
use oci_spec::runtime::LinuxResources;
use proto::v1;
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::life::{Answer, Ask, Event};
use super::{Facts, Life, PodLimits};
use crate::container;
use crate::container::life::{Ask as ContainerAsk, Event as ContainerEvent};
use crate::error::{Error, Noun};
use crate::making::Underway;
use crate::monitor::{Monitor, Reached};
use crate::node::Node;
use pace::Pace;
use plugins::Plugins;
use slot::Slot;
use stop::Stopping;
use update::Update;

mod beginning;
mod containers;
mod creation;
mod mailbox;
mod pace;
mod plugins;
mod removal;
mod slot;
mod stop;
mod tell;
#[cfg(test)]
mod tests;
mod update;
mod watch;

pub use beginning::{Found, make, resume};
pub use mailbox::Mailbox;

/// Who asked, waiting.
pub type Reply = oneshot::Sender<Result<(), Error>>;

/// What a task hears from requests.
#[derive(Debug)]
pub enum Message {
    Create {
        config: Box<v1::ContainerConfig>,
        /// A checkpoint's folder that it is made of.
        from: Option<PathBuf>,
        reply: oneshot::Sender<Result<Underway, Error>>,
    },
    Sandbox {
        ask: Ask,
        reply: Reply,
    },
    Container {
        container_id: Arc<str>,
        ask: ContainerAsk,
        reply: Reply,
    },
    /// Change what a container may use.
    Update {
        container_id: Arc<str>,
        asked: Box<v1::LinuxContainerResources>,
        /// What the interface has no words for.
        rest: Option<Box<LinuxResources>>,
        reply: Reply,
    },
    /// Note what the whole pod may use from now on.
    UpdatePod {
        limits: Box<PodLimits>,
        reply: Reply,
    },
}

struct Task {
    node: Arc<Node>,
    facts: Arc<Facts>,
    life: Life,
    stop: Stopping,
    stops_failed: u32,
    plugins: Plugins,
    ips: Vec<IpAddr>,
    limits: Option<Arc<PodLimits>>,
    monitor: Option<Monitor>,
    /// The last one, which died; who asked it waits for the next.
    lost: Option<Monitor>,
    events: Option<broadcast::Receiver<MonitorEvent>>,
    waiting: Vec<(Ask, Reply)>,
    containers: HashMap<Arc<str>, Slot>,
    work: JoinSet<Outcome>,
    own: Mailbox,
    caught_up: Option<oneshot::Sender<()>>,
    pace: Pace,
}

/// How a piece of work ended.
enum Outcome {
    Reached(Result<Reached, Error>),
    Stilled(Result<(), Error>),
    Unmade(Result<(), Error>),
    ContainerMade {
        id: Arc<str>,
        made: Result<Box<container::make::Born>, Error>,
    },
    /// What a failed making left has been taken away, as far as could be.
    ContainerUndone {
        id: Arc<str>,
        undone: Result<(), Error>,
    },
    Started {
        id: Arc<str>,
        started: Result<i64, Error>,
    },
    Signalled {
        id: Arc<str>,
        sent: Result<(), Error>,
    },
    ContainerUnmade {
        id: Arc<str>,
        unmade: Result<(), Error>,
    },
    Updated {
        id: Arc<str>,
        updated: Result<Arc<v1::LinuxContainerResources>, Error>,
    },
}

impl Task {
    fn new(node: Arc<Node>, facts: Arc<Facts>, life: Life) -> (Self, mailbox::Incoming) {
        let (own, messages) = mailbox::new();
        let task = Self {
            node,
            facts,
            life,
            stop: Stopping::Not,
            stops_failed: 0,
            plugins: Plugins::Unaware,
            ips: Vec::new(),
            limits: None,
            monitor: None,
            lost: None,
            events: None,
            waiting: Vec::new(),
            containers: HashMap::new(),
            work: JoinSet::new(),
            own,
            caught_up: None,
            pace: Pace::default(),
        };
        (task, messages)
    }

    async fn run(mut self, mut messages: mailbox::Incoming) {
        while !self.is_gone() {
            let overdue = self.next_kill();
            tokio::select! {
                biased;
                event = next_event(&mut self.events) => self.hear_event(event),
                Some(outcome) = self.work.join_next() => self.hear_outcome(outcome),
                () = closed(self.monitor.as_ref()) => self.lose_monitor(),
                () = at(overdue) => self.kill_overdue(),
                () = at(self.stop.until()) => self.begin_stilling(),
                Some((request, message)) = messages.recv() => {
                    request.in_scope(|| {
                        self.hear(message);
                        self.advance();
                    });
                    continue;
                }
            }
            self.advance();
        }
        self.say_caught_up();
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Create { config, from, reply } => drop(reply.send(self.create(config, from))),
            Message::Sandbox { ask, reply } => self.waiting.push((ask, reply)),
            Message::Container { container_id, ask, reply } => match self.containers.get_mut(&container_id) {
                Some(slot) => slot.waiting.push((ask, reply)),
                None => drop(reply.send(without(&container_id, ask))),
            },
            Message::Update { container_id, asked, rest, reply } => {
                self.update(&container_id, Update { asked: *asked, rest, reply });
            }
            Message::UpdatePod { limits, reply } => drop(reply.send(self.note_limits(*limits))),
        }
    }

    fn hear_event(&mut self, event: Result<MonitorEvent, broadcast::error::RecvError>) {
        match event {
            Ok(MonitorEvent::Exited { container_id, exit }) => {
                self.change(&container_id, ContainerEvent::Exited(exit))
            }
            Ok(MonitorEvent::Oom { container_id }) => tracing::info!(container_id, "out of memory"),
            Ok(MonitorEvent::ExecExited { .. }) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => self.reach(Duration::ZERO),
            Err(broadcast::error::RecvError::Closed) => self.events = None,
        }
    }

    fn hear_outcome(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                return tracing::error!(sandbox = &*self.facts.id, %error, "a piece of work broke off");
            }
        };
        match outcome {
            Outcome::Reached(reached) => self.hear_reached(reached),
            Outcome::Stilled(ended) => self.hear_stilled(ended),
            Outcome::Unmade(ended) => self.hear_unmade(ended),
            Outcome::ContainerMade { id, made } => self.hear_made(&id, made.map(|born| *born)),
            Outcome::ContainerUndone { id, undone } => self.hear_undone(&id, undone),
            Outcome::Started { id, started } => self.hear_started(&id, started),
            Outcome::Signalled { id, sent } => self.hear_signalled(&id, sent),
            Outcome::ContainerUnmade { id, unmade } => self.hear_container_unmade(&id, unmade),
            Outcome::Updated { id, updated } => self.hear_updated(&id, updated),
        }
    }

    /// Puts all who wait to the lives as they are now, and begins what they come to.
    fn advance(&mut self) {
        self.settle();
        let ids: Vec<Arc<str>> = self.containers.keys().cloned().collect();
        for id in ids {
            self.undo(&id);
            self.settle_container(&id);
        }
        if self.life == Life::Stopping && self.stop != Stopping::Stilling {
            self.quieten();
        }
    }

    fn settle(&mut self) {
        self.waiting.retain(|(_, reply)| !reply.is_closed());
        for (ask, reply) in std::mem::take(&mut self.waiting) {
            match self.life.answer(ask) {
                Answer::Already => drop(reply.send(Ok(()))),
                Answer::No(why) => drop(reply.send(Err(self.state_error(why)))),
                Answer::Join => self.waiting.push((ask, reply)),
                // What it makes after the removal has looked would stay.
                Answer::Do if ask == Ask::Remove && self.is_making() => self.waiting.push((ask, reply)),
                Answer::Do => {
                    self.do_sandbox(ask);
                    self.waiting.push((ask, reply));
                }
            }
        }
    }

    fn do_sandbox(&mut self, ask: Ask) {
        match (ask, self.life) {
            (Ask::Remove, Life::Stopped | Life::Broken) => {
                self.set(Event::RemovalBegun);
                self.begin_removal();
            }
            (Ask::Stop | Ask::Remove, _) => self.set(Event::StopBegun),
            (Ask::Create, _) => {}
        }
    }

    /// Begins a piece of work, in the span of the request that led to it.
    fn work_on(&mut self, work: impl Future<Output = Outcome> + Send + 'static) {
        self.work.spawn(work.in_current_span());
    }
}

const SIGKILL: i32 = 9;

/// What an ask of a container that is not there comes to: stop and remove are idempotent (CRI).
pub fn without(id: &str, ask: ContainerAsk) -> Result<(), Error> {
    match ask {
        ContainerAsk::Stop { .. } | ContainerAsk::Remove => Ok(()),
        ContainerAsk::Start => Err(Error::NotFound { noun: Noun::Container, id: id.into() }),
    }
}

async fn next_event(
    events: &mut Option<broadcast::Receiver<MonitorEvent>>,
) -> Result<MonitorEvent, broadcast::error::RecvError> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

async fn closed(monitor: Option<&Monitor>) {
    match monitor {
        Some(monitor) => monitor.closed().await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
