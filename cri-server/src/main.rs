//! berthd: wires the parts together, serves until told to stop. The containers go on without it.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use conmon_protocol::CgroupDriver;
use cri_server::config::{self, Config};
use cri_server::metrics::Listener;
use cri_server::monitor::Monitors;
use cri_server::node::{Node, Parts};
use cri_server::store::Store;
use cri_server::telemetry::{Requests, Telemetry};
use cri_server::{operator, recover, rpc, stats, stream};
use proto::v1::image_service_server::ImageServiceServer;
use proto::v1::runtime_service_server::RuntimeServiceServer;
use rustix::fs::FlockOperation;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

/// What the kubelet and its clients allow each other.
const MESSAGE_MAX: usize = 16 << 20;
/// Both streams of an ExecSync at their bound. Whether the client takes as much is the client's choice.
const ANSWER_MAX: usize = 34 << 20;
/// Calls in flight on one connection. The kubelet has one, and holds a StopContainer for each of its containers
/// over their graces; the rest must not queue behind them, as they would at hyper's 200.
const CALLS_MAX: u32 = 8192;
/// Threads that may hang on a volume whose server is away, without holding up pulls and stats. They are made
/// when needed and end when idle.
const BLOCKING_THREADS_MAX: usize = 128;
/// Requests in flight get this long to end when the daemon is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Plugins get this long to hear that the daemon ends.
const PLUGINS_GRACE: Duration = Duration::from_secs(1);

/// The Kubernetes node daemon: serves CRI v1 on a Unix socket.
#[derive(Debug, Parser)]
#[command(name = "berthd", version)]
struct Arguments {
    /// Settings; drop-ins are read from FILE.d/*.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where what must outlive a reboot is kept.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Where what lives as long as the machine is up is kept; a tmpfs.
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// The CRI socket.
    #[arg(long, value_name = "PATH")]
    listen: Option<PathBuf>,
    /// What is logged, as `info` or `info,berth::trace=trace`.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// The monitor's program.
    #[arg(long, value_name = "FILE")]
    monitor: Option<PathBuf>,
}

/// Between a daemon's death and its lock's release lies the release of its memory.
const LAST_ONE_ENDS: Duration = Duration::from_secs(3);

fn main() -> anyhow::Result<ExitCode> {
    cri_server::nri::become_plugin_if_asked();
    if std::env::args_os().nth(1).is_some_and(|word| word == config::UNPACK_WORD) {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        return Ok(image_service::unpack_for_a_daemon());
    }
    let arguments = Arguments::parse();
    bound_heap();
    let config = arguments.read_config()?;
    // The kernel's limit for a few hundred pods' sockets and pipes; the default of 1024 is not.
    let _ = raise_file_limit();
    // Containers' users read resolv.conf and hostname. What nobody else may see lies in directories of 0700.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    make_private_dir(&config.run)?;
    // Held to the very end of the process, when the image index is closed as well.
    let lock = lock(&config.run)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()
        .context("starting the threads")?;
    let telemetry = runtime.block_on(async { Telemetry::start(&config) })?;
    let hearing = rpc::hearing().context("starting the thread that hears")?;
    let done = runtime.block_on(run(arguments, config, telemetry.clone(), hearing.handle().clone()));
    telemetry.stop();
    // Work in flight is cut off as by a crash, which the next start knows how to mend.
    hearing.shutdown_timeout(Duration::from_millis(100));
    runtime.shutdown_timeout(Duration::from_millis(100));
    std::mem::forget(lock);
    done.map(|()| ExitCode::SUCCESS)
}

/// The C library keeps freed blocks of any size it has once seen freed; six large execs leave 30 MiB behind.
/// This makes it give large blocks back, and can only be told before the program begins: so it begins again.
fn bound_heap() {
    const NAME: &str = "GLIBC_TUNABLES";
    const VALUE: &str = "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072";
    let mut words = std::env::args_os();
    if let (None, Some(own)) = (std::env::var_os(NAME), words.next()) {
        let mut again = std::process::Command::new("/proc/self/exe");
        again.arg0(own).args(words).env(NAME, VALUE);
        // Only when that fails does it come back, and then the daemon is as good, but larger.
        let _ = again.exec();
    }
}

impl Arguments {
    fn config_file(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(config::DEFAULT_FILE))
    }

    fn read_config(&self) -> anyhow::Result<Config> {
        let mut config = Config::read(self.config_file(), self.config.is_some())?;
        let replace =
            |value: &mut PathBuf, given: &Option<PathBuf>| *value = given.clone().unwrap_or(value.clone());
        replace(&mut config.root, &self.root);
        replace(&mut config.run, &self.run);
        replace(&mut config.listen, &self.listen);
        replace(&mut config.monitor, &self.monitor);
        config.log = self.log.clone().unwrap_or(config.log);
        Ok(config.checked()?)
    }
}

async fn run(
    arguments: Arguments,
    config: Config,
    telemetry: Arc<Telemetry>,
    hearing: tokio::runtime::Handle,
) -> anyhow::Result<()> {
    make_private_dir(&config.root)?;
    recover::forget_last_boot(&config.run)?;
    let listener = listen(&config.socket())?;
    let (metrics, metrics_tls) = (config.metrics.listen.clone(), config.metrics_tls());
    let node = open(config).await?;
    cri_server::checkpoint::sweep(&node);
    tokio::join!(node.ask_handlers(), node.monitors.ask(), node.set_up_classes());
    let asking = node.clone();
    tokio::spawn(async move { asking.ask_criu().await });
    let watching = node.clone();
    tokio::spawn(async move { watching.watch_handlers().await });
    let recovery = recover::load(&node);
    tokio::spawn(recover::finish(node.clone(), recovery));
    if !metrics.is_empty() {
        let listener = Listener::bind(&metrics, metrics_tls).await;
        let listener = listener.with_context(|| format!("listening on {metrics} for metrics"))?;
        tokio::spawn(cri_server::metrics::serve(node.clone(), listener));
    }
    let config_file = Some(arguments.config_file().to_path_buf()).filter(|file| file.exists());
    tokio::spawn(follow_hangups(arguments, node.clone(), telemetry));
    tracing::info!(socket = %node.config().socket().display(), version = env!("CARGO_PKG_VERSION"), "berthd serves");
    say_ready();
    let workers = tokio::runtime::Handle::current();
    let serving = hearing.spawn(serve(node, listener, config_file, rpc::Lanes::new(workers)));
    serving.await.context("serving broke off")?
}

/// Opens the parts. Nothing is made here but directories.
async fn open(config: Config) -> anyhow::Result<Arc<Node>> {
    check_cgroup_driver(&config)?;
    let store = Store::open(&config.run).context("opening the store")?;
    for name in ["runtime", "seccomp"] {
        make_private_dir(&config.run.join(name))?;
    }
    let images = image_service::Images::open(config.image_settings()).await.context("opening the images")?;
    let network = network::Network::open(network_settings(&config)).context("opening the network")?;
    let monitors = Monitors::new(&monitor_path(&config)?).context("preparing monitors")?;
    let settings = stream::Settings {
        address: config.stream.listen,
        idle: Duration::from_secs(config.stream.idle_timeout_s),
        tls: config.stream_tls(),
        ..stream::Settings::default()
    };
    let streams = stream::Streams::serve(settings).await.context("listening for streams")?;
    let stats = stats::Stats::open().context("opening the cgroups")?;
    Ok(Node::new(Parts { config, store, images, network, monitors, streams, stats }))
}

/// A daemon that could make no container says so before a kubelet counts on it.
fn check_cgroup_driver(config: &Config) -> anyhow::Result<()> {
    let there = |path: &str| Path::new(path).exists();
    if config.runtime.cgroup_driver == CgroupDriver::Systemd
        && !(there("/sys/fs/cgroup/cgroup.controllers") && there("/run/systemd/system"))
    {
        anyhow::bail!(
            "runtime.cgroup_driver = \"systemd\" needs systemd as the node's init and cgroup v2 alone; boot with \
             systemd.unified_cgroup_hierarchy=1, or set it to \"cgroupfs\""
        );
    }
    Ok(())
}

fn network_settings(config: &Config) -> network::Settings {
    network::Settings {
        conf_dir: config.network.conf_dir.clone(),
        bin_dirs: config.network.bin_dirs.clone(),
        state_dir: config.root.join("cni"),
        default_network: Some(config.network.default_network.clone()).filter(|name| !name.is_empty()),
        max_networks: config.network.max_networks,
        plugin_timeout: Duration::from_secs(config.network.plugin_timeout_s),
        template: Some(config.network.conf_template.clone()).filter(|path| !path.as_os_str().is_empty()),
    }
}

fn monitor_path(config: &Config) -> anyhow::Result<PathBuf> {
    if !config.monitor.as_os_str().is_empty() {
        return Ok(config.monitor.clone());
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("berth-conmon")));
    let search = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&search).map(|dir| dir.join("berth-conmon"));
    let found = beside.into_iter().chain(in_path).find(|path| path.is_file());
    found.context(
        "berth-conmon is neither beside berthd nor in PATH; install it, or set `monitor` in berth.toml",
    )
}

async fn serve(
    node: Arc<Node>,
    listener: std::os::unix::net::UnixListener,
    config_file: Option<PathBuf>,
    lanes: rpc::Lanes,
) -> anyhow::Result<()> {
    let config = node.config();
    let (root, run) = (config.root.clone(), config.run.clone());
    let daemon = operator::service::Daemon { started_at_ns: node.now_ns(), config_file, root, run };
    let runtime = RuntimeServiceServer::new(rpc::runtime::Runtime::new(node.clone()))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(ANSWER_MAX);
    let images = ImageServiceServer::new(rpc::image::Images::new(node.clone()))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(ANSWER_MAX);
    let listener = UnixListener::from_std(listener).context("serving on the socket")?;
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(CALLS_MAX)
        .layer(rpc::Put(Requests))
        .layer(rpc::Put(rpc::Deadlines))
        .layer(rpc::Put(lanes))
        .add_service(runtime)
        .add_service(images)
        .add_service(operator::service::server(node.images.clone(), &daemon))
        .serve_with_incoming_shutdown(incoming, told_to_stop(stopping));
    let served = tokio::select! {
        served = server => served.context("serving"),
        // A client that keeps a stream open must not keep the daemon.
        () = overdue(stopped) => Ok(()),
    };
    node.nri.shut_down(PLUGINS_GRACE).await;
    served
}

async fn told_to_stop(stopping: tokio::sync::oneshot::Sender<()>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("berthd stops; the containers go on");
    let _ = stopping.send(());
}

async fn overdue(stopped: tokio::sync::oneshot::Receiver<()>) {
    let _ = stopped.await;
    tokio::time::sleep(STOP_GRACE).await;
}

/// SIGHUP: takes up what can change while serving.
async fn follow_hangups(arguments: Arguments, node: Arc<Node>, telemetry: Arc<Telemetry>) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        match arguments
            .read_config()
            .and_then(|config| telemetry.reload(&config).map(|()| config).map_err(Into::into))
        {
            Ok(config) => {
                let now = Config::clone(&node.config()).reloaded(config.clone());
                for key in now.kept_from(&config) {
                    tracing::warn!(
                        key,
                        "the setting {key} has changed, which berthd takes up when it is restarted"
                    );
                }
                node.set_config(now);
                node.ask_handlers().await;
                node.set_up_classes().await;
                node.ask_criu().await;
                match node.images.reload().await {
                    Ok(()) => tracing::info!("settings and registries were read anew"),
                    Err(error) => {
                        let error = anyhow::Error::new(error);
                        tracing::error!("registries stay as they were: {error:#}");
                    }
                }
            }
            Err(error) => tracing::error!("settings stay as they were: {error:#}"),
        }
    }
}

/// One daemon for one `run`. The last one may still be dying, so it is waited for a little.
fn lock(run: &Path) -> anyhow::Result<File> {
    let path = run.join("berthd.lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    let until = std::time::Instant::now() + LAST_ONE_ENDS;
    while let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if std::time::Instant::now() > until {
            anyhow::bail!("another daemon serves from {} ({error})", run.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(file)
}

/// The socket of a daemon that is gone is replaced; that it is gone, the lock says.
fn listen(socket: &Path) -> anyhow::Result<std::os::unix::net::UnixListener> {
    let dir = socket.parent().context("the socket needs a directory")?;
    make_private_dir(dir)?;
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing the old {}", socket.display()));
        }
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(socket)
        .with_context(|| format!("listening on {}", socket.display()))?;
    listener.set_nonblocking(true).context("serving on the socket")?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
        .context("closing the socket to others")?;
    Ok(listener)
}

fn make_private_dir(path: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("making {}", path.display()))
}

fn raise_file_limit() -> rustix::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
}

/// Tells systemd (`Type=notify`) that requests are heard. Path sockets and abstract ones, as sd_notify(3) has it.
fn say_ready() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.to_string_lossy().strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name.as_bytes()),
        None => SocketAddr::from_pathname(&name),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = told {
        tracing::warn!(%error, "systemd was not told that berthd is ready");
    }
}
