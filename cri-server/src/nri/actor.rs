//! The one who talks to plugins: one event after the other, each to all plugins that want it, in their order.
//!
//! So plugins never hear two things at once, and a plugin that joins hears of all there is and of all that comes, with
//! nothing between. What an event may take is bounded: a plugin that keeps silent is cut off, and is not asked again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::nri::{
    Container, ContainerUpdate, CreateContainerRequest, CreateContainerResponse, Empty, Event,
    LinuxResources, PluginInstance, PodSandbox, StopContainerResponse, UpdateContainerRequest,
    UpdateContainerResponse, UpdatePodSandboxRequest, ValidateContainerAdjustmentRequest,
    ValidateContainerAdjustmentResponse,
};
use tokio::sync::{mpsc, oneshot};

use super::describe::{self, Subject};
use super::link::CallError;
use super::merge::{self, Wishes};
use super::plugin::Plugin;
use super::{Created, Error, Updated, events, update, validator};
use crate::node::Node;

/// What is to be told or asked. Callers wait at most for one thing for each pod or container that is there, so the
/// queue is as long as that.
#[derive(Debug)]
pub(super) enum Job {
    Join {
        plugin: Plugin,
        done: oneshot::Sender<Result<(), CallError>>,
    },
    Tell {
        event: Event,
        subject: Subject,
        reply: Option<oneshot::Sender<Result<(), Error>>>,
    },
    Create {
        pod: Box<PodSandbox>,
        container: Box<Container>,
        reply: oneshot::Sender<Result<Created, Error>>,
    },
    Update {
        subject: Subject,
        asked: Box<LinuxResources>,
        reply: oneshot::Sender<Result<Updated, Error>>,
    },
    UpdatePod {
        subject: Subject,
        overhead: Box<LinuxResources>,
        resources: Box<LinuxResources>,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    ShutDown {
        patience: Duration,
        done: oneshot::Sender<()>,
    },
}

struct Actor {
    node: Arc<Node>,
    plugins: Vec<Plugin>,
}

pub(super) async fn run(node: Arc<Node>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let mut actor = Actor { node, plugins: Vec::new() };
    while let Some(job) = jobs.recv().await {
        actor.forget_closed();
        actor.hear(job).await;
        actor.forget_closed();
    }
}

/// A plugin's answer, or none from one that was just cut off: the rest goes on without it.
fn heard<A>(plugin: &Plugin, event: Event, answer: Result<A, CallError>) -> Result<Option<A>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(CallError::Closed) => {
            let call = events::method(event);
            tracing::warn!("NRI plugin {} is gone without an answer to {call}", plugin.identity);
            Ok(None)
        }
        Err(error) if error.is_fatal() => {
            let call = events::method(event);
            tracing::error!("NRI plugin {} is cut off: {call}: {error}", plugin.identity);
            Ok(None)
        }
        Err(error) => {
            let (plugin, event) = (plugin.identity.to_string(), events::method(event));
            Err(Error::Refused { plugin, event, words: error.to_string() })
        }
    }
}

impl Actor {
    async fn hear(&mut self, job: Job) {
        match job {
            Job::Join { plugin, done } => drop(done.send(self.join(plugin).await)),
            Job::Tell { event: Event::StopContainer, subject, reply } => {
                self.tell_stop(subject).await;
                answer(reply, Ok(()));
            }
            Job::Tell { event, subject, reply } => answer(reply, self.tell(event, subject).await),
            Job::Create { pod, container, reply } => {
                let _ = reply.send(self.create(*pod, *container).await);
            }
            Job::Update { subject, asked, reply } => {
                let _ = reply.send(self.update(subject, *asked).await);
            }
            Job::UpdatePod { subject, overhead, resources, reply } => {
                let _ = reply.send(self.update_pod(subject, *overhead, *resources).await);
            }
            Job::ShutDown { patience, done } => {
                for plugin in std::mem::take(&mut self.plugins) {
                    plugin.shut_down(patience).await;
                }
                let _ = done.send(());
            }
        }
    }

    fn forget_closed(&mut self) {
        self.plugins.retain(|plugin| !plugin.link.is_closed());
        self.want(0);
    }

    /// Whatever begins from now on is told to who wants it, and to who joins.
    fn want(&self, joining: u32) {
        let wanted = self.plugins.iter().fold(joining, |all, plugin| all | plugin.events);
        if let Some(shared) = &self.node.nri.shared {
            shared.wanted.store(wanted, Ordering::SeqCst);
        }
    }

    fn wanting(&self, event: Event) -> Vec<Plugin> {
        self.plugins
            .iter()
            .filter(|plugin| plugin.wants(event) && !plugin.link.is_closed())
            .cloned()
            .collect()
    }

    /// First the events, then the world: what is made meanwhile is in one of the two.
    async fn join(&mut self, plugin: Plugin) -> Result<(), CallError> {
        self.want(plugin.events);
        let (pods, containers) = self.all().await;
        let updates = plugin.synchronize(pods, containers).await?;
        let by = plugin.identity.to_string();
        tracing::info!("NRI plugin {by} has joined");
        self.plugins.push(plugin);
        self.plugins.sort_by(|one, other| one.identity.cmp(&other.identity));
        self.perform(by, updates);
        Ok(())
    }

    /// What is there and what is just being made.
    async fn all(&self) -> (Vec<PodSandbox>, Vec<Container>) {
        let births = self.node.nri.births();
        let node = self.node.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let world = node.world.now();
            let mut pods: BTreeMap<String, PodSandbox> = BTreeMap::new();
            let mut containers: BTreeMap<String, Container> = BTreeMap::new();
            for (pod, container) in births {
                match container {
                    Some(container) => drop(containers.insert(container.id.clone(), container)),
                    None => drop(pods.insert(pod.id.clone(), pod)),
                }
            }
            let ready = world.sandboxes.values().filter(|sandbox| sandbox.life.is_ready());
            pods.extend(ready.map(|sandbox| (sandbox.facts.id.to_string(), describe::known_pod(sandbox))));
            let alive = world.containers.values().filter(|container| container.life.pid().is_some());
            containers.extend(alive.map(|container| {
                (container.facts.id.to_string(), describe::known_container(&node, container))
            }));
            (pods.into_values().collect(), containers.into_values().collect())
        });
        reading.await.unwrap_or_default()
    }

    /// Changes that plugins want of others; nobody waits for them.
    fn perform(&self, by: String, updates: Vec<ContainerUpdate>) {
        if !updates.is_empty() {
            let node = self.node.clone();
            tokio::spawn(async move { drop(update::all(&node, &by, updates).await) });
        }
    }

    async fn tell(&self, event: Event, subject: Subject) -> Result<(), Error> {
        let plugins = self.wanting(event);
        if plugins.is_empty() {
            return Ok(());
        }
        let (pod, container) = subject.told(&self.node).await;
        for plugin in plugins {
            let told: Result<Empty, _> = plugin.tell(event, &pod, container.as_ref()).await;
            match heard(&plugin, event, told) {
                Err(refused) if events::is_question(event) => return Err(refused),
                Err(refused) => tracing::warn!("{refused}"),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// The only event without a say that may be answered with wishes.
    async fn tell_stop(&self, subject: Subject) {
        let event = Event::StopContainer;
        let plugins = self.wanting(event);
        if plugins.is_empty() {
            return;
        }
        let (pod, container) = subject.told(&self.node).await;
        let mut wishes = Wishes::default();
        for plugin in plugins {
            let told: Result<StopContainerResponse, _> = plugin.tell(event, &pod, container.as_ref()).await;
            let wished = heard(&plugin, event, told).and_then(|answer| {
                let update = answer.unwrap_or_default().update;
                Ok(wishes.update(&plugin.identity.to_string(), update)?)
            });
            if let Err(error) = wished {
                tracing::warn!("{error}");
            }
        }
        self.perform("the end of a container".into(), wishes.updates().to_vec());
    }

    async fn create(&self, pod: PodSandbox, container: Container) -> Result<Created, Error> {
        let event = Event::CreateContainer;
        let pristine = container.clone();
        let mut wishes = Wishes::of_making(&container.id);
        let mut request = CreateContainerRequest { pod: Some(pod), container: Some(container) };
        let mut asked = Vec::new();
        for plugin in self.wanting(event) {
            let name = plugin.identity.to_string();
            let answered: Result<CreateContainerResponse, _> = plugin.call(event, &request).await;
            asked.push(plugin.clone());
            let Some(answer) = heard(&plugin, event, answered)? else { continue };
            if let Some(adjust) = &answer.adjust {
                wishes.adjust(&name, adjust)?;
                merge::show(request.container.get_or_insert_default(), adjust);
            }
            wishes.update(&name, answer.update)?;
            for eviction in answer.evict {
                update::evict(&self.node, &name, eviction);
            }
        }
        self.validate(request.pod.unwrap_or_default(), pristine, &wishes, &asked).await?;
        let updates = wishes.updates().to_vec();
        Ok(Created { adjust: wishes.adjust, updates })
    }

    /// Asks those who judge what the others want. One that cannot be asked has not agreed.
    async fn validate(
        &self,
        pod: PodSandbox,
        container: Container,
        wishes: &Wishes,
        asked: &[Plugin],
    ) -> Result<(), Error> {
        let event = Event::ValidateContainerAdjustment;
        let instance = |plugin: &Plugin| PluginInstance {
            name: plugin.identity.name.clone(),
            index: plugin.identity.index.clone(),
        };
        let request = ValidateContainerAdjustmentRequest {
            pod: Some(pod),
            container: Some(container),
            adjust: Some(wishes.adjust.clone()),
            update: wishes.updates().to_vec(),
            owners: Some(wishes.owners()),
            plugins: asked.iter().map(instance).collect(),
        };
        validator::judge(&self.node.config().nri.default_validator, &request)
            .map_err(|reason| Error::Rejected { plugin: validator::NAME.to_owned(), reason })?;
        for judge in self.wanting(event) {
            let plugin = judge.identity.to_string();
            let judged: Result<ValidateContainerAdjustmentResponse, _> = judge.call(event, &request).await;
            let judgement = judged.map_err(|source| Error::Unjudged { plugin: plugin.clone(), source })?;
            if judgement.reject {
                return Err(Error::Rejected { plugin, reason: judgement.reason });
            }
        }
        Ok(())
    }

    async fn update(&self, subject: Subject, asked: LinuxResources) -> Result<Updated, Error> {
        let event = Event::UpdateContainer;
        let (pod, container) = subject.told(&self.node).await;
        let id = container.as_ref().map(|container| container.id.clone()).unwrap_or_default();
        let mut wishes = Wishes::default();
        let mut request = UpdateContainerRequest { pod: Some(pod), container, linux_resources: Some(asked) };
        for plugin in self.wanting(event) {
            let name = plugin.identity.to_string();
            let answered: Result<UpdateContainerResponse, _> = plugin.call(event, &request).await;
            let Some(answer) = heard(&plugin, event, answered)? else { continue };
            for update in answer.update.iter().filter(|update| update.container_id == id) {
                if let Some(wished) = update.linux.as_ref().and_then(|linux| linux.resources.as_ref()) {
                    super::overlay::resources(request.linux_resources.get_or_insert_default(), wished);
                }
            }
            wishes.update(&name, answer.update)?;
            for eviction in answer.evict {
                update::evict(&self.node, &name, eviction);
            }
        }
        let (others, own) = wishes.updates_beside(&id);
        let mut resources = request.linux_resources.unwrap_or_default();
        super::overlay::resources(&mut resources, &own);
        Ok(Updated { resources, others })
    }

    async fn update_pod(
        &self,
        subject: Subject,
        overhead: LinuxResources,
        resources: LinuxResources,
    ) -> Result<(), Error> {
        let event = Event::UpdatePodSandbox;
        let (pod, _) = subject.told(&self.node).await;
        let request = UpdatePodSandboxRequest {
            pod: Some(pod),
            overhead_linux_resources: Some(overhead),
            linux_resources: Some(resources),
        };
        for plugin in self.wanting(event) {
            let told: Result<Empty, _> = plugin.call(event, &request).await;
            heard(&plugin, event, told)?;
        }
        Ok(())
    }
}

/// Who does not wait is told in the log.
fn answer(reply: Option<oneshot::Sender<Result<(), Error>>>, outcome: Result<(), Error>) {
    match (reply, outcome) {
        (Some(reply), outcome) => drop(reply.send(outcome)),
        (None, Ok(())) => {}
        (None, Err(error)) => tracing::warn!("{error}"),
    }
}
