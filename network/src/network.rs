//! The pods' network: one handle, cheap to clone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::conf::{Chain, Plugin, Version, check_name};
use crate::plugin::{Run, Runner, Target, Verb};
use crate::provision::provision;
use crate::record::{Kept, Record, Records};
use crate::watch::{Source, Watch};
use crate::{Attachment, Bandwidth, Error, NotReady, Pod, capabilities, netns};

/// Where things are, and how patient to be.
#[derive(Debug, Clone)]
pub struct Settings {
    pub conf_dir: PathBuf,
    /// Searched in order.
    pub bin_dirs: Vec<PathBuf>,
    /// Attachment records; must outlive a reboot.
    pub state_dir: PathBuf,
    /// Name of the network to use; without it the first file by name decides.
    pub default_network: Option<String>,
    /// How long one run of one plugin may take.
    pub plugin_timeout: Duration,
    /// What a configuration is made from when the node's pod ranges are told; without one, none is made.
    pub template: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            state_dir: "/var/lib/berth/cni".into(),
            default_network: None,
            plugin_timeout: Duration::from_secs(30),
            template: None,
        }
    }
}

/// Questions that need no network (VERSION, STATUS) are answered soon or not at all; changes of the
/// configuration are not seen while one waits.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The one interface that a pod is given.
pub const INTERFACE: &str = "eth0";

/// The pods' network. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    runner: Runner,
    records: Records,
    watch: Watch,
    conf_dir: PathBuf,
    template: Option<PathBuf>,
}

impl Network {
    /// Reads the records and starts watching the configuration directory and its parent. Call it inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// When the records cannot be read or the watch cannot be set up. A configuration that is missing or
    /// broken is no error here: see [`Network::ready`].
    pub fn open(settings: Settings) -> Result<Network, Error> {
        let runner = Runner { bin_dirs: settings.bin_dirs, timeout: settings.plugin_timeout };
        let records = Records::open(&settings.state_dir)?;
        let source = Source {
            conf_dir: settings.conf_dir.clone(),
            default_network: settings.default_network,
            runner: Runner { timeout: settings.plugin_timeout.min(QUESTION_TIMEOUT), ..runner.clone() },
        };
        let watch = Watch::start(source)?;
        let (conf_dir, template) = (settings.conf_dir, settings.template);
        Ok(Network { shared: Arc::new(Shared { runner, records, watch, conf_dir, template }) })
    }

    /// Hears which addresses the node's pods are to have (CRI UpdateRuntimeConfig): ranges with commas between
    /// them. Where there is a template and nobody else's configuration, one is made of it. Blocking.
    ///
    /// # Errors
    /// When the list is not one of ranges, or the template does not give a configuration.
    pub fn set_pod_ranges(&self, pod_cidr: &str) -> Result<(), Error> {
        provision(&self.shared.conf_dir, self.shared.template.as_deref(), pod_cidr)
    }

    /// Whether a pod could be attached now. Never blocks.
    ///
    /// # Errors
    /// Why not, in words for the node's condition.
    pub fn ready(&self) -> Result<(), NotReady> {
        let published = self.shared.watch.published();
        published.chain.as_ref().map(|_| ()).map_err(Clone::clone)?;
        published.status.clone()
    }

    /// The name of the network that pods join now.
    pub fn name(&self) -> Option<String> {
        self.shared.watch.published().chain.as_ref().ok().map(|chain| chain.name.clone())
    }

    /// ADD. The record is written first; what a failed ADD left is taken away again. A pod that is
    /// attached already stays so, and one that was half attached is first detached.
    ///
    /// # Errors
    /// When there is no usable network, or a plugin refuses, fails or does not finish.
    pub async fn attach(&self, pod: &Pod) -> Result<Attachment, Error> {
        check_name(&pod.sandbox_id).map_err(|rule| invalid_id(&pod.sandbox_id, rule))?;
        let asked = Bandwidth::asked_by(&pod.annotations)?;
        let pod = &Pod { bandwidth: pod.bandwidth.or(asked), ..pod.clone() };
        if let Some(attachment) = self.attached_to(pod) {
            return Ok(attachment);
        }
        self.detach(&pod.sandbox_id).await?;
        let chain = self.shared.watch.published().chain.clone().map_err(Error::NotReady)?;
        let record = begin(pod, &chain);
        self.shared.records.put(record.clone())?;
        let attached = self.add_and_record(record).await;
        if attached.is_err() {
            self.take_away_again(&pod.sandbox_id).await;
        }
        attached
    }

    /// DEL with the configuration that was used. An unknown sandbox is already detached; a namespace that
    /// is gone is no hindrance.
    ///
    /// # Errors
    /// What failed, after everything has been tried. The record stays, so that it can be tried again.
    pub async fn detach(&self, sandbox_id: &str) -> Result<(), Error> {
        let record = match self.shared.records.get(sandbox_id) {
            None => return Ok(()),
            Some(Kept::Whole(record)) => record,
            Some(Kept::Damaged) => Arc::new(self.guess(sandbox_id)?),
        };
        self.del(&record).await?;
        self.shared.records.forget(sandbox_id)
    }

    /// CHECK: whether the attachment is as ADD left it.
    ///
    /// # Errors
    /// When a plugin finds that it is not, or the sandbox is not attached.
    pub async fn check(&self, sandbox_id: &str) -> Result<(), Error> {
        let unknown = || Error::Unknown { sandbox_id: sandbox_id.into() };
        let Some(Kept::Whole(record)) = self.shared.records.get(sandbox_id) else { return Err(unknown()) };
        let result = record.result.as_ref().ok_or_else(unknown)?;
        if record.chain.disable_check || record.chain.version < Version::V0_4_0 {
            return Ok(());
        }
        let target = target_of(&record);
        for plugin in &record.chain.plugins {
            let conf = conf_for(&record.chain, plugin, &record.capabilities, Some(result));
            self.run(Verb::Check, plugin, &record.chain, &target, &conf).await?;
        }
        Ok(())
    }

    /// What the plugins gave this sandbox; none while ADD has not finished.
    pub fn attachment(&self, sandbox_id: &str) -> Option<Attachment> {
        match self.shared.records.get(sandbox_id)? {
            Kept::Whole(record) => attachment_of(&record),
            Kept::Damaged => None,
        }
    }

    /// Every sandbox that has a record, finished or not.
    pub fn attachments(&self) -> Vec<String> {
        self.shared.records.ids()
    }

    /// Detaches every sandbox that is not in `keep`, then (specification 1.1) tells the plugins which
    /// attachments are valid, so that they give back what nobody remembers.
    ///
    /// # Errors
    /// What failed, after everything has been tried.
    pub async fn gc(&self, keep: &[String]) -> Result<(), Error> {
        let mut failures = Vec::new();
        for sandbox_id in self.attachments().iter().filter(|id| !keep.contains(id)) {
            failures.extend(self.detach(sandbox_id).await.err());
        }
        for chain in self.networks_in_use() {
            self.collect(&chain, &mut failures).await;
        }
        all_of(failures)
    }

    /// The same pod in the same namespace.
    fn attached_to(&self, pod: &Pod) -> Option<Attachment> {
        match self.shared.records.get(&pod.sandbox_id)? {
            Kept::Whole(record) if record.netns == pod.netns && netns::is_pinned(&pod.netns) => {
                attachment_of(&record)
            }
            Kept::Whole(_) | Kept::Damaged => None,
        }
    }

    async fn add_and_record(&self, record: Record) -> Result<Attachment, Error> {
        let (result, attachment) = self.add(&record).await?;
        self.shared.records.put(Record { result: Some(result), ..record })?;
        Ok(attachment)
    }

    /// Runs the chain; each plugin is given what the one before it answered.
    async fn add(&self, record: &Record) -> Result<(Value, Attachment), Error> {
        let target = target_of(record);
        let chain = &record.chain;
        let mut result: Option<Value> = None;
        let mut attachment = None;
        for plugin in &chain.plugins {
            let conf = conf_for(chain, plugin, &record.capabilities, result.as_ref());
            let said = self.run(Verb::Add, plugin, chain, &target, &conf).await?;
            let run = Run { verb: Verb::Add, kind: &plugin.kind, network: &chain.name, target: &target };
            let answer: Value =
                serde_json::from_slice(&said).map_err(|error| run.garbage(error.to_string()))?;
            let read = Attachment::read(&answer, &chain.name, &record.interface);
            attachment = Some(read.map_err(|reason| run.garbage(reason))?);
            result = Some(answer);
        }
        match (result, attachment) {
            (Some(result), Some(attachment)) if !attachment.ips.is_empty() => Ok((result, attachment)),
            _ => Err(Error::NoAddress { network: chain.name.clone(), sandbox_id: record.sandbox_id.clone() }),
        }
    }

    /// Asks every plugin, last first, and goes on past failures.
    async fn del(&self, record: &Record) -> Result<(), Error> {
        let target = target_of(record);
        let result = record.result.as_ref().filter(|_| record.chain.version >= Version::V0_4_0);
        let mut failures = Vec::new();
        for plugin in record.chain.plugins.iter().rev() {
            let conf = conf_for(&record.chain, plugin, &record.capabilities, result);
            failures.extend(self.run(Verb::Del, plugin, &record.chain, &target, &conf).await.err());
        }
        all_of(failures)
    }

    /// The error of ADD is the one to tell; the record stays when this fails, and DEL is tried again later.
    async fn take_away_again(&self, sandbox_id: &str) {
        if let Err(error) = self.detach(sandbox_id).await {
            tracing::warn!(sandbox = sandbox_id, %error, "a failed CNI ADD could not be taken away yet");
        }
    }

    /// A damaged record: the network of today is the best guess at that of the day.
    fn guess(&self, sandbox_id: &str) -> Result<Record, Error> {
        let chain = self.shared.watch.published().chain.clone().map_err(Error::NotReady)?;
        let pod = Pod { sandbox_id: sandbox_id.into(), ..Pod::default() };
        Ok(begin(&pod, &chain))
    }

    fn networks_in_use(&self) -> Vec<Arc<Chain>> {
        let mut chains: Vec<Arc<Chain>> = self.shared.watch.published().chain.clone().into_iter().collect();
        for sandbox_id in self.attachments() {
            if let Some(Kept::Whole(record)) = self.shared.records.get(&sandbox_id)
                && chains.iter().all(|chain| chain.name != record.chain.name)
            {
                chains.push(Arc::new(record.chain.clone()));
            }
        }
        chains
    }

    async fn collect(&self, chain: &Chain, failures: &mut Vec<Error>) {
        if chain.disable_gc || chain.version < Version::V1_1_0 {
            return;
        }
        let valid: Vec<Value> = self
            .attachments()
            .into_iter()
            .map(|id| json!({ "containerID": id, "ifname": INTERFACE }))
            .collect();
        for plugin in &chain.plugins {
            let mut conf = conf_for(chain, plugin, &Map::new(), None);
            conf.insert("cni.dev/valid-attachments".into(), valid.clone().into());
            failures.extend(self.run(Verb::Gc, plugin, chain, &Target::default(), &conf).await.err());
        }
    }

    async fn run(
        &self,
        verb: Verb,
        plugin: &Plugin,
        chain: &Chain,
        target: &Target,
        conf: &Map<String, Value>,
    ) -> Result<Vec<u8>, Error> {
        let begun = Instant::now();
        let run = Run { verb, kind: &plugin.kind, network: &chain.name, target };
        let said = self.shared.runner.run(run, conf).await;
        let took_ms = begun.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(target: "trace", sandbox = %target.container_id, plugin = %plugin.kind,
            verb = verb.name(), took_ms, "CNI plugin");
        said
    }
}

/// The record of an attachment that is about to be made.
fn begin(pod: &Pod, chain: &Chain) -> Record {
    Record {
        sandbox_id: pod.sandbox_id.clone(),
        netns: pod.netns.clone(),
        interface: INTERFACE.into(),
        args: capabilities::args(pod),
        capabilities: capabilities::all(pod),
        chain: chain.clone(),
        result: None,
    }
}

fn attachment_of(record: &Record) -> Option<Attachment> {
    Attachment::read(record.result.as_ref()?, &record.chain.name, &record.interface).ok()
}

/// A namespace that is gone is passed as none: plugins then skip what was inside it.
fn target_of(record: &Record) -> Target {
    let netns = if netns::is_pinned(&record.netns) { record.netns.clone() } else { PathBuf::new() };
    Target {
        container_id: record.sandbox_id.clone(),
        netns,
        interface: record.interface.clone(),
        args: record.args.clone(),
    }
}

/// What one plugin is given on its stdin.
pub(crate) fn conf_for(
    chain: &Chain,
    plugin: &Plugin,
    said: &Map<String, Value>,
    previous: Option<&Value>,
) -> Map<String, Value> {
    let mut conf = plugin.conf.clone();
    conf.insert("name".into(), chain.name.clone().into());
    conf.insert("cniVersion".into(), chain.version.to_string().into());
    let wanted = capabilities::of(plugin, said);
    if !wanted.is_empty() {
        conf.insert("runtimeConfig".into(), wanted.into());
    }
    if let Some(previous) = previous {
        conf.insert("prevResult".into(), previous.clone());
    }
    conf
}

fn all_of(mut failures: Vec<Error>) -> Result<(), Error> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        _ => Err(Error::Several(failures)),
    }
}

fn invalid_id(sandbox_id: &str, rule: &'static str) -> Error {
    Error::Invalid { field: "sandbox id", value: sandbox_id.into(), rule }
}
