//! The daemon's settings: one struct, its defaults, and where they are read from.
//!
//! `/etc/berth/berth.toml` first, then each `berth.toml.d/*.toml` beside it in the order of their names;
//! a later file wins key by key. A key that nobody knows is an error that names file and key, never
//! ignored. To add a setting, add one line to its section below: the default, the documentation and
//! `berth config default` come from it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use conmon_protocol::CgroupDriver;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Allow;

pub(crate) mod section;
#[cfg(test)]
mod tests;

use section::section;

/// The handler that is our own runtime, linked into the monitor.
pub const IN_TREE: &str = "berth";
/// The word after which berthd unpacks a layer for another berthd, and does nothing else.
pub const UNPACK_WORD: &str = "unpack-layer";
/// Where the settings are when nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/berth/berth.toml";
/// More interfaces than any pod has; each is a row of programs to run before it starts.
const NETWORKS_MAX: usize = 32;

section! {
    /// berth's settings. Paths are absolute. Keys and tables marked (reload) follow a SIGHUP; others a restart,
    /// and a SIGHUP that finds one of these changed says so in the log.
    pub struct Config {
        /// What must outlive a reboot: images, writable layers, network attachments.
        root: PathBuf = "/var/lib/berth".into(),
        /// What lives as long as the machine is up; on a tmpfs.
        run: PathBuf = "/run/berth".into(),
        /// The CRI socket. Empty: `berth.sock` in `run`.
        listen: PathBuf = PathBuf::new(),
        /// What is logged: a level, or targets with levels, as `info,berth::trace=trace`. (reload)
        log: String = "info".into(),
        /// How a line of the log is written: `text` or `json`. Not reloaded.
        log_format: LogFormat = LogFormat::Text,
        /// The monitor's program. Empty: `berth-conmon` beside berthd, else the one in PATH.
        monitor: PathBuf = PathBuf::new(),
        /// Threads that serve requests.
        workers: usize = 2,
        image: ImageSection = ImageSection::default(),
        network: NetworkSection = NetworkSection::default(),
        runtime: RuntimeSection = RuntimeSection::default(),
        container: crate::container::plan::Settings = crate::container::plan::Settings::default(),
        checkpoint: CheckpointSection = CheckpointSection::default(),
        stream: StreamSection = StreamSection::default(),
        metrics: MetricsSection = MetricsSection::default(),
        tracing: TracingSection = TracingSection::default(),
        nri: crate::nri::NriSection = crate::nri::NriSection::default(),
    }
}

section! {
    /// Pulling and storing images.
    pub struct ImageSection {
        /// Registries, mirrors and short names, in the containers' format. What it says is read anew on SIGHUP.
        registries_conf: PathBuf = "/etc/containers/registries.conf".into(),
        /// Drop-ins of it.
        registries_conf_dir: PathBuf = "/etc/containers/registries.conf.d".into(),
        /// Directories with `HOST[:PORT]/*.crt|*.cert|*.key` for TLS with registries, or with `HOST[:PORT]/hosts.toml` as containerd has it; the first that has the host wins.
        certs_dirs: Vec<PathBuf> = vec!["/etc/containers/certs.d".into(), "/etc/docker/certs.d".into(), "/etc/containerd/certs.d".into()],
        /// Files with credentials, in the format of `docker login`; the kubelet's own come first.
        auth_files: Vec<PathBuf> = vec!["/etc/berth/auth.json".into(), "/run/containers/0/auth.json".into(), "/var/lib/kubelet/config.json".into()],
        /// Credentials for pods of one namespace: `NAMESPACE.json` in here, before the files above.
        namespace_auth_dir: PathBuf = "/etc/berth/auth.d".into(),
        /// Which signatures an image must bear.
        policy: PathBuf = "/etc/containers/policy.json".into(),
        /// The same for pods of one namespace: `NAMESPACE.json` in here, in place of the file above.
        policy_dir: PathBuf = "/etc/berth/policies.d".into(),
        /// Private keys of encrypted layers: each file in here is one, in PEM (RSA, or EC on P-256 or P-384). Read at each pull.
        decryption_keys_path: PathBuf = "/etc/berth/decryption-keys".into(),
        /// Where signatures lie that no registry has: containers-registries.d(5).
        registries_d: PathBuf = "/etc/containers/registries.d".into(),
        /// Where the work of unpacking is counted: a cgroup's path below /sys/fs/cgroup, which is made where it is
        /// missing, or `pod` for that of the pod that an image is for. Empty: with the daemon, and no process is
        /// started for it.
        separate_pull_cgroup: String = String::new(),
        /// Layers fetched and unpacked at once, over all pulls of the node. Each costs memory.
        parallel_layers: usize = 4,
        /// Images that the kubelet's garbage collection leaves alone: names, or beginnings of names with `*`.
        pinned: Vec<String> = Vec::new(),
    }
}

impl ImageSection {
    fn pull_cgroup(&self) -> image_service::PullCgroup {
        match self.separate_pull_cgroup.as_str() {
            "" => image_service::PullCgroup::Daemon,
            "pod" => image_service::PullCgroup::Pod,
            path => image_service::PullCgroup::Path(path.to_owned()),
        }
    }
}

section! {
    /// The pods' network: CNI.
    pub struct NetworkSection {
        /// Where the network configuration is, and is watched.
        conf_dir: PathBuf = "/etc/cni/net.d".into(),
        /// Where the plugins are.
        bin_dirs: Vec<PathBuf> = vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
        /// The name of the network for pods. Empty: the first configuration by file name.
        default_network: String = String::new(),
        /// How many of the networks in `conf_dir` each pod joins, 1 to 32: `eth0` is of the default one and gives the
        /// pod's addresses, `eth1` and on are of the others in the order of their files.
        max_networks: usize = 1,
        /// How long one plugin may take before it is killed.
        plugin_timeout_s: u64 = 60,
        /// A template in Go's text/template (`{{.PodCIDR}}`, `{{range .PodCIDRRanges}}`, `{{range .Routes}}`) of which
        /// a configuration is made in `conf_dir` when the kubelet tells the node's pod ranges and nobody else has put
        /// one there. Empty: none is made.
        conf_template: PathBuf = PathBuf::new(),
    }
}

section! {
    /// Who makes the containers. (reload)
    pub struct RuntimeSection {
        /// The handler of pods that name none: `berth` is the runtime in the monitor.
        default_handler: String = IN_TREE.into(),
        /// Who makes cgroups: `cgroupfs`, or `systemd` (cgroup v2 only), as the kubelet's own cgroupDriver. Not
        /// reloaded.
        cgroup_driver: CgroupDriver = CgroupDriver::Cgroupfs,
        /// Other OCI runtimes, or our own with other rules: each a table `[runtime.handlers.NAME]` with `path` and, if
        /// need be, `root`, `allowed_annotations`, `privileged_without_host_devices`, `seccomp_profile` and
        /// `monitor_cgroup`.
        handlers: BTreeMap<String, HandlerSection> = BTreeMap::new(),
    }
}

/// An OCI runtime that the monitor runs as a command, or our own, and what is different for its pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandlerSection {
    /// Its program. Absent: our own runtime, in the monitor.
    #[serde(default)]
    pub path: PathBuf,
    /// Its `--root`. Absent: `runtime-NAME` in `run`.
    #[serde(default)]
    pub root: Option<PathBuf>,
    /// The pods' annotations that it is told, by name or by beginning with `*`. It may take them as options, so none
    /// unless the operator says so (CVE-2024-3154).
    #[serde(default)]
    pub allowed_annotations: Vec<String>,
    /// Gives privileged containers the default devices only. Absent: as in `[container]`.
    #[serde(default)]
    pub privileged_without_host_devices: Option<bool>,
    /// What its containers get that ask for RuntimeDefault: a profile of the operator's. Absent: ours.
    #[serde(default)]
    pub seccomp_profile: Option<PathBuf>,
    /// Where the monitors of its pods live: `pod`, the pod's own cgroup, whose limits then count them too, or a cgroup
    /// for all of them: with the cgroupfs driver a path, such as `/berth-monitors`, with the systemd driver a slice, such
    /// as `system.slice`, in which each gets a scope. Absent: where the daemon is.
    #[serde(default)]
    pub monitor_cgroup: String,
}

/// In its pod's cgroup.
pub const IN_POD: &str = "pod";

fn is_cgroup_path(path: &str) -> bool {
    path.starts_with('/') && path.len() > 1 && !path.split('/').any(|part| part == "..")
}

/// systemd.slice(5): what comes between the dashes are the slices above.
fn is_slice(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:\\".contains(&byte);
    let parts = name.strip_suffix(".slice").map(|stem| stem.split('-').all(|part| !part.is_empty()));
    parts == Some(true) && name.len() <= 255 && name.bytes().all(plain)
}

impl HandlerSection {
    /// Whether its containers are made by our own runtime.
    pub fn is_in_tree(&self) -> bool {
        self.path.as_os_str().is_empty()
    }

    /// Why it cannot be, with its key.
    fn fault(&self, driver: CgroupDriver) -> Option<(&'static str, String)> {
        let relative = |path: &Path| !path.is_absolute();
        if !self.is_in_tree() && relative(&self.path) {
            return Some(("path", format!("{} is not an absolute path", self.path.display())));
        }
        if let Some(path) = self.seccomp_profile.as_deref().filter(|path| relative(path)) {
            return Some(("seccomp_profile", format!("{} is not an absolute path", path.display())));
        }
        let wish = self.monitor_cgroup.as_str();
        let (fits, is) = match driver {
            CgroupDriver::Cgroupfs => {
                (is_cgroup_path(wish), "the path of a cgroup, which cgroup_driver = \"cgroupfs\" wants")
            }
            CgroupDriver::Systemd => {
                (is_slice(wish), "a slice such as a-b.slice, which cgroup_driver = \"systemd\" wants")
            }
        };
        let fine = fits || wish.is_empty() || wish == IN_POD;
        (!fine).then(|| ("monitor_cgroup", format!("{wish:?} is neither \"pod\" nor {is}")))
    }

    /// Whether the runtime may be told the annotation of this name.
    pub fn is_told(&self, annotation: &str) -> bool {
        self.allowed_annotations.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(beginning) => annotation.starts_with(beginning),
            None => annotation == allowed,
        })
    }
}

section! {
    /// Checkpoints of containers, through criu. (reload)
    pub struct CheckpointSection {
        /// `none`; `checkpoint`: containers are written down when asked; `restore`: and made of checkpoints. criu does as
        /// root whatever a checkpoint says, so `restore` is for nodes where all of them are to be trusted.
        allow: Allow = Allow::Checkpoint,
        /// criu, 4.1 or newer on recent kernels: a path, or a name to be found in PATH.
        criu: PathBuf = "criu".into(),
    }
}

section! {
    /// The server for exec, attach and port-forward, which the kubelet dials.
    pub struct StreamSection {
        /// Address and port; port 0 takes a free one.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 0)),
        /// A connection on which nothing moves for this long is closed.
        idle_timeout_s: u64 = 4 * 60 * 60,
        /// TLS: the server's certificate and chain, PEM. Empty: plain HTTP. Read again when it changes.
        tls_cert: PathBuf = PathBuf::new(),
        /// Its key, PEM.
        tls_key: PathBuf = PathBuf::new(),
        /// Clients must show a certificate of one of these authorities, PEM. Empty: they need none.
        tls_client_ca: PathBuf = PathBuf::new(),
    }
}

section! {
    /// Prometheus metrics over HTTP.
    pub struct MetricsSection {
        /// Address and port, as `127.0.0.1:9537`, or `unix:///path`, which only root may open. Empty: no metrics. They
        /// name every pod of the node, so other machines are served only over TLS or with `allow_remote`.
        listen: String = String::new(),
        /// Serves other machines without TLS, whoever they are.
        allow_remote: bool = false,
        /// TLS: the server's certificate and chain, PEM. Empty: plain HTTP. Read again when it changes.
        tls_cert: PathBuf = PathBuf::new(),
        /// Its key, PEM.
        tls_key: PathBuf = PathBuf::new(),
        /// Scrapers must show a certificate of one of these authorities, PEM. Empty: they need none.
        tls_client_ca: PathBuf = PathBuf::new(),
    }
}

impl MetricsSection {
    /// Why it cannot be, with its key.
    fn fault(&self) -> Option<(&'static str, String)> {
        let has_tls = named(&self.tls_cert).is_some();
        if !is_whole([&self.tls_cert, &self.tls_key, &self.tls_client_ca]) {
            return Some(("metrics.tls_cert", "TLS needs both tls_cert and tls_key".into()));
        }
        if self.listen.is_empty() || self.listen.starts_with("unix:///") || has_tls || self.allow_remote {
            return None;
        }
        let is_local = match self.listen.parse::<SocketAddr>() {
            Ok(address) => address.ip().to_canonical().is_loopback(),
            Err(_) => self.listen.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
        };
        let why = || {
            format!(
                "{:?} is neither on loopback nor unix:///path; other machines are served over TLS (tls_cert, tls_key), or \
                 to whoever asks with allow_remote = true",
                self.listen
            )
        };
        (!is_local).then(|| ("metrics.listen", why()))
    }
}

fn named(path: &Path) -> Option<PathBuf> {
    Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty())
}

/// Of a certificate, its key, and the clients' authorities: the first two go together, and the third with them.
fn is_whole([certificate, key, authorities]: [&Path; 3]) -> bool {
    let (certificate, key) = (named(certificate).is_some(), named(key).is_some());
    certificate == key && (certificate || named(authorities).is_none())
}

fn tls_files([certificate, key, authorities]: [&Path; 3]) -> Option<crate::stream::TlsFiles> {
    let (certificate, key) = (named(certificate)?, named(key)?);
    Some(crate::stream::TlsFiles { certificate, key, client_authorities: named(authorities) })
}

section! {
    /// OpenTelemetry spans of every request and step, sent to a collector by OTLP over gRPC. Not reloaded.
    pub struct TracingSection {
        /// The collector, as `127.0.0.1:4317`. Empty: no spans.
        endpoint: String = String::new(),
        /// How many in a million of the requests that belong to no trace begin one. Those of a client's trace are
        /// sent when the client's are.
        sampling_per_million: u32 = 0,
    }
}

/// How lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// A table of settings that can say what each key means.
pub trait Described {
    const ABOUT: &'static [&'static str];
    const KEYS: &'static [(&'static str, &'static [&'static str])];
}

impl Config {
    /// The socket to serve on.
    pub fn socket(&self) -> PathBuf {
        if self.listen.as_os_str().is_empty() { self.run.join("berth.sock") } else { self.listen.clone() }
    }

    /// Reads `file` and the drop-ins beside it. A `file` that is not there is all defaults, unless it was
    /// asked for by name.
    ///
    /// # Errors
    /// When a file cannot be read, is not TOML, or has a key or a value that does not belong.
    pub fn read(file: &Path, must_exist: bool) -> Result<Self, Error> {
        let mut merged = toml::Table::new();
        for path in files(file, must_exist)? {
            merge(&mut merged, read_table(&path)?);
        }
        let config: Config =
            merged.try_into().map_err(|source| Error::Merged { source: Box::new(source) })?;
        config.checked()
    }

    /// The streaming server's certificate, where there is one.
    pub fn stream_tls(&self) -> Option<crate::stream::TlsFiles> {
        let StreamSection { tls_cert, tls_key, tls_client_ca, .. } = &self.stream;
        tls_files([tls_cert, tls_key, tls_client_ca])
    }

    /// The same for metrics.
    pub fn metrics_tls(&self) -> Option<crate::stream::TlsFiles> {
        let MetricsSection { tls_cert, tls_key, tls_client_ca, .. } = &self.metrics;
        tls_files([tls_cert, tls_key, tls_client_ca])
    }

    /// Itself, when its values make sense together.
    ///
    /// # Errors
    /// Names the first key that does not.
    pub fn checked(self) -> Result<Self, Error> {
        for (key, path) in
            [("root", &self.root), ("run", &self.run), ("network.conf_dir", &self.network.conf_dir)]
        {
            if !path.is_absolute() {
                return Err(Error::Value { key, why: format!("{} is not an absolute path", path.display()) });
            }
        }
        if !(1..=NETWORKS_MAX).contains(&self.network.max_networks) {
            let why = format!("{} is not from 1 to {NETWORKS_MAX}", self.network.max_networks);
            return Err(Error::Value { key: "network.max_networks", why });
        }
        let known = |name: &str| name == IN_TREE || self.runtime.handlers.contains_key(name);
        if !known(&self.runtime.default_handler) {
            let why = format!("no handler is named {}", self.runtime.default_handler);
            return Err(Error::Value { key: "runtime.default_handler", why });
        }
        for (name, handler) in &self.runtime.handlers {
            if let Some((key, why)) = handler.fault(self.runtime.cgroup_driver) {
                return Err(Error::Value { key: "runtime.handlers", why: format!("{name}.{key}: {why}") });
            }
        }
        if let Err(error) = self.container.check() {
            return Err(Error::Value { key: "container", why: error.to_string() });
        }
        if !is_whole([&self.stream.tls_cert, &self.stream.tls_key, &self.stream.tls_client_ca]) {
            let why = "TLS needs both tls_cert and tls_key".into();
            return Err(Error::Value { key: "stream.tls_cert", why });
        }
        if let Some((key, why)) = self.metrics.fault() {
            return Err(Error::Value { key, why });
        }
        let pulls = self.image.separate_pull_cgroup.as_str();
        let upwards = pulls.split('/').any(|part| part == "..");
        if !matches!(pulls, "" | "pod") && (!pulls.starts_with('/') || upwards || pulls.contains('\0')) {
            let why = format!("{pulls:?} is neither \"pod\" nor a path such as \"/pulls\"");
            return Err(Error::Value { key: "image.separate_pull_cgroup", why });
        }
        if self.nri.enable && (self.nri.registration_timeout_ms == 0 || self.nri.request_timeout_ms == 0) {
            let why = "in 0 ms no plugin can register or answer".into();
            return Err(Error::Value { key: "nri.request_timeout_ms", why });
        }
        if self.nri.default_validator.enable && !self.nri.enable {
            let why = "it judges what plugins do, and nri.enable is false".into();
            return Err(Error::Value { key: "nri.default_validator.enable", why });
        }
        if self.workers == 0 {
            return Err(Error::Value { key: "workers", why: "0 threads cannot serve".into() });
        }
        Ok(self)
    }

    /// What the images are told of all this.
    pub fn image_settings(&self) -> image_service::Settings {
        image_service::Settings {
            registries_conf: self.image.registries_conf.clone(),
            registries_conf_dir: self.image.registries_conf_dir.clone(),
            certs_dirs: self.image.certs_dirs.clone(),
            auth_files: self.image.auth_files.clone(),
            namespace_auth_dir: self.image.namespace_auth_dir.clone(),
            policy: self.image.policy.clone(),
            policy_dir: self.image.policy_dir.clone(),
            decryption_keys_path: self.image.decryption_keys_path.clone(),
            registries_d: self.image.registries_d.clone(),
            pull_cgroup: self.image.pull_cgroup(),
            unpacker: vec!["/proc/self/exe".into(), UNPACK_WORD.into()],
            parallel_layers: self.image.parallel_layers,
            pinned: self.image.pinned.clone(),
            ..image_service::Settings::new(&self.root)
        }
    }

    /// These settings with what can change while serving taken from `newer`.
    #[must_use]
    pub fn reloaded(self, newer: Config) -> Config {
        // Pods that are there keep their cgroups, and the kubelet asks for the driver once.
        let runtime = RuntimeSection { cgroup_driver: self.runtime.cgroup_driver, ..newer.runtime };
        let Config { log, container, checkpoint, .. } = newer;
        Config { log, runtime, container, checkpoint, ..self }
    }

    /// The keys in which `newer` says something else than these settings, which have taken up what they can: they wait for
    /// a restart.
    pub fn kept_from(&self, newer: &Config) -> Vec<String> {
        let table = |config| toml::Table::try_from(config).expect("settings are made of what TOML can hold");
        let mut keys = Vec::new();
        differing("", &table(self), &table(newer), &mut keys);
        keys
    }

    /// A whole `berth.toml` with every key at its default and what it means.
    pub fn default_text() -> String {
        let defaults = Self::default();
        let mut text = String::new();
        write_section::<Self>(&mut text, "", &defaults);
        write_section::<ImageSection>(&mut text, "image", &defaults.image);
        write_section::<NetworkSection>(&mut text, "network", &defaults.network);
        write_section::<RuntimeSection>(&mut text, "runtime", &defaults.runtime);
        write_section::<crate::container::plan::Settings>(&mut text, "container", &defaults.container);
        write_section::<CheckpointSection>(&mut text, "checkpoint", &defaults.checkpoint);
        write_section::<StreamSection>(&mut text, "stream", &defaults.stream);
        write_section::<MetricsSection>(&mut text, "metrics", &defaults.metrics);
        write_section::<TracingSection>(&mut text, "tracing", &defaults.tracing);
        write_section::<crate::nri::NriSection>(&mut text, "nri", &defaults.nri);
        let validator = &defaults.nri.default_validator;
        write_section::<crate::nri::ValidatorSection>(&mut text, "nri.default_validator", validator);
        text
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading settings from {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("settings in {}", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("settings of all files together")]
    Merged { source: Box<toml::de::Error> },
    #[error("setting {key}: {why}")]
    Value { key: &'static str, why: String },
}

/// The file and its drop-ins, those that there are, in the order in which they count.
fn files(file: &Path, must_exist: bool) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    if must_exist || file.exists() {
        found.push(file.to_path_buf());
    }
    let mut drop_in_dir = file.as_os_str().to_os_string();
    drop_in_dir.push(".d");
    let drop_in_dir = PathBuf::from(drop_in_dir);
    let entries = match std::fs::read_dir(&drop_in_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(source) => return Err(Error::Read { path: drop_in_dir, source }),
    };
    let mut drop_ins: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    drop_ins.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    drop_ins.sort();
    found.extend(drop_ins);
    Ok(found)
}

/// One file. It is read as settings by itself first, so that a mistake is told with its file and line.
fn read_table(path: &Path) -> Result<toml::Table, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let parse = |source| Error::Parse { path: path.into(), source: Box::new(source) };
    toml::from_str::<Config>(&text).map_err(parse)?;
    toml::from_str(&text).map_err(parse)
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// Keys of either table whose values differ, by their names from the top.
fn differing(above: &str, one: &toml::Table, other: &toml::Table, keys: &mut Vec<String>) {
    let all: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    for key in all {
        let name = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match (one.get(key), other.get(key)) {
            (Some(toml::Value::Table(one)), Some(toml::Value::Table(other))) => {
                differing(&name, one, other, keys);
            }
            (one, other) if one != other => keys.push(name),
            _ => {}
        }
    }
}

fn write_section<T: Described + Serialize>(text: &mut String, name: &str, values: &T) {
    let table = toml::Table::try_from(values).expect("settings are made of what TOML can hold");
    for line in T::ABOUT {
        let _ = writeln!(text, "#{line}");
    }
    if !name.is_empty() {
        let _ = writeln!(text, "[{name}]");
    }
    text.push('\n');
    for (key, doc) in T::KEYS {
        let Some(value) = table.get(*key) else { continue };
        if matches!(value, toml::Value::Table(_)) && doc.is_empty() {
            continue;
        }
        for line in *doc {
            let _ = writeln!(text, "#{line}");
        }
        let _ = match value {
            toml::Value::Table(_) => writeln!(text, "# [{name}.{key}.NAME]\n"),
            value => writeln!(text, "{key} = {value}\n"),
        };
    }
}
