//! The task that owns one sandbox and its containers: it hears asks, the monitor's events and the ends of
//! its own work, one at a time, and publishes what came of them.
//!
//! It never waits inside a turn. What takes time is work in its `JoinSet`; who asked waits in a list, and
//! after each change the list is put to `life::answer` again. So asks of any number and order join, and a
//! stop holds nothing while it waits out a grace.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use conmon_protocol::{Ask as MonitorAsk, Event as MonitorEvent, Exit, PodState, Scope};
use proto::v1::{self, ContainerEventType};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use super::life::{Answer, Ask, Event};
use super::{Facts, Life, Name, Sandbox, make, unmake};
use crate::container::life::{
    Answer as ContainerAnswer, Ask as ContainerAsk, Deed, Event as ContainerEvent, Stop,
};
use crate::container::{self, Container, make::Order};
use crate::error::{Error, Noun, chain};
use crate::making::{Done, Underway};
use crate::monitor::{self, Monitor, Reached};
use crate::node::{self, Node};
use crate::step::{Progress, Step};
use crate::world::Change;

/// Asks that wait for one sandbox's task.
const MESSAGES: usize = 64;
/// Between two attempts to get a monitor for a pod.
const RECONNECT_PAUSE: Duration = Duration::from_secs(2);
/// How long the end of a killed container is awaited before the monitor is told to end the whole pod. A process
/// dies in milliseconds unless the kernel holds it.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// The exit code of a container whose end nobody saw, as containerd has it.
const LOST_CODE: i32 = 255;

/// Who asked, waiting.
pub type Reply = oneshot::Sender<Result<(), Error>>;

/// What a task hears from requests.
#[derive(Debug)]
pub enum Message {
    Create { config: Box<v1::ContainerConfig>, reply: oneshot::Sender<Result<Underway, Error>> },
    Sandbox { ask: Ask, reply: Reply },
    Container { container_id: Arc<str>, ask: ContainerAsk, reply: Reply },
}

/// A container as it was found on disk.
#[derive(Debug)]
pub struct Found {
    pub facts: container::Facts,
    pub life: container::Life,
}

struct Task {
    node: Arc<Node>,
    facts: Arc<Facts>,
    life: Life,
    stop: Stopping,
    ips: Vec<IpAddr>,
    monitor: Option<Monitor>,
    events: Option<broadcast::Receiver<MonitorEvent>>,
    waiting: Vec<(Ask, Reply)>,
    containers: HashMap<Arc<str>, Slot>,
    work: JoinSet<Outcome>,
    own: mpsc::Sender<Message>,
    caught_up: Option<oneshot::Sender<()>>,
}

/// How far a stop of the sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopping {
    Not,
    /// The containers were killed; their ends are awaited no longer than this.
    Killing {
        until: tokio::time::Instant,
    },
    /// What is left is the monitor's and the network's to end.
    Stilling,
}

/// A container, and who waits for something of it.
struct Slot {
    stage: Stage,
    waiting: Vec<(ContainerAsk, Reply)>,
}

enum Stage {
    Making { config: Box<v1::ContainerConfig>, underway: Underway, done: Done, ended: Option<Exit> },
    Made { facts: Arc<container::Facts>, life: container::Life },
}

/// How a piece of work ended.
enum Outcome {
    Reached(Result<Reached, Error>),
    Stilled(Result<(), Error>),
    Unmade(Result<(), Error>),
    ContainerMade {
        id: Arc<str>,
        made: Result<(Arc<container::Facts>, container::Life), Error>,
    },
    /// What a failed making left has been taken away, as far as could be.
    ContainerUndone {
        id: Arc<str>,
        error: Error,
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
}

/// Makes a sandbox and owns it from then on.
pub async fn make(node: Arc<Node>, facts: Arc<Facts>, progress: Progress, done: Done) {
    let name = Name::of(&facts.request);
    match make::make(&node, &facts, &progress).await {
        Ok(made) => {
            let (mut task, messages) = Task::new(node, facts, Life::Ready);
            task.ips = made.ips;
            let events = made.monitor.events();
            task.adopt(made.monitor, events);
            task.publish();
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
                node.release_name(&name, &facts.id);
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
    containers: Vec<Found>,
) -> oneshot::Receiver<()> {
    let (caught_up, receiver) = oneshot::channel();
    let (mut task, messages) = Task::new(node, Arc::new(facts), life);
    task.node.name_made(Name::of(&task.facts.request), task.facts.id.clone());
    task.ips = ips;
    task.caught_up = Some(caught_up);
    for Found { facts, life } in containers {
        let id = facts.id.clone();
        let stage = Stage::Made { facts: Arc::new(facts), life };
        task.containers.insert(id.clone(), Slot { stage, waiting: Vec::new() });
        task.publish_container(&id);
    }
    task.publish();
    task.pick_up();
    tokio::spawn(task.run(messages));
    receiver
}

impl Task {
    fn new(node: Arc<Node>, facts: Arc<Facts>, life: Life) -> (Self, mpsc::Receiver<Message>) {
        let (own, messages) = mpsc::channel(MESSAGES);
        let task = Self {
            node,
            facts,
            life,
            stop: Stopping::Not,
            ips: Vec::new(),
            monitor: None,
            events: None,
            waiting: Vec::new(),
            containers: HashMap::new(),
            work: JoinSet::new(),
            own,
            caught_up: None,
        };
        (task, messages)
    }

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

    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while !self.is_gone() {
            let overdue = self.next_kill();
            tokio::select! {
                biased;
                event = next_event(&mut self.events) => self.hear_event(event),
                Some(outcome) = self.work.join_next() => self.hear_outcome(outcome),
                () = closed(self.monitor.as_ref()) => self.lose_monitor(),
                () = at(overdue) => self.kill_overdue(),
                () = at(self.stop.until()) => self.begin_stilling(),
                Some(message) = messages.recv() => self.hear(message),
            }
            self.advance();
        }
        self.say_caught_up();
    }

    // ---- what is heard ----

    fn hear(&mut self, message: Message) {
        match message {
            Message::Create { config, reply } => drop(reply.send(self.create(config))),
            Message::Sandbox { ask, reply } => self.waiting.push((ask, reply)),
            Message::Container { container_id, ask, reply } => match self.containers.get_mut(&container_id) {
                Some(slot) => slot.waiting.push((ask, reply)),
                None => drop(reply.send(without(&container_id, ask))),
            },
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
            Outcome::ContainerMade { id, made } => self.hear_made(&id, made),
            Outcome::ContainerUndone { id, error } => self.hear_undone(&id, error),
            Outcome::Started { id, started } => self.hear_started(&id, started),
            Outcome::Signalled { id, sent } => self.hear_signalled(&id, sent),
            Outcome::ContainerUnmade { id, unmade } => self.hear_container_unmade(&id, unmade),
        }
    }

    // ---- the monitor ----

    fn adopt(&mut self, monitor: Monitor, events: broadcast::Receiver<MonitorEvent>) {
        self.events = Some(events);
        self.monitor = Some(monitor);
    }

    /// It died, or was killed. Another takes up its pod: the containers have not noticed.
    fn lose_monitor(&mut self) {
        self.monitor = None;
        self.events = None;
        if matches!(self.life, Life::Ready | Life::Stopping) && self.stop != Stopping::Stilling {
            tracing::warn!(sandbox = &*self.facts.id, "the pod's monitor is gone; starting another");
            self.publish();
            self.reach(Duration::ZERO);
        }
    }

    fn reach(&mut self, pause: Duration) {
        let (node, id, monitor) = (self.node.clone(), self.facts.id.clone(), self.monitor.clone());
        self.work.spawn(async move {
            tokio::time::sleep(pause).await;
            let reached = match monitor.filter(|monitor| !monitor.is_closed()) {
                Some(monitor) => Reached::by(monitor).await,
                None => node.monitors.reach(node.store.sandbox(&id).dir()).await,
            };
            Outcome::Reached(reached.map_err(Error::from))
        });
    }

    fn hear_reached(&mut self, reached: Result<Reached, Error>) {
        match reached {
            Ok(Reached { monitor, state, events }) => {
                if self.monitor.is_none() {
                    self.adopt(monitor, events);
                }
                self.catch_up(&state);
                self.publish();
                self.say_caught_up();
            }
            Err(error) => {
                tracing::error!(
                    sandbox = &*self.facts.id,
                    error = chain(&error),
                    "no monitor for the pod; trying again"
                );
                self.say_caught_up();
                self.reach(RECONNECT_PAUSE);
            }
        }
    }

    /// Brings every container's life up to what the monitor has.
    fn catch_up(&mut self, state: &PodState) {
        let lost = Exit { code: LOST_CODE, oom_killed: false, finished_at_ns: self.node.now_ns() };
        let phases: HashMap<&str, _> =
            state.containers.iter().map(|c| (c.container_id.as_str(), c.phase)).collect();
        let ids: Vec<Arc<str>> = self.containers.keys().cloned().collect();
        for id in ids {
            let Some(Stage::Made { life, .. }) = self.containers.get(&id).map(|slot| &slot.stage) else {
                continue;
            };
            let (before, after) = (*life, life.corrected(phases.get(&*id).copied(), lost));
            if before != after {
                self.set_life(&id, after);
            }
            self.take_up(&id, after);
        }
        for unknown in phases.into_keys() {
            if !self.containers.contains_key(unknown) {
                self.unmake_unknown(unknown.into());
            }
        }
        if !state.made && self.life == Life::Ready {
            tracing::error!(sandbox = &*self.facts.id, "the pod's namespaces are gone; stopping it");
            self.set(Event::StopBegun);
        }
    }

    /// A container that was half made when the daemon or the monitor died; nobody was told its id.
    fn unmake_unknown(&mut self, id: Arc<str>) {
        let (node, sandbox_id, monitor) = (self.node.clone(), self.facts.id.clone(), self.monitor.clone());
        self.work.spawn(async move {
            let unmade = container::unmake::unmake(&node, &sandbox_id, &id, monitor.as_ref()).await;
            Outcome::ContainerUnmade { id, unmade }
        });
    }

    /// What was in flight when the last monitor was lost is sent anew.
    fn take_up(&mut self, id: &Arc<str>, life: container::Life) {
        match life {
            container::Life::Stopping { stop: Stop::Killed, .. } => self.signal(id, SIGKILL),
            container::Life::Removing { .. } => self.begin(id, Deed::Remove),
            container::Life::Making
            | container::Life::Created { .. }
            | container::Life::Starting { .. }
            | container::Life::Running { .. }
            | container::Life::Stopping { stop: Stop::Asked { .. }, .. }
            | container::Life::Exited { .. }
            | container::Life::Broken { .. } => {}
        }
    }

    fn say_caught_up(&mut self) {
        if let Some(caught_up) = self.caught_up.take() {
            let _ = caught_up.send(());
        }
    }

    // ---- the sandbox ----

    /// Puts all who wait to the lives as they are now, and begins what they come to.
    fn advance(&mut self) {
        self.settle();
        let ids: Vec<Arc<str>> = self.containers.keys().cloned().collect();
        for id in ids {
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

    /// Kills what runs. Once nothing does, the rest is taken away.
    fn quieten(&mut self) {
        if self.stop == Stopping::Not {
            self.stop = Stopping::Killing { until: tokio::time::Instant::now() + KILL_WAIT };
        }
        let ids: Vec<Arc<str>> = self.containers.keys().cloned().collect();
        for id in &ids {
            let Some(Stage::Made { life, .. }) = self.containers.get(id).map(|slot| &slot.stage) else {
                continue;
            };
            let ask = ContainerAsk::Stop { kill_at_ms: 0, now_ms: 0 };
            if let ContainerAnswer::Do(deed) = life.answer(ask)
                && self.monitor.is_some()
            {
                self.begin(id, deed);
            }
        }
        if self.containers.values().all(Slot::is_quiet) {
            self.begin_stilling();
        }
    }

    fn begin_stilling(&mut self) {
        if self.stop == Stopping::Stilling {
            return;
        }
        self.stop = Stopping::Stilling;
        let (node, id, monitor) = (self.node.clone(), self.facts.id.clone(), self.monitor.clone());
        self.work.spawn(async move { Outcome::Stilled(unmake::still(&node, &id, monitor).await) });
    }

    fn hear_stilled(&mut self, ended: Result<(), Error>) {
        self.stop = Stopping::Not;
        match ended {
            Ok(()) => {
                self.bury_the_lost();
                self.monitor = None;
                self.events = None;
                self.ips.clear();
                self.set(Event::Stopped);
                self.tell(ContainerEventType::ContainerStoppedEvent);
            }
            Err(error) => {
                self.set(Event::StopFailed);
                self.refuse_all(&error);
            }
        }
    }

    /// Whoever's end was not heard of is dead all the same: the pod has no processes any more.
    fn bury_the_lost(&mut self) {
        let exit = Exit { code: 128 + SIGKILL, oom_killed: false, finished_at_ns: self.node.now_ns() };
        let ids: Vec<Arc<str>> = self.containers.keys().cloned().collect();
        for id in ids {
            self.change(&id, ContainerEvent::Exited(exit));
        }
    }

    fn begin_removal(&mut self) {
        let (node, id, monitor) = (self.node.clone(), self.facts.id.clone(), self.monitor.clone());
        self.work.spawn(async move { Outcome::Unmade(unmake::unmake(&node, &id, monitor).await) });
    }

    fn hear_unmade(&mut self, ended: Result<(), Error>) {
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

    fn be_gone(&mut self) {
        self.tell(ContainerEventType::ContainerDeletedEvent);
        self.node.world.forget_sandbox(&self.facts.id);
        self.node.release_name(&Name::of(&self.facts.request), &self.facts.id);
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
    fn is_gone(&self) -> bool {
        self.life == Life::Removing && !self.node.world.now().sandboxes.contains_key(&self.facts.id)
    }

    fn set(&mut self, event: Event) {
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

    fn refuse_all(&mut self, error: &Error) {
        for (_, reply) in self.waiting.drain(..) {
            let _ = reply.send(Err(error.clone()));
        }
    }

    fn publish(&self) {
        self.node.world.publish_sandbox(Arc::new(self.sandbox()));
    }

    fn sandbox(&self) -> Sandbox {
        Sandbox {
            facts: self.facts.clone(),
            life: self.life,
            ips: self.ips.clone(),
            monitor: self.monitor.clone(),
            task: self.own.clone(),
        }
    }

    fn tell(&self, kind: ContainerEventType) {
        self.tell_of(kind, self.facts.id.clone());
    }

    fn tell_of(&self, kind: ContainerEventType, id: Arc<str>) {
        let at_ns = self.node.now_ns();
        self.node.world.tell(Change { kind, id, at_ns, sandbox: Arc::new(self.sandbox()) });
    }

    fn state_error(&self, why: &'static str) -> Error {
        Error::State { noun: Noun::Sandbox, id: self.facts.id.to_string(), why }
    }

    // ---- making containers ----

    fn create(&mut self, config: Box<v1::ContainerConfig>) -> Result<Underway, Error> {
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

    fn hear_made(&mut self, id: &Arc<str>, made: Result<(Arc<container::Facts>, container::Life), Error>) {
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

    fn hear_undone(&mut self, id: &Arc<str>, error: Error) {
        if let Some(slot) = self.containers.remove(id) {
            slot.stage.tell(Err(error));
        }
    }

    // ---- containers ----

    fn settle_container(&mut self, id: &Arc<str>) {
        let Some(slot) = self.containers.get_mut(id) else { return };
        slot.waiting.retain(|(_, reply)| !reply.is_closed());
        for (ask, reply) in std::mem::take(&mut slot.waiting) {
            match self.answer_container(id, ask) {
                ContainerAnswer::Already => drop(reply.send(Ok(()))),
                ContainerAnswer::No(why) => {
                    let error = Error::State { noun: Noun::Container, id: id.to_string(), why };
                    drop(reply.send(Err(error)));
                }
                ContainerAnswer::Join => self.keep_waiting(id, ask, reply),
                ContainerAnswer::Do(deed) => {
                    self.begin(id, deed);
                    self.keep_waiting(id, ask, reply);
                }
            }
        }
    }

    fn answer_container(&self, id: &Arc<str>, ask: ContainerAsk) -> ContainerAnswer {
        match self.containers.get(id).map(|slot| &slot.stage) {
            Some(Stage::Made { life, .. }) => match life.answer(ask) {
                ContainerAnswer::Do(_) if self.is_between() => ContainerAnswer::Join,
                answer => answer,
            },
            Some(Stage::Making { .. }) | None => ContainerAnswer::Join,
        }
    }

    /// Whether nothing can be asked of the monitor just now, but soon can or need not be.
    fn is_between(&self) -> bool {
        self.stop == Stopping::Stilling
            || (self.monitor.is_none() && matches!(self.life, Life::Ready | Life::Stopping))
    }

    fn keep_waiting(&mut self, id: &Arc<str>, ask: ContainerAsk, reply: Reply) {
        match self.containers.get_mut(id) {
            Some(slot) => slot.waiting.push((ask, reply)),
            None => drop(reply.send(without(id, ask))),
        }
    }

    fn begin(&mut self, id: &Arc<str>, deed: Deed) {
        match deed {
            Deed::Start => self.begin_start(id),
            Deed::AskToEnd { kill_at_ms } => {
                self.change(id, ContainerEvent::StopBegun { kill_at_ms });
                let signal = self.stop_signal(id);
                self.signal(id, signal);
            }
            Deed::Hurry { kill_at_ms } => self.change(id, ContainerEvent::StopBegun { kill_at_ms }),
            Deed::Kill => {
                self.change(id, ContainerEvent::Killed);
                self.signal(id, SIGKILL);
            }
            Deed::Remove => self.begin_container_removal(id),
        }
    }

    fn begin_start(&mut self, id: &Arc<str>) {
        let Some(monitor) = self.monitor.clone() else { return };
        self.change(id, ContainerEvent::StartBegun);
        let id = id.clone();
        self.work.spawn(async move {
            let started = container::make::start(&monitor, id.clone()).await;
            Outcome::Started { id, started }
        });
    }

    fn hear_started(&mut self, id: &Arc<str>, started: Result<i64, Error>) {
        match started {
            Ok(started_at_ns) => {
                self.change(id, ContainerEvent::Started { started_at_ns });
                self.tell_of(ContainerEventType::ContainerStartedEvent, id.clone());
                self.answer_all(id, |ask| ask == ContainerAsk::Start, &Ok(()));
            }
            Err(error) => {
                // Whether it runs is not known when the monitor went away before it could say.
                if !matches!(&error, Error::Monitor(error) if matches!(**error, monitor::Error::Gone)) {
                    self.change(id, ContainerEvent::StartFailed);
                    self.answer_all(id, |ask| ask == ContainerAsk::Start, &Err(error));
                }
            }
        }
    }

    fn stop_signal(&self, id: &Arc<str>) -> i32 {
        match self.containers.get(id).map(|slot| &slot.stage) {
            Some(Stage::Made { facts, .. }) => facts.made.plan.stop_signal,
            Some(Stage::Making { .. }) | None => SIGKILL,
        }
    }

    fn signal(&mut self, id: &Arc<str>, signal: i32) {
        let Some(monitor) = self.monitor.clone() else { return };
        let scope = if signal == SIGKILL { Scope::All } else { Scope::Init };
        let id = id.clone();
        self.work.spawn(async move {
            let ask = MonitorAsk::Signal { container_id: id.to_string(), signal, scope };
            let sent = monitor.order(ask).await.map_err(Error::from);
            Outcome::Signalled { id, sent }
        });
    }

    fn hear_signalled(&mut self, id: &Arc<str>, sent: Result<(), Error>) {
        match sent {
            Ok(()) => {}
            // The next monitor is asked again.
            Err(Error::Monitor(error)) if matches!(*error, monitor::Error::Gone) => {}
            // It does not know the container, so nothing of it runs. All it knows says how that came.
            Err(Error::Monitor(error)) if error.is_not_found() => self.reach(Duration::ZERO),
            // The whole pod is to go; the monitor has other means for that.
            Err(_) if self.life == Life::Stopping => self.begin_stilling(),
            Err(error) => {
                self.change(id, ContainerEvent::StopFailed);
                self.answer_all(id, |ask| matches!(ask, ContainerAsk::Stop { .. }), &Err(error));
            }
        }
    }

    fn begin_container_removal(&mut self, id: &Arc<str>) {
        self.change(id, ContainerEvent::RemovalBegun);
        let (node, sandbox_id, id) = (self.node.clone(), self.facts.id.clone(), id.clone());
        let monitor = self.monitor.clone();
        self.work.spawn(async move {
            let unmade = container::unmake::unmake(&node, &sandbox_id, &id, monitor.as_ref()).await;
            Outcome::ContainerUnmade { id, unmade }
        });
    }

    fn hear_container_unmade(&mut self, id: &Arc<str>, unmade: Result<(), Error>) {
        match unmade {
            Ok(()) => {
                self.tell_of(ContainerEventType::ContainerDeletedEvent, id.clone());
                self.node.world.forget_container(id);
                let slot = self.containers.remove(id);
                for (ask, reply) in slot.into_iter().flat_map(|slot| slot.waiting) {
                    let _ = reply.send(without(id, ask));
                }
            }
            // The next monitor is asked again.
            Err(Error::Monitor(error))
                if matches!(*error, monitor::Error::Gone) && self.life == Life::Ready => {}
            Err(error) => {
                self.change(id, ContainerEvent::RemovalFailed);
                self.answer_all(id, |ask| ask == ContainerAsk::Remove, &Err(error));
            }
        }
    }

    fn answer_all(
        &mut self,
        id: &Arc<str>,
        which: impl Fn(ContainerAsk) -> bool,
        answer: &Result<(), Error>,
    ) {
        let Some(slot) = self.containers.get_mut(id) else { return };
        let (answered, still_waiting) =
            std::mem::take(&mut slot.waiting).into_iter().partition(|(ask, _)| which(*ask));
        slot.waiting = still_waiting;
        for (_, reply) in answered {
            let _ = reply.send(answer.clone());
        }
    }

    /// The next time at which a container's grace is over.
    fn next_kill(&self) -> Option<tokio::time::Instant> {
        let at = self.containers.values().filter_map(Slot::kill_at_ms).min()?;
        Some(self.node.at_ms(at))
    }

    fn kill_overdue(&mut self) {
        let now_ms = self.node.now_ms();
        let overdue = |slot: &Slot| slot.kill_at_ms().is_some_and(|at| at <= now_ms);
        let ids: Vec<Arc<str>> =
            self.containers.iter().filter(|(_, slot)| overdue(slot)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.begin(&id, Deed::Kill);
        }
    }

    fn change(&mut self, id: &str, event: ContainerEvent) {
        let Some((id, _)) = self.containers.get_key_value(id) else { return };
        let id = id.clone();
        match self.containers.get_mut(&id).map(|slot| &mut slot.stage) {
            Some(Stage::Made { life, .. }) => match life.after(event) {
                Some(after) if after != *life => self.set_life(&id, after),
                Some(_) => {}
                None => tracing::error!(container = &*id, ?life, ?event, "cannot happen"),
            },
            Some(Stage::Making { ended, .. }) => {
                if let ContainerEvent::Exited(exit) = event {
                    *ended = Some(exit);
                }
            }
            None => {}
        }
    }

    fn set_life(&mut self, id: &Arc<str>, after: container::Life) {
        let Some(Stage::Made { life, .. }) = self.containers.get_mut(id).map(|slot| &mut slot.stage) else {
            return;
        };
        let ended = life.exit().is_none() && after.exit().is_some();
        *life = after;
        self.keep_life(id, after);
        self.publish_container(id);
        if ended {
            self.tell_of(ContainerEventType::ContainerStoppedEvent, id.clone());
        }
    }

    fn keep_life(&self, id: &Arc<str>, life: container::Life) {
        if life.is_worth_keeping() {
            let record = self.node.store.sandbox(&self.facts.id).container(id);
            if let Err(error) = record.write_json("life", &life) {
                tracing::error!(
                    container = &**id,
                    error = chain(&error),
                    "keeping the container's state failed"
                );
            }
        }
    }

    fn publish_container(&self, id: &Arc<str>) {
        if let Some(Stage::Made { facts, life }) = self.containers.get(id).map(|slot| &slot.stage) {
            self.node.world.publish_container(Arc::new(Container { facts: facts.clone(), life: *life }));
        }
    }
}

const SIGKILL: i32 = 9;

impl Stopping {
    fn until(self) -> Option<tokio::time::Instant> {
        match self {
            Stopping::Killing { until } => Some(until),
            Stopping::Not | Stopping::Stilling => None,
        }
    }
}

impl Slot {
    fn config(&self) -> &v1::ContainerConfig {
        match &self.stage {
            Stage::Making { config, .. } => config,
            Stage::Made { facts, .. } => &facts.config,
        }
    }

    /// The same asked for again.
    fn join(&self, id: &Arc<str>, asked: &v1::ContainerConfig) -> Result<Underway, Error> {
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
    fn is_quiet(&self) -> bool {
        match &self.stage {
            Stage::Made { life: container::Life::Exited { .. } | container::Life::Broken { .. }, .. } => true,
            Stage::Made { .. } | Stage::Making { .. } => false,
        }
    }

    fn kill_at_ms(&self) -> Option<u64> {
        match &self.stage {
            Stage::Made { life, .. } => life.kill_at_ms(),
            Stage::Making { .. } => None,
        }
    }
}

impl Stage {
    /// Tells those who wait for a making how it went.
    fn tell(self, outcome: Result<(), Error>) {
        if let Stage::Making { done, .. } = self {
            done.tell(outcome);
        }
    }
}

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
