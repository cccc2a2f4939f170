//! A private node: berthd with its own root, run folder, socket, CNI network and
//! cgroup, all gone when dropped.
//!
//! The whole process must be in a network namespace of its own (`cargo xtask`
//! sees to it), so bridges and host ports never touch the machine's.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use proto::v1;
use proto::v1::image_service_client::ImageServiceClient;
use proto::v1::runtime_service_client::RuntimeServiceClient;
use serde_json::json;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::leaks::{Inventory, Scope};
use crate::programs::Programs;

/// How long a daemon may take to serve its socket.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long what was removed may take to be gone.
const SETTLE_LIMIT: Duration = Duration::from_secs(3);
/// Set by `cargo xtask` in the network namespace that it made.
pub const PRIVATE_NETWORK: &str = "BERTH_PRIVATE_NETWORK";

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// What a node is started with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Registries served by this address, such as `127.0.0.1:5000`, under their own names.
    pub mirror: Option<String>,
    /// More lines for `berth.toml`.
    pub config: String,
    /// Another CNI configuration list than a bridge.
    pub cni: Option<serde_json::Value>,
    /// Lines for the table `[network]` instead of Debian's plugin folder.
    pub network: Option<String>,
    /// More lines for the table `[nri]`.
    pub nri: String,
    /// A file system of its own of this size for the node's root.
    pub disk_bytes: Option<u64>,
}

/// A running private node.
#[derive(Debug)]
pub struct Node {
    dir: tempfile::TempDir,
    programs: Programs,
    options: Options,
    number: u32,
    daemon: Option<Child>,
}

/// Both services of one socket.
#[derive(Debug, Clone)]
pub struct Client {
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
}

impl Node {
    /// Makes the folders and configuration, starts berthd and waits until it answers.
    pub async fn start(options: Options) -> Result<Node> {
        ensure!(
            std::env::var_os(PRIVATE_NETWORK).is_some(),
            "a node needs a network namespace of its own: run `cargo xtask node`"
        );
        let dir = tempfile::Builder::new().prefix("berth-node-").tempdir()?;
        let number = std::process::id() % 200 * 100 + COUNTER.fetch_add(1, Ordering::Relaxed) % 100;
        let programs = Programs::built();
        let mut node = Node { dir, programs, options, number, daemon: None };
        node.write_configuration()?;
        node.mount_small_disk()?;
        node.start_daemon().await?;
        Ok(node)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir().join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("berth.sock")
    }

    /// `unix://…`, as crictl and critest want it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn config_file(&self) -> PathBuf {
        self.dir().join("berth.toml")
    }

    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("berthd.log")).unwrap_or_default()
    }

    /// The parent of this node's pods, as a kubelet would give it.
    pub fn cgroup(&self) -> String {
        format!("/berth-test-{}", self.number)
    }

    fn write_configuration(&self) -> Result<()> {
        for folder in ["root", "run", "cni", "registries.conf.d"] {
            std::fs::create_dir_all(self.dir().join(folder))?;
        }
        let cni = self.options.cni.clone().unwrap_or_else(|| self.bridge());
        std::fs::write(self.dir().join("cni/10-test.conflist"), serde_json::to_vec_pretty(&cni)?)?;
        std::fs::write(self.dir().join("registries.conf"), self.registries())?;
        std::fs::write(self.config_file(), self.configuration())?;
        Ok(())
    }

    fn mount_small_disk(&self) -> Result<()> {
        let Some(bytes) = self.options.disk_bytes else { return Ok(()) };
        let options = std::ffi::CString::new(format!("size={bytes}"))?;
        let root = self.dir().join("root");
        rustix::mount::mount(
            "tmpfs",
            root,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            Some(options.as_c_str()),
        )?;
        Ok(())
    }

    fn bridge(&self) -> serde_json::Value {
        let (high, low) = (self.number / 100 % 200, self.number % 100);
        json!({
            "cniVersion": "1.0.0",
            "name": format!("test{}", self.number),
            "plugins": [
                {"type": "bridge", "bridge": format!("tbr{}", self.number), "isGateway": true, "ipMasq": false,
                 "hairpinMode": true,
                 "ipam": {"type": "host-local", "dataDir": self.ipam_dir(),
                    "ranges": [[{"subnet": format!("10.{}.{low}.0/24", 20 + high)}]],
                    "routes": [{"dst": "0.0.0.0/0"}]}},
                {"type": "portmap", "capabilities": {"portMappings": true}}
            ]
        })
    }

    fn ipam_dir(&self) -> PathBuf {
        self.dir().join("ipam")
    }

    fn registries(&self) -> String {
        let Some(mirror) = &self.options.mirror else { return String::new() };
        let table = |name: &&str| {
            format!(
                "[[registry]]\nprefix = \"{name}\"\nlocation = \"{name}\"\n\
                 [[registry.mirror]]\nlocation = \"{mirror}\"\ninsecure = true\n\n"
            )
        };
        let own =
            format!("[[registry]]\nprefix = \"{mirror}\"\nlocation = \"{mirror}\"\ninsecure = true\n\n");
        crate::stand_ins::MIRRORED.iter().map(table).chain([own]).collect()
    }

    fn configuration(&self) -> String {
        let dir = self.dir().display();
        let debian = "bin_dirs = [\"/opt/cni/bin\", \"/usr/lib/cni\"]\n".to_owned();
        let network = self.options.network.clone().unwrap_or(debian);
        let nri = &self.options.nri;
        format!(
            "root = \"{dir}/root\"\nrun = \"{dir}/run\"\nmonitor = \"{}\"\n\
             [nri]\nsocket = \"{dir}/nri.sock\"\nplugin_dir = \"{dir}/nri/plugins\"\n\
             config_dir = \"{dir}/nri/conf.d\"\n{nri}\
             [network]\nconf_dir = \"{dir}/cni\"\n{network}\
             [image]\nregistries_conf = \"{dir}/registries.conf\"\n\
             registries_conf_dir = \"{dir}/registries.conf.d\"\npolicy = \"{dir}/policy.json\"\n{}",
            self.programs.conmon.display(),
            self.options.config,
        )
    }

    /// Starts the daemon on the same folders; after [`Node::kill_daemon`] this is a restart.
    pub async fn start_daemon(&mut self) -> Result<()> {
        let program = self.programs.berthd.clone();
        self.spawn_daemon(Command::new(program)).await
    }

    /// Starts the daemon that kills itself before a step, named as `sandbox.network=kill`.
    pub async fn start_with_failpoint(&mut self, failpoint: &str) -> Result<()> {
        let mut command = Command::new(&self.programs.berthd_failpoints);
        command.env("BERTH_FAILPOINT", failpoint);
        self.spawn_daemon(command).await
    }

    async fn spawn_daemon(&mut self, mut command: Command) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.dir().join("berthd.log"))?;
        command.arg("--config").arg(self.config_file());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        self.daemon = Some(child);
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Ok(client) = self.client().await {
                let answer = client.runtime.clone().version(v1::VersionRequest::default()).await;
                if answer.is_ok() {
                    return Ok(());
                }
            }
            let ended = self.daemon.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || start.elapsed() > START_LIMIT {
                bail!("berthd does not answer (ended: {ended:?}); its log:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `kill -9`.
    pub fn kill_daemon(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Waits for a daemon that kills itself at a fail point.
    pub async fn wait_for_death(&mut self) -> Result<()> {
        let mut child = self.daemon.take().context("no daemon is running")?;
        let status = tokio::task::spawn_blocking(move || child.wait()).await??;
        ensure!(!status.success(), "berthd ended well instead of dying at its fail point");
        Ok(())
    }

    pub async fn client(&self) -> Result<Client> {
        connect(&self.socket()).await
    }

    /// A pod as the kubelet asks for it, in this node's cgroup.
    pub fn pod_config(&self, name: &str, log_dir: &Path) -> v1::PodSandboxConfig {
        let mut config = pod_config(name, log_dir);
        config.linux.get_or_insert_default().cgroup_parent = self.cgroup();
        config
    }

    pub fn inventory(&self) -> Inventory {
        Inventory::take(&Scope {
            dir: self.dir().to_path_buf(),
            counted: vec![
                self.run_dir().join("sandboxes"),
                self.run_dir().join("runtime"),
                self.dir().join("root/containers"),
                self.dir().join("root/cni"),
            ],
            cgroup: self.cgroup(),
            bridge: format!("tbr{}", self.number),
            ipam_dir: self.ipam_dir().join(format!("test{}", self.number)),
            daemon_pid: self.daemon_pid(),
        })
    }

    /// What is here that was not there before; monitors get a moment to end, since they answer first.
    pub fn leaks_since(&self, before: &Inventory) -> Vec<String> {
        let start = Instant::now();
        loop {
            let leaks = self.inventory().leaked_since(before);
            if leaks.is_empty() || start.elapsed() > SETTLE_LIMIT {
                return leaks;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops and removes every pod; the daemon must be running.
    pub async fn remove_all_pods(&self) -> Result<()> {
        let mut client = self.client().await?;
        let pods = client.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.into_inner();
        for pod in pods.items {
            client.stop_pod(&pod.id).await?;
            client.remove_pod(&pod.id).await?;
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            remove_pods_before_the_end(&self.socket());
        }
        self.kill_daemon();
        if std::thread::panicking() {
            eprintln!("berthd's log of the failed test:\n{}", self.log());
        }
        unmount_below(self.dir());
        remove_cgroups(&self.cgroup());
        // Where pods are that name no parent; what others have there stays, since it is not empty.
        remove_cgroups("/berth");
    }
}

/// The test is over, so its pods are too; a thread of its own, since drop cannot wait for async work.
fn remove_pods_before_the_end(socket: &Path) {
    let socket = socket.to_path_buf();
    let removal = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        runtime.block_on(async {
            let mut client = connect(&socket).await.ok()?;
            let pods = client.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.ok()?;
            for pod in pods.into_inner().items {
                client.remove_pod(&pod.id).await.ok();
            }
            Some(())
        })
    });
    removal.join().ok();
}

fn unmount_below(dir: &Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points: Vec<&str> = table.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    for point in points.into_iter().rev().filter(|point| Path::new(point).starts_with(dir)) {
        rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).ok();
    }
}

fn remove_cgroups(cgroup: &str) {
    let tops = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    for top in tops.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]) {
        remove_tree_of_directories(&top.join(cgroup.trim_start_matches('/')));
    }
}

fn remove_tree_of_directories(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree_of_directories(&entry.path());
        }
    }
    std::fs::remove_dir(dir).ok();
}

/// Connects to a CRI socket.
pub async fn connect(socket: &Path) -> Result<Client> {
    let channel = channel(socket).await?;
    let bound = 16 << 20;
    Ok(Client {
        runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(bound),
        images: ImageServiceClient::new(channel).max_decoding_message_size(bound),
    })
}

/// The bare connection to a socket that speaks gRPC.
pub async fn channel(socket: &Path) -> Result<Channel> {
    let socket = socket.to_path_buf();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?)
}

/// The few calls that nearly every test makes.
impl Client {
    pub async fn pull(&mut self, image: &str) -> Result<String, tonic::Status> {
        let image = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = v1::PullImageRequest { image: Some(image), ..Default::default() };
        Ok(self.images.pull_image(request).await?.into_inner().image_ref)
    }

    pub async fn remove_image(&mut self, image: &str) -> Result<(), tonic::Status> {
        let image = v1::ImageSpec { image: image.into(), ..Default::default() };
        self.images.remove_image(v1::RemoveImageRequest { image: Some(image) }).await.map(drop)
    }

    pub async fn run_pod(&mut self, config: &v1::PodSandboxConfig) -> Result<String, tonic::Status> {
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        Ok(self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    pub async fn create(
        &mut self,
        pod: &str,
        config: &v1::ContainerConfig,
        pod_config: &v1::PodSandboxConfig,
    ) -> Result<String, tonic::Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        Ok(self.runtime.create_container(request).await?.into_inner().container_id)
    }

    pub async fn start(&mut self, container: &str) -> Result<(), tonic::Status> {
        let request = v1::StartContainerRequest { container_id: container.to_owned() };
        self.runtime.start_container(request).await.map(drop)
    }

    pub async fn stop(&mut self, container: &str, timeout_s: i64) -> Result<(), tonic::Status> {
        let request = v1::StopContainerRequest { container_id: container.to_owned(), timeout: timeout_s };
        self.runtime.stop_container(request).await.map(drop)
    }

    pub async fn remove(&mut self, container: &str) -> Result<(), tonic::Status> {
        let request = v1::RemoveContainerRequest { container_id: container.to_owned() };
        self.runtime.remove_container(request).await.map(drop)
    }

    pub async fn stop_pod(&mut self, pod: &str) -> Result<(), tonic::Status> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        self.runtime.stop_pod_sandbox(request).await.map(drop)
    }

    pub async fn remove_pod(&mut self, pod: &str) -> Result<(), tonic::Status> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        self.runtime.remove_pod_sandbox(request).await.map(drop)
    }

    pub async fn exec(
        &mut self,
        container: &str,
        command: &[&str],
        timeout_s: i64,
    ) -> Result<v1::ExecSyncResponse, tonic::Status> {
        let request = v1::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: timeout_s,
        };
        Ok(self.runtime.exec_sync(request).await?.into_inner())
    }

    pub async fn container(&mut self, container: &str) -> Result<v1::ContainerStatus, tonic::Status> {
        let request = v1::ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        Ok(self.runtime.container_status(request).await?.into_inner().status.unwrap_or_default())
    }

    pub async fn pod(&mut self, pod: &str) -> Result<v1::PodSandboxStatus, tonic::Status> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: false };
        Ok(self.runtime.pod_sandbox_status(request).await?.into_inner().status.unwrap_or_default())
    }

    /// Waits until the container has exited; the status it then has.
    pub async fn wait_for_exit(&mut self, container: &str) -> Result<v1::ContainerStatus> {
        let start = Instant::now();
        loop {
            let status = self.container(container).await?;
            if status.state() == v1::ContainerState::ContainerExited {
                return Ok(status);
            }
            ensure!(start.elapsed() < START_LIMIT, "container {container} does not exit: {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A pod as the kubelet asks for it, with its logs in `log_dir`.
pub fn pod_config(name: &str, log_dir: &Path) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{name}-uid"),
            namespace: "test".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: log_dir.display().to_string(),
        linux: Some(v1::LinuxPodSandboxConfig::default()),
        ..Default::default()
    }
}

/// A container that runs `command`, its log in `<name>.log` of the pod's log folder.
pub fn container_config(name: &str, image: &str, command: &[&str]) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig::default()),
        ..Default::default()
    }
}
