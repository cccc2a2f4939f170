//! The Node Resource Interface: plugins that hear of pods and containers, and may change what containers get.
//!
//! `mux`, `ttrpc` and `link` are the wire; `plugin` is one of them, `launch` and `accept` are how they come, `actor`
//! asks them one event after the other. `merge`, `overlay` and `owners` decide what all of them want together, `apply`
//! what that makes of a plan. What follows is what the rest of the daemon knows of it.
//!
//! Who makes a container asks and waits; ends are told and nobody waits. Without a plugin that wants an event it costs
//! one load of a number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::nri::{Container, ContainerAdjustment, ContainerUpdate, LinuxResources, PodSandbox};
use tokio::sync::{Semaphore, mpsc, oneshot};

mod accept;
mod actor;
mod apply;
mod create;
mod describe;
mod events;
mod launch;
mod limits;
mod link;
mod merge;
mod mux;
mod overlay;
mod owners;
mod plugin;
mod resources;
mod ttrpc;
mod update;
mod validator;
mod words;

pub use apply::Unfit;
pub use describe::Subject;
pub use launch::become_plugin_if_asked;
pub use link::CallError;
pub use merge::Error as MergeError;
pub use mux::Broken;
pub use owners::Conflict;
pub use proto::nri::Event;
pub use ttrpc::Status;
pub use validator::ValidatorSection;

pub(crate) use create::{Adjusted, adjusted};
pub(crate) use describe::About;
pub(crate) use limits::{change_limits, change_pod_limits};
pub(crate) use resources::lay_over;

use crate::config::section::section;
use crate::error::Error as NodeError;
use crate::node::Node;
use crate::sandbox;
use actor::Job;
use plugin::{Patience, Plugin};

/// Plugins at once. Each is asked of each event that it wants, so more would be slow before it is much.
const PLUGINS_MAX: usize = 64;

section! {
    /// Plugins of the Node Resource Interface (NRI). What they may do to containers is as much as root may.
    pub struct NriSection {
        /// Whether there are any.
        enable: bool = true,
        /// Where plugins come to by themselves.
        socket: std::path::PathBuf = "/var/run/nri/nri.sock".into(),
        /// Whether they may; if not, only those in `plugin_dir` are used.
        external_connections: bool = true,
        /// Programs, each named NN-NAME, that are started with berthd.
        plugin_dir: std::path::PathBuf = "/opt/nri/plugins".into(),
        /// Their configuration: NN-NAME.conf or NAME.conf.
        config_dir: std::path::PathBuf = "/etc/nri/conf.d".into(),
        /// How long a plugin that has connected may take to register, and then to hear of what there is.
        registration_timeout_ms: u64 = 5000,
        /// How long a plugin may take for any other answer before it is cut off.
        request_timeout_ms: u64 = 2000,
        default_validator: ValidatorSection = ValidatorSection::default(),
    }
}

/// Why plugins keep something from being done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("NRI plugin {plugin} refuses {event}: {words}")]
    Refused { plugin: String, event: &'static str, words: String },
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("NRI plugin {plugin} rejects what the others want: {reason}")]
    Rejected { plugin: String, reason: String },
    #[error("NRI plugin {plugin} cannot be asked what it thinks of what the others want")]
    Unjudged {
        plugin: String,
        #[source]
        source: CallError,
    },
    #[error("what plugins want of container {container_id} with it can't be done")]
    Other {
        container_id: String,
        #[source]
        source: Box<NodeError>,
    },
}

/// What plugins want of a container that is made.
#[derive(Debug, Default)]
struct Created {
    adjust: ContainerAdjustment,
    updates: Vec<ContainerUpdate>,
}

/// What plugins make of a change of limits.
#[derive(Debug)]
struct Updated {
    resources: LinuxResources,
    others: Vec<ContainerUpdate>,
}

/// The daemon's side of it. Without `shared` there are no plugins.
#[derive(Debug, Default)]
pub struct Nri {
    shared: Option<Arc<Shared>>,
}

/// By id. A pod has no container beside it.
type Births = HashMap<Arc<str>, (PodSandbox, Option<Container>)>;

#[derive(Debug)]
struct Shared {
    jobs: mpsc::UnboundedSender<Job>,
    /// Taken by the actor when it begins.
    receiver: Mutex<Option<mpsc::UnboundedReceiver<Job>>>,
    /// A bit for each event that some plugin wants.
    wanted: AtomicU32,
    /// What is being made and is not in the world yet.
    births: Mutex<Births>,
}

/// Something that is being made. Unless it is said to be born, plugins are told of its end: they may have been asked about
/// it, or have joined meanwhile and found it among the births.
#[derive(Debug)]
pub struct Birth {
    shared: Option<Arc<Shared>>,
    id: Arc<str>,
    born: bool,
}

impl Nri {
    pub fn new(section: &NriSection) -> Self {
        if !section.enable {
            return Self::default();
        }
        let (jobs, receiver) = mpsc::unbounded_channel();
        let receiver = Mutex::new(Some(receiver));
        let shared = Shared { jobs, receiver, wanted: AtomicU32::new(0), births: Mutex::default() };
        Self { shared: Some(Arc::new(shared)) }
    }

    /// Whether anybody would hear of it.
    pub fn wants(&self, event: Event) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.wants(event))
    }

    /// Tells of an event. Nobody waits, and a plugin has nothing to say against it.
    pub fn tell(&self, event: Event, subject: Subject) {
        if let Some(shared) = self.shared.as_ref().filter(|shared| shared.wants(event)) {
            shared.send(Job::Tell { event, subject, reply: None });
        }
    }

    /// Tells of an event, and waits until all have heard it.
    ///
    /// # Errors
    /// When a plugin says no.
    pub async fn ask(&self, event: Event, subject: Subject) -> Result<(), NodeError> {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.wants(event)) else { return Ok(()) };
        let (reply, heard) = oneshot::channel();
        shared.send(Job::Tell { event, subject, reply: Some(reply) });
        Ok(heard.await.map_err(|_| NodeError::Stopping)??)
    }

    /// A pod is about to be in the world: plugins hear of it first.
    ///
    /// # Errors
    /// When a plugin says no.
    pub async fn run_pod(
        &self,
        facts: &sandbox::Facts,
        ips: &[std::net::IpAddr],
    ) -> Result<Birth, NodeError> {
        let pod = describe::pod(facts, ips.iter().map(ToString::to_string).collect(), None);
        let birth = self.birth(facts.id.clone(), pod.clone(), None);
        self.ask(Event::RunPodSandbox, Subject::Told { pod: Box::new(pod), container: None }).await?;
        Ok(birth)
    }

    fn birth(&self, id: Arc<str>, pod: PodSandbox, container: Option<Container>) -> Birth {
        if let Some(shared) = &self.shared {
            shared.births().insert(id.clone(), (pod, container));
        }
        Birth { shared: self.shared.clone(), id, born: false }
    }

    fn births(&self) -> Vec<(PodSandbox, Option<Container>)> {
        self.shared.as_ref().map(|shared| shared.births().values().cloned().collect()).unwrap_or_default()
    }

    /// Tells the plugins that berthd ends.
    pub async fn shut_down(&self, patience: Duration) {
        let Some(shared) = &self.shared else { return };
        let (done, told) = oneshot::channel();
        shared.send(Job::ShutDown { patience, done });
        let _ = tokio::time::timeout(patience, told).await;
    }
}

impl Shared {
    fn wants(&self, event: Event) -> bool {
        self.wanted.load(Ordering::SeqCst) & events::bit(event) != 0
    }

    /// Before the actor begins and after it has ended nobody wants anything.
    fn send(&self, job: Job) {
        let _ = self.jobs.send(job);
    }

    fn births(&self) -> std::sync::MutexGuard<'_, Births> {
        self.births.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Birth {
    /// It is in the world now.
    pub fn born(mut self) {
        self.born = true;
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        let Some(shared) = &self.shared else { return };
        let Some((pod, container)) = shared.births().remove(&self.id) else { return };
        if self.born {
            return;
        }
        let ends = match container {
            Some(_) => [Event::StopContainer, Event::RemoveContainer],
            None => [Event::StopPodSandbox, Event::RemovePodSandbox],
        };
        // Asked now: who has joined meanwhile is in the mask since before it looked for births.
        for event in ends.into_iter().filter(|event| shared.wants(*event)) {
            let subject =
                Subject::Told { pod: Box::new(pod.clone()), container: container.clone().map(Box::new) };
            shared.send(Job::Tell { event, subject, reply: None });
        }
    }
}

/// Starts the plugins that there are, and lets others come. When it is done, those that were started are asked of
/// whatever is made from then on.
pub async fn start(node: &Arc<Node>) {
    let Some(shared) = &node.nri.shared else { return };
    let Some(jobs) = shared.receiver.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    tokio::spawn(actor::run(node.clone(), jobs));
    let config = node.config();
    let section = &config.nri;
    let patience = Patience {
        registration: Duration::from_millis(section.registration_timeout_ms),
        request: Duration::from_millis(section.request_timeout_ms),
    };
    let places = Arc::new(Semaphore::new(PLUGINS_MAX));
    let found = launch::discover(&section.plugin_dir, &section.config_dir);
    let launched = found.into_iter().map(|found| launch::launch(node, found, &places, patience));
    for plugin in futures_util::future::join_all(launched).await.into_iter().flatten() {
        take_in(node, plugin).await;
    }
    if section.external_connections {
        match accept::listen(&section.socket) {
            Ok(listener) => drop(tokio::spawn(accept::serve(node.clone(), listener, places, patience))),
            Err(error) => tracing::error!(
                "NRI plugins can't come: {}: {error}; set nri.socket to another path, or nri.enable = false",
                section.socket.display()
            ),
        }
    }
}

/// Has it hear of all there is, and then of all that comes.
async fn take_in(node: &Arc<Node>, plugin: Plugin) {
    let Some(shared) = &node.nri.shared else { return };
    let (done, joined) = oneshot::channel();
    let (identity, link) = (plugin.identity.clone(), plugin.link.clone());
    shared.send(Job::Join { plugin, done });
    if let Ok(Err(error)) = joined.await {
        tracing::error!("NRI plugin {identity} is turned away: synchronizing it: {error}");
        link.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_joined_during_a_making_that_failed_hears_of_its_end() {
        let nri = Nri::new(&NriSection::default());
        let shared = nri.shared.as_ref().unwrap();
        let mut jobs = shared.receiver.lock().unwrap().take().unwrap();
        for (joins, is_born, heard) in [(true, false, 2), (true, true, 0), (false, false, 0)] {
            shared.wanted.store(0, Ordering::SeqCst);
            let birth = nri.birth("c".into(), PodSandbox::default(), Some(Container::default()));
            if joins {
                shared.wanted.store(u32::MAX, Ordering::SeqCst);
                assert_eq!(nri.births().len(), 1, "it finds it among the births");
            }
            if is_born {
                birth.born();
            } else {
                drop(birth);
            }
            assert!(nri.births().is_empty());
            let told: Vec<Event> = std::iter::from_fn(|| jobs.try_recv().ok())
                .map(|job| match job {
                    Job::Tell { event, .. } => event,
                    other => panic!("{other:?}"),
                })
                .collect();
            let ends = [Event::StopContainer, Event::RemoveContainer];
            assert_eq!(told, ends[..heard], "joins {joins}, is born {is_born}");
        }
    }
}
