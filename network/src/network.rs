//! The pods' network: one handle, cheap to clone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::chain::all_of;
use crate::conf::{Chain, check_name};
use crate::plugin::Runner;
use crate::pod_ranges::PodRanges;
use crate::provision::provision;
use crate::record::{Kept, Key, Record, Records};
use crate::template::Range;
use crate::watch::{Source, Watch};
use crate::{Attachment, Bandwidth, Error, NotReady, Pod, capabilities, mac, netns};

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
    /// How many of the networks in `conf_dir` a pod joins at most: `eth0` is of the default one, `eth1` and on of the
    /// others in the order of their files.
    pub max_networks: usize,
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
            max_networks: 1,
            plugin_timeout: Duration::from_secs(30),
            template: None,
        }
    }
}

/// Questions that need no network (VERSION, STATUS) are answered soon or not at all; changes of the
/// configuration are not seen while one waits.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The interface of a pod's first network, which bears the addresses that the pod is known by.
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
    pod_ranges: PodRanges,
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
        let pod_ranges = PodRanges::open(&settings.state_dir);
        let source = Source {
            conf_dir: settings.conf_dir.clone(),
            default_network: settings.default_network,
            max_networks: settings.max_networks,
            runner: Runner { timeout: settings.plugin_timeout.min(QUESTION_TIMEOUT), ..runner.clone() },
        };
        let watch = Watch::start(source)?;
        let (conf_dir, template) = (settings.conf_dir, settings.template);
        Ok(Network { shared: Arc::new(Shared { runner, records, watch, pod_ranges, conf_dir, template }) })
    }

    /// Hears which addresses the node's pods are to have (CRI UpdateRuntimeConfig): ranges with commas between
    /// them. Plugins with the capability `ipRanges` are told of them. Where there is a template and nobody else's
    /// configuration, one is made of it. Blocking.
    ///
    /// # Errors
    /// When the list is not one of ranges, cannot be kept, or the template does not give a configuration.
    pub fn set_pod_ranges(&self, pod_cidr: &str) -> Result<(), Error> {
        let wrong = |reason| Error::BadRanges { value: pod_cidr.into(), reason };
        let ranges = Range::parse_all(pod_cidr).map_err(wrong)?;
        self.shared.pod_ranges.hear(&ranges)?;
        provision(&self.shared.conf_dir, self.shared.template.as_deref(), &ranges)
    }

    /// Whether a pod could be attached now. Never blocks.
    ///
    /// # Errors
    /// Why not, in words for the node's condition.
    pub fn ready(&self) -> Result<(), NotReady> {
        let published = self.shared.watch.published();
        published.chains.as_ref().map(|_| ()).map_err(Clone::clone)?;
        published.status.clone()
    }

    /// The names of the networks that pods join now, that of `eth0` first.
    pub fn names(&self) -> Vec<String> {
        let published = self.shared.watch.published();
        published.chains.iter().flatten().map(|chain| chain.name.clone()).collect()
    }

    /// ADD, network after network. The records are written first; what a failed ADD left is taken away again, also of
    /// the networks before it. A pod that is attached already stays so, and one that was half attached is first
    /// detached. The answer is that of the first network.
    ///
    /// # Errors
    /// When there is no usable network, or a plugin refuses, fails or does not finish.
    pub async fn attach(&self, pod: &Pod) -> Result<Attachment, Error> {
        check_name(&pod.sandbox_id).map_err(|rule| invalid_id(&pod.sandbox_id, rule))?;
        let pod = &self.whole(pod)?;
        if let Some(attachment) = self.attached_to(pod) {
            return Ok(attachment);
        }
        self.detach(&pod.sandbox_id).await?;
        let chains = self.shared.watch.published().chains.clone().map_err(Error::NotReady)?;
        let begun: Vec<_> =
            chains.iter().enumerate().map(|(number, chain)| begin(pod, number, chain)).collect();
        begun.iter().for_each(|record| tell_unheard(pod, record));
        let attached = self.add_all(begun).await;
        if attached.is_err() {
            self.take_away_again(&pod.sandbox_id).await;
        }
        attached
    }

    /// DEL with the configurations that were used, the last network first. An unknown sandbox is already detached; a
    /// namespace that is gone is no hindrance.
    ///
    /// # Errors
    /// What failed, after everything has been tried. The records stay of what failed, so that it can be tried again.
    pub async fn detach(&self, sandbox_id: &str) -> Result<(), Error> {
        let mut failures = Vec::new();
        for (key, kept) in self.shared.records.of_sandbox(sandbox_id).into_iter().rev() {
            failures.extend(self.detach_one(&key, kept).await.err());
        }
        all_of(failures)
    }

    /// CHECK: whether the attachments are as ADD left them.
    ///
    /// # Errors
    /// When a plugin finds that one is not, or the sandbox is not attached.
    pub async fn check(&self, sandbox_id: &str) -> Result<(), Error> {
        let unknown = || Error::Unknown { sandbox_id: sandbox_id.into() };
        let records = self.whole_records(sandbox_id).ok_or_else(unknown)?;
        for record in &records {
            let result = record.result.as_ref().ok_or_else(unknown)?;
            self.shared.runner.check(record, result).await?;
        }
        Ok(())
    }

    /// What the first network's plugins gave this sandbox; none while ADD has not finished.
    pub fn attachment(&self, sandbox_id: &str) -> Option<Attachment> {
        match self.shared.records.get(&Key::first(sandbox_id))? {
            Kept::Whole(record) => attachment_of(&record),
            Kept::Damaged => None,
        }
    }

    /// What all of its networks' plugins gave this sandbox, that of `eth0` first.
    pub fn attachments_of(&self, sandbox_id: &str) -> Vec<Attachment> {
        let kept = self.shared.records.of_sandbox(sandbox_id).into_iter();
        kept.filter_map(|(_, kept)| attachment_of(&*kept.whole()?)).collect()
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
            failures.extend(self.shared.runner.collect(&chain, &self.valid_in(&chain)).await);
        }
        all_of(failures)
    }

    /// The pod with what it does not say itself: annotations ask for it, or the node has it.
    fn whole(&self, pod: &Pod) -> Result<Pod, Error> {
        let bandwidth = Bandwidth::asked_by(&pod.annotations)?;
        let mac = mac::asked_by(&pod.annotations)?;
        let mut pod = pod.clone();
        pod.bandwidth = pod.bandwidth.or(bandwidth);
        pod.mac = pod.mac.or(mac);
        if pod.ip_ranges.is_empty() {
            pod.ip_ranges = self.shared.pod_ranges.capability();
        }
        Ok(pod)
    }

    /// The same pod in the same namespace, and each of its networks finished.
    fn attached_to(&self, pod: &Pod) -> Option<Attachment> {
        let records = self.whole_records(&pod.sandbox_id)?;
        let stands = |record: &Arc<Record>| record.netns == pod.netns && record.result.is_some();
        if !records.iter().all(stands) || !netns::is_pinned(&pod.netns) {
            return None;
        }
        self.attachment(&pod.sandbox_id)
    }

    /// None where there is none, or one of them is damaged.
    fn whole_records(&self, sandbox_id: &str) -> Option<Vec<Arc<Record>>> {
        let kept = self.shared.records.of_sandbox(sandbox_id);
        let whole: Option<Vec<_>> = kept.into_iter().map(|(_, kept)| kept.whole()).collect();
        whole.filter(|records| !records.is_empty())
    }

    /// All records before the first ADD: a pod of which not every network was added is seen to be half attached.
    async fn add_all(&self, begun: Vec<Record>) -> Result<Attachment, Error> {
        for record in &begun {
            self.shared.records.put(record.clone())?;
        }
        let mut first = None;
        for record in begun {
            let (result, attachment) = self.shared.runner.add(&record).await?;
            self.shared.records.put(Record { result: Some(result), ..record })?;
            first.get_or_insert(attachment);
        }
        Ok(first.expect("where there is a configuration, it is of one network at least"))
    }

    async fn detach_one(&self, key: &Key, kept: Kept) -> Result<(), Error> {
        let record = match kept {
            Kept::Whole(record) => record,
            Kept::Damaged => Arc::new(self.guess(key)?),
        };
        self.shared.runner.del(&record).await?;
        self.shared.records.forget(key)
    }

    /// The error of ADD is the one to tell; the record stays when this fails, and DEL is tried again later.
    async fn take_away_again(&self, sandbox_id: &str) {
        if let Err(error) = self.detach(sandbox_id).await {
            tracing::warn!(sandbox = sandbox_id, %error, "a failed CNI ADD could not be taken away yet");
        }
    }

    /// A damaged record: the network of today is the best guess at that of the day.
    fn guess(&self, key: &Key) -> Result<Record, Error> {
        let chains = self.shared.watch.published().chains.clone().map_err(Error::NotReady)?;
        let numbered = |(number, _): &(usize, &Arc<Chain>)| interface(*number) == key.interface;
        let chain = chains.iter().enumerate().find(numbered).map_or(&chains[0], |(_, chain)| chain);
        let pod = Pod { sandbox_id: key.sandbox_id.clone(), ..Pod::default() };
        Ok(Record { interface: key.interface.clone(), ..begin(&pod, 0, chain) })
    }

    fn networks_in_use(&self) -> Vec<Arc<Chain>> {
        let published = self.shared.watch.published();
        let mut chains: Vec<Arc<Chain>> = published.chains.iter().flatten().cloned().collect();
        for record in self.shared.records.all().into_iter().filter_map(|(_, kept)| kept.whole()) {
            if chains.iter().all(|chain| chain.name != record.chain.name) {
                chains.push(Arc::new(record.chain.clone()));
            }
        }
        chains
    }

    /// A damaged record may be of any network, so it is valid in each.
    fn valid_in(&self, chain: &Chain) -> Vec<Key> {
        let of_chain = |kept: &Kept| match kept {
            Kept::Whole(record) => record.chain.name == chain.name,
            Kept::Damaged => true,
        };
        let all = self.shared.records.all().into_iter();
        all.filter(|(_, kept)| of_chain(kept)).map(|(key, _)| key).collect()
    }
}

/// What the pod's interface in its network of this number is called.
fn interface(number: usize) -> String {
    match number {
        0 => INTERFACE.into(),
        number => format!("eth{number}"),
    }
}

/// The record of an attachment that is about to be made.
fn begin(pod: &Pod, number: usize, chain: &Chain) -> Record {
    let capabilities = match number {
        0 => capabilities::all(pod),
        _ => capabilities::all(&pod.beyond_first_network()),
    };
    Record {
        sandbox_id: pod.sandbox_id.clone(),
        netns: pod.netns.clone(),
        interface: interface(number),
        args: capabilities::args(pod),
        capabilities,
        chain: chain.clone(),
        result: None,
    }
}

/// The pod runs all the same; who waits in vain for its port finds out why.
fn tell_unheard(pod: &Pod, record: &Record) {
    for capability in capabilities::unheard(&record.chain, &record.capabilities) {
        tracing::warn!(
            sandbox = pod.sandbox_id,
            pod = format!("{}/{}", pod.namespace, pod.name),
            network = record.chain.name,
            capability,
            "the pod asks for something that no plugin of its network declares to take; it is left to the network"
        );
    }
}

fn attachment_of(record: &Record) -> Option<Attachment> {
    Attachment::read(record.result.as_ref()?, &record.chain.name, &record.interface).ok()
}

fn invalid_id(sandbox_id: &str, rule: &'static str) -> Error {
    Error::Invalid { field: "sandbox id", value: sandbox_id.into(), rule }
}
