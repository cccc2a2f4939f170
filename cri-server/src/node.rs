//! The daemon's parts, wired in one place, and the pods by name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use image_service::Images;
use network::Network;
use proto::v1;
use tokio::sync::watch;

use crate::checkpoint::Leftovers;
use crate::config::Config;
use crate::container::plan::SelinuxUse;
use crate::criu::Criu;
use crate::error::{Error, Noun};
use crate::handlers::{self, Handlers};
use crate::making::{Done, Underway};
use crate::metrics::Metrics;
use crate::monitor::Monitors;
use crate::nri::Nri;
use crate::rdt;
use crate::sandbox::{self, Name, plan, task};
use crate::selinux;
use crate::stats::Stats;
use crate::step::{Progress, Step};
use crate::store::Store;
use crate::stream::Streams;
use crate::usage::Layers;
use crate::world::World;

/// How long a request waits for the pods of before to be found again.
const RECOVERY_WAIT: Duration = Duration::from_secs(10);
/// criu answers in a fraction of a second, or is given up by then.
const CRIU_WAIT: Duration = Duration::from_secs(45);
/// A resolver file is a few lines; nobody's is larger.
const RESOLV_CONF_MAX: usize = 64 << 10;

/// Everything that a request may need.
#[derive(Debug)]
pub struct Node {
    config: ArcSwap<Config>,
    pub store: Store,
    pub images: Images,
    pub network: Network,
    pub monitors: Monitors,
    pub streams: Streams,
    pub stats: Stats,
    /// What containers' writable layers took when they were last looked at.
    pub layers: Layers,
    pub metrics: Metrics,
    pub world: World,
    /// Plugins that have a say in pods and containers.
    pub nri: Nri,
    /// What each handler said it can do.
    handlers: ArcSwap<Handlers>,
    /// What criu said, once it was asked.
    criu: watch::Sender<Option<Arc<Criu>>>,
    /// Checkpoints that the daemon before did not finish.
    pub leftovers: Leftovers,
    names: Mutex<HashMap<Name, Claim>>,
    /// SELinux levels of pods.
    pub levels: selinux::Pool,
    recovered: watch::Sender<bool>,
    began: Instant,
}

/// What the node is made of.
#[derive(Debug)]
pub struct Parts {
    pub config: Config,
    pub store: Store,
    pub images: Images,
    pub network: Network,
    pub monitors: Monitors,
    pub streams: Streams,
    pub stats: Stats,
}

/// Who has a sandbox's name.
#[derive(Debug)]
enum Claim {
    Making { request: Box<v1::RunPodSandboxRequest>, underway: Underway },
    Made { id: Arc<str> },
}

impl Node {
    pub fn new(parts: Parts) -> Arc<Self> {
        let (recovered, _) = watch::channel(false);
        let nri = Nri::new(&parts.config.nri);
        Arc::new(Self {
            config: ArcSwap::from_pointee(parts.config),
            store: parts.store,
            images: parts.images,
            network: parts.network,
            monitors: parts.monitors,
            streams: parts.streams,
            stats: parts.stats,
            layers: Layers::default(),
            metrics: Metrics::default(),
            world: World::default(),
            nri,
            handlers: ArcSwap::default(),
            criu: watch::Sender::default(),
            leftovers: Leftovers::default(),
            names: Mutex::default(),
            levels: selinux::Pool::default(),
            recovered,
            began: Instant::now(),
        })
    }

    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    pub fn set_config(&self, config: Config) {
        self.config.store(Arc::new(config));
    }

    /// Asks the handlers what they can do: all of them, since one that was too slow to say it may say it now.
    pub async fn ask_handlers(&self) {
        self.ask_unlike(&Handlers::default()).await;
    }

    async fn ask_unlike(&self, before: &Handlers) {
        let told = Handlers::ask(&self.config().runtime, before).await;
        self.handlers.store(Arc::new(told));
    }

    /// Sets up the operator's classes of RDT. A node without them serves all containers but those that name one.
    pub async fn set_up_classes(&self) {
        let file = self.config().container.rdt_config_file.clone();
        if file.as_os_str().is_empty() {
            return;
        }
        let made =
            tokio::task::spawn_blocking(move || rdt::root().and_then(|root| rdt::set_up(&root, &file)));
        match made.await {
            Ok(Ok(classes)) => tracing::info!(?classes, "RDT classes are set up"),
            Ok(Err(error)) => {
                let why = crate::error::chain(&error);
                tracing::error!(
                    why,
                    "not all RDT classes are set up, and containers that name those are refused"
                );
            }
            Err(_) => {}
        }
    }

    /// Follows what becomes of the handlers' programs.
    pub async fn watch_handlers(&self) {
        loop {
            tokio::time::sleep(handlers::LOOK_EVERY).await;
            if self.config().runtime.handlers.values().any(|handler| !handler.is_in_tree()) {
                self.ask_unlike(&self.handlers()).await;
            }
        }
    }

    /// What the handlers said when they were asked last.
    pub fn handlers(&self) -> Arc<Handlers> {
        self.handlers.load_full()
    }

    /// Asks criu whether it works here.
    pub async fn ask_criu(&self) {
        let asked = Criu::ask(&self.config().checkpoint.criu).await;
        match &asked.works {
            Ok(version) => tracing::info!(version, "criu works"),
            Err(why) => tracing::info!(why, "no checkpoints on this node"),
        }
        self.criu.send_replace(Some(Arc::new(asked)));
    }

    /// What criu said when it was asked last; `None` in the first moments of the daemon.
    pub fn criu(&self) -> Option<Arc<Criu>> {
        self.criu.borrow().clone()
    }

    /// The same, for who would rather wait a moment.
    pub async fn criu_asked(&self) -> Option<Arc<Criu>> {
        let mut criu = self.criu.subscribe();
        let asked = tokio::time::timeout(CRIU_WAIT, criu.wait_for(Option::is_some)).await;
        asked.ok()?.ok()?.clone()
    }

    /// Nanoseconds since the Unix epoch.
    pub fn now_ns(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    /// Milliseconds since the daemon began; never goes back.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The moment that [`Node::now_ms`] will say this.
    pub fn at_ms(&self, ms: u64) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.began) + Duration::from_millis(ms)
    }

    /// Says that the pods of before are found.
    pub fn set_recovered(&self) {
        self.recovered.send_replace(true);
    }

    /// # Errors
    /// When the pods of before are still being found after a while.
    pub async fn wait_recovered(&self) -> Result<(), Error> {
        let mut recovered = self.recovered.subscribe();
        let seen = tokio::time::timeout(RECOVERY_WAIT, recovered.wait_for(|recovered| *recovered)).await;
        match seen {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::Recovering),
        }
    }

    /// Makes a sandbox, or joins its making when the same is asked for again.
    ///
    /// # Errors
    /// When the request contradicts itself, the network is not ready, or the name has another's request.
    pub fn run_sandbox(self: &Arc<Self>, request: v1::RunPodSandboxRequest) -> Result<Underway, Error> {
        let name = Name::of(&request);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claim) = names.get(&name) {
            return self.join(&name, claim, &request);
        }
        let id: Arc<str> = new_id().into();
        let plan = self.plan_sandbox(&id, &request)?;
        if plan.netns().is_some() {
            self.network.ready().map_err(Error::NetworkNotReady)?;
        }
        if let Some(labels) = &plan.labels {
            self.levels.take(id.clone(), labels);
        }
        let progress = Progress::new(id.clone(), Step::SandboxStore);
        let (underway, done) = Underway::new(Noun::Sandbox, id.clone(), progress.clone());
        names.insert(name, Claim::Making { request: Box::new(request.clone()), underway: underway.clone() });
        let facts = Arc::new(sandbox::Facts { id, request, plan });
        tokio::spawn(task::make(self.clone(), facts, progress, done));
        Ok(underway)
    }

    fn join(&self, name: &Name, claim: &Claim, asked: &v1::RunPodSandboxRequest) -> Result<Underway, Error> {
        let exists =
            |id: &Arc<str>| Error::Exists { noun: Noun::Sandbox, name: name.to_string(), id: id.to_string() };
        match claim {
            Claim::Making { request, underway } if **request == *asked => Ok(underway.clone()),
            Claim::Making { underway, .. } => Err(exists(&underway.id)),
            Claim::Made { id } => {
                let same = self
                    .world
                    .now()
                    .sandboxes
                    .get(id)
                    .is_some_and(|sandbox| sandbox.life.is_ready() && sandbox.facts.request == *asked);
                if same { Ok(made(Noun::Sandbox, id)) } else { Err(exists(id)) }
            }
        }
    }

    fn plan_sandbox(
        &self,
        id: &Arc<str>,
        request: &v1::RunPodSandboxRequest,
    ) -> Result<sandbox::Plan, Error> {
        let config = self.config();
        let hostname = rustix::system::uname();
        let (policy, free) = (selinux_policy(config.container.selinux)?, self.levels.free());
        let resolv_conf = host_resolv_conf();
        let host = plan::Host {
            hostname: hostname.nodename().to_str().unwrap_or("localhost"),
            resolv_conf: &resolv_conf,
            selinux: match &policy {
                Policy::Absent => plan::Selinux::Absent,
                Policy::Unwanted => plan::Selinux::Unwanted,
                Policy::Used(policy) => plan::Selinux::Used { policy, free: &free },
            },
        };
        let (record, known) = (self.store.sandbox(id), self.handlers());
        let inputs = plan::Inputs {
            sandbox_id: id,
            request,
            pod_dir: record.dir(),
            handlers: &config.runtime,
            known: &known,
            host: &host,
        };
        let plan = plan::plan(&inputs)?;
        if let Some(why) = known.fault(&plan.handler) {
            return Err(Error::Handler { name: plan.handler, why: why.to_owned() });
        }
        plan::check_labels(&plan)?;
        Ok(sandbox::Plan { created_at_ns: self.now_ns(), ..plan })
    }

    /// The name belongs to a sandbox that is there.
    pub(crate) fn name_made(&self, name: Name, id: Arc<str>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(name, Claim::Made { id });
    }

    /// Whether a sandbox is there or is being made.
    pub fn knows(&self, sandbox_id: &str) -> bool {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.values().any(|claim| claim.id() == sandbox_id)
    }

    /// Who has this name: a sandbox that is there, or is being made.
    pub(crate) fn named(&self, name: &Name) -> Option<Arc<str>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(name).map(|claim| claim.id().into())
    }

    /// A sandbox is gone: its SELinux level is free again, and its name unless another has it by now.
    pub(crate) fn release(&self, name: &Name, id: &str) {
        self.levels.release(id);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.get(name).is_some_and(|claim| claim.id() == id) {
            names.remove(name);
        }
    }
}

impl Claim {
    fn id(&self) -> &str {
        match self {
            Claim::Making { underway, .. } => &underway.id,
            Claim::Made { id } => id,
        }
    }
}

/// A making that has long succeeded.
pub(crate) fn made(noun: Noun, id: &Arc<str>) -> Underway {
    let (underway, done): (Underway, Done) =
        Underway::new(noun, id.clone(), Progress::new(id.clone(), Step::SandboxReady));
    done.tell(Ok(()));
    underway
}

/// 64 hexadecimal digits that nobody had before.
pub(crate) fn new_id() -> String {
    use std::fmt::Write as _;
    let mut bytes = [0u8; 32];
    let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    assert!(filled == Ok(bytes.len()), "the kernel gives 32 random bytes at once (getrandom(2))");
    bytes.iter().fold(String::with_capacity(64), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}

/// What pods are labelled by.
enum Policy {
    Absent,
    Unwanted,
    Used(Box<selinux::Policy>),
}

/// Read for each pod: another policy may have been loaded.
fn selinux_policy(wanted: SelinuxUse) -> Result<Policy, Error> {
    let refused = |why: String| Error::Selinux { why };
    match (wanted, selinux::policy::is_on()) {
        (SelinuxUse::Off, true) => Ok(Policy::Unwanted),
        (SelinuxUse::On, false) => {
            Err(refused("the kernel has it not on; boot with security=selinux".into()))
        }
        (SelinuxUse::Auto | SelinuxUse::Off, false) => Ok(Policy::Absent),
        (SelinuxUse::Auto | SelinuxUse::On, true) => selinux::Policy::read()
            .map(|policy| Policy::Used(Box::new(policy)))
            .map_err(|error| refused(error.to_string())),
    }
}

/// The host's resolver; systemd-resolved's stub is of no use in another network namespace.
fn host_resolv_conf() -> String {
    let read = |path: &str| std::fs::read(path).ok().filter(|bytes| bytes.len() <= RESOLV_CONF_MAX);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let host = read("/etc/resolv.conf").map(text).unwrap_or_default();
    if host.contains("nameserver 127.0.0.53") {
        return read("/run/systemd/resolve/resolv.conf").map(text).unwrap_or(host);
    }
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_long_and_differ() {
        let (one, other) = (new_id(), new_id());
        assert_eq!(one.len(), 64);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one, other);
    }
}
