//! Makes and starts a container: lists of steps. What fails is taken away by `unmake`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conmon_protocol::{Answer, Ask, Handler, Rootfs, Seen, Volume};
use proto::v1;

use super::target::Target;
use super::{Facts, Life, Made, plan, trust, volume};
use crate::apparmor;
use crate::checkpoint::Origin;
use crate::error::{Error, Noun};
use crate::monitor::{self, Monitor};
use crate::node::Node;
use crate::nri::{self, Adjusted, Birth};
use crate::sandbox;
use crate::step::{Progress, Step};
use crate::store::Record;

/// Looking at devices takes microseconds unless one hangs. Less than the kubelet's deadline, so that it hears our words.
const GATHER_TIMEOUT: Duration = Duration::from_secs(60);

/// Everything that a making is made from.
#[derive(Debug, Clone)]
pub struct Order {
    pub id: Arc<str>,
    pub config: v1::ContainerConfig,
    pub sandbox: Arc<sandbox::Facts>,
    pub monitor: Monitor,
    /// A checkpoint's folder that it is made of.
    pub from: Option<PathBuf>,
}

/// What making gives.
#[derive(Debug)]
pub struct Born {
    pub facts: Facts,
    pub life: Life,
    /// When plugins changed what was asked for.
    pub limits: Option<Arc<v1::LinuxContainerResources>>,
    /// Plugins have heard of it, and hear of its end unless it comes into the world.
    pub birth: Birth,
}

/// # Errors
/// Names the step that failed. What was made by then is still there.
pub async fn make(node: &Arc<Node>, order: Order, progress: &Progress) -> Result<Born, Error> {
    let id = order.id.to_string();
    let made = Box::pin(steps(node, order, progress)).await;
    made.map_err(|source| match source {
        // What the request lacks is told plainly.
        Error::Plan(_)
        | Error::NoImage { .. }
        | Error::ImageVolume { .. }
        | Error::Image(image_service::Error::Policy(_))
        | Error::Request(_)
        | Error::Checkpoint(_) => source,
        source => {
            Error::Making { noun: Noun::Container, id, step: progress.step(), source: Arc::new(source) }
        }
    })
}

async fn steps(node: &Arc<Node>, order: Order, progress: &Progress) -> Result<Born, Error> {
    progress.enter(Step::ContainerPlan);
    let spec = order.config.image.clone().unwrap_or_default();
    let name = match node.images.find(&spec.image) {
        Some(image) => {
            trust::judge(node, &order, &image, &spec).await?;
            // What was judged is what is used, whatever the name means in a moment.
            image.id.clone()
        }
        None => spec.image,
    };
    let origin = Origin::find(node, &order.id, &name, order.from.as_deref()).await?;
    let made = Box::pin(make_of(node, order, origin.as_ref(), name, progress)).await;
    if let Some(origin) = origin {
        origin.close(node).await;
    }
    made
}

async fn make_of(
    node: &Node,
    order: Order,
    origin: Option<&Origin>,
    name: String,
    progress: &Progress,
) -> Result<Born, Error> {
    let image = image(node, &order, origin, name).await?;
    let volume_images = volume::images(node, &order).await?;
    let seen = look(node, &order).await?;
    let host = gather(node, &order, seen.clone()).await?;
    let target = Target::find(node, &order);
    let target_pid = target.as_ref().map(|target| target.pid);
    let plan = decide(node, &order, &image, &host, target_pid)?;

    progress.enter(Step::ContainerPlugins);
    let planned = Planned { image: &image, host, plan, seen, target_pid };
    let (Planned { host, plan, .. }, adjusted, birth) =
        progress.within(Box::pin(ask_plugins(node, &order, planned))).await?;
    plan::check_labels(&plan)?;
    load_profile(&plan).await?;

    progress.enter(Step::ContainerStore);
    let record = write_down(node, &order, &plan)?;

    progress.enter(Step::ContainerRootfs);
    volume::mount(node, &order, &volume_images, record.dir(), plan.file_label.as_deref()).await?;
    let rootfs = node.images.make_writable(&order.id, &image).await?;
    if let Some(origin) = origin {
        origin.fill(node, &order.id, &plan.spec).await?;
    }
    make_declared(node, &order, &plan).await?;

    progress.enter(Step::ContainerCreate);
    let volumes = volumes(&host, &plan, adjusted.as_ref(), &node.images.volumes_dir(&order.id));
    let ask = monitor_plan(node, &order, &plan, Volumes { rootfs, volumes }, record.dir());
    let made = Made {
        image_id: image.id.clone(),
        volume_image_ids: volume_images.into_iter().map(|image| Some(image?.id.clone())).collect(),
        created_at_ns: node.now_ns(),
        plan: super::slim(plan),
    };
    record.write_json("plan", &made)?;
    let limits = adjusted.and_then(|adjusted| adjusted.limits(&order.config)).map(Arc::new);
    if let Some(limits) = &limits {
        record.write_message(super::LIMITS, &**limits)?;
    }
    let pid = match origin {
        None => create(&order.monitor, ask).await?,
        Some(origin) => origin.restore(&order.monitor, ask).await?,
    };
    target.map_or(Ok(()), |target| target.must_run())?;

    progress.enter(Step::ContainerCreated);
    let life = Life::Created { pid };
    record.write_json("life", &life)?;
    progress.finish();
    let Order { id, config, sandbox, .. } = order;
    let facts = Facts { id, sandbox_id: sandbox.id.clone(), config, made };
    Ok(Born { facts, life, limits, birth })
}

/// What it is to run: of a checkpoint, the image that it had then.
async fn image(
    node: &Node,
    order: &Order,
    origin: Option<&Origin>,
    name: String,
) -> Result<Arc<image_service::Image>, Error> {
    let image = match origin {
        Some(origin) => {
            let spec = order.config.image.clone().unwrap_or_default();
            trust::judge(node, order, &origin.image, &spec).await?;
            origin.image.clone()
        }
        None => node.images.find(&name).ok_or(Error::NoImage { name })?,
    };
    if image.is_artifact() {
        let why = "is an artifact, which has nothing to run; mount it as an image volume";
        return Err(Error::Request(format!("image.image: {} {why}", image.id)));
    }
    Ok(image)
}

fn write_down(node: &Node, order: &Order, plan: &plan::ContainerPlan) -> Result<Record, Error> {
    let record = node.store.sandbox(&order.sandbox.id).container(&order.id);
    record.make(&["bundle"])?;
    record.write_json("life", &Life::Making)?;
    record.write_request(&order.config)?;
    record.write_json("bundle/config.json", &plan.spec)?;
    Ok(record)
}

/// A plan, and what it was made of.
struct Planned<'a> {
    image: &'a image_service::Image,
    host: plan::HostFacts,
    plan: plan::ContainerPlan,
    seen: Vec<Seen>,
    target_pid: Option<i32>,
}

/// The plan as plugins want it.
async fn ask_plugins<'a>(
    node: &Node,
    order: &Order,
    mut planned: Planned<'a>,
) -> Result<(Planned<'a>, Option<Adjusted>, Birth), Error> {
    let about = nri::About {
        id: &order.id,
        sandbox_id: &order.sandbox.id,
        config: &order.config,
        image_id: &planned.image.id,
        spec: &planned.plan.spec,
    };
    let (birth, adjusted) = nri::adjusted(node, &order.sandbox, &about).await?;
    if let Some(adjusted) = &adjusted {
        if adjusted.config != order.config {
            let order = Order { config: adjusted.config.clone(), ..order.clone() };
            planned.host = gather(node, &order, planned.seen.clone()).await?;
            planned.plan = decide(node, &order, planned.image, &planned.host, planned.target_pid)?;
        }
        adjusted.apply(node, &mut planned.plan)?;
    }
    Ok((planned, adjusted, birth))
}

/// What is where the mounts come from. What the kernel does not have at hand, the pod's monitor has a child ask for.
async fn look(node: &Node, order: &Order) -> Result<Vec<Seen>, Error> {
    let paths: Vec<PathBuf> =
        order.config.mounts.iter().map(|mount| mount.host_path.clone().into()).collect();
    if let Some(seen) = paths.iter().map(|path| plan::glance(path)).collect() {
        return Ok(seen);
    }
    let patience_ms = node.config().container.volume_timeout_s * 1000;
    match order.monitor.ask(Ask::Look { paths, patience_ms }, Vec::new()).await? {
        (Answer::Looked(seen), _) => Ok(seen),
        _ => Err(monitor::Error::Confused.into()),
    }
}

/// What making the container may wait for in vain, and what it makes on the host.
fn volumes(
    host: &plan::HostFacts,
    plan: &plan::ContainerPlan,
    adjusted: Option<&Adjusted>,
    volumes_dir: &Path,
) -> Vec<Volume> {
    let volume = |source: &plan::MountSource| Volume {
        make: plan.missing_sources.contains(&source.path),
        path: source.path.clone(),
        label: plan.file_label.clone().filter(|_| plan.relabelled.contains(&source.path)),
    };
    // An image is mounted from our own store.
    let asked = host.mounts.iter().filter(|source| !source.path.as_os_str().is_empty()).map(volume);
    let plugins = adjusted.into_iter().flat_map(Adjusted::sources);
    let plugins = plugins.map(|path| Volume { path, make: false, label: None });
    asked.chain(declared_volumes(plan, volumes_dir)).chain(plugins).collect()
}

/// Of our own, which never hang, but for their labels.
fn declared_volumes(plan: &plan::ContainerPlan, volumes_dir: &Path) -> Vec<Volume> {
    let (plan::Declared::Bound(paths), Some(label)) = (&plan.declared, &plan.file_label) else {
        return Vec::new();
    };
    let path = |at: usize| volumes_dir.join(at.to_string());
    (0..paths.len()).map(|at| Volume { path: path(at), make: false, label: Some(label.clone()) }).collect()
}

/// The volumes that the image declares.
async fn make_declared(node: &Node, order: &Order, plan: &plan::ContainerPlan) -> Result<(), Error> {
    let owners = || plan::owners(plan, &order.sandbox.plan.pod);
    match &plan.declared {
        plan::Declared::Nothing => Ok(()),
        plan::Declared::Made(paths) => {
            Ok(node.images.make_volumes(&order.id, paths.clone(), owners()).await?)
        }
        plan::Declared::Bound(paths) => {
            Ok(node.images.copy_volumes(&order.id, paths.clone(), owners()).await?)
        }
    }
}

/// What a container's file systems come from.
struct Volumes {
    rootfs: image_service::RootfsPlan,
    volumes: Vec<Volume>,
}

/// Looks at the host in a thread that may take long.
async fn gather(node: &Node, order: &Order, seen: Vec<Seen>) -> Result<plan::HostFacts, Error> {
    let (config, sandbox, settings) = (order.config.clone(), order.sandbox.clone(), node.config());
    let looking = tokio::task::spawn_blocking(move || {
        let handler = settings.runtime.handlers.get(&sandbox.plan.handler);
        plan::gather(&config, sandbox.config(), &settings.container, handler, seen)
    });
    match tokio::time::timeout(GATHER_TIMEOUT, looking).await {
        Ok(Ok(gathered)) => Ok(gathered?),
        Ok(Err(_)) => Err(Error::Stopping),
        Err(_) => Err(Error::SlowHost { seconds: GATHER_TIMEOUT.as_secs() }),
    }
}

/// Our own AppArmor profile is there from the first container on that needs it.
async fn load_profile(plan: &plan::ContainerPlan) -> Result<(), Error> {
    let wanted = plan.spec.process().as_ref().and_then(|process| process.apparmor_profile().as_deref());
    if wanted != Some(apparmor::DEFAULT) {
        return Ok(());
    }
    let at = |e| Error::io(format!("loading the AppArmor profile {}", apparmor::DEFAULT), e);
    let loaded = tokio::task::spawn_blocking(apparmor::require_default).await.map_err(|_| Error::Stopping)?;
    loaded.map_err(|error| at(std::io::Error::other(error)))
}

fn decide(
    node: &Node,
    order: &Order,
    image: &image_service::Image,
    host: &plan::HostFacts,
    target_pid: Option<i32>,
) -> Result<plan::ContainerPlan, Error> {
    let sandbox = plan::SandboxFacts {
        config: order.sandbox.config(),
        pod: &order.sandbox.plan.pod,
        labels: order.sandbox.plan.labels.as_ref(),
        hostname: &order.sandbox.plan.hostname,
        target_pid,
    };
    let name = order.config.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default();
    let image = plan::ImageFacts::of(image, name);
    let (config, volumes_dir) = (node.config(), node.images.volumes_dir(&order.id));
    let handlers = node.handlers();
    let inputs = plan::Inputs {
        container_id: &order.id,
        config: &order.config,
        sandbox,
        image,
        host,
        settings: &config.container,
        handler: config.runtime.handlers.get(&order.sandbox.plan.handler),
        features: handlers.features(&order.sandbox.plan.handler),
        oci_version: handlers.oci_version(&order.sandbox.plan.handler),
        volumes_dir: &volumes_dir,
    };
    Ok(plan::plan(&inputs)?)
}

fn monitor_plan(
    node: &Node,
    order: &Order,
    plan: &plan::ContainerPlan,
    volumes: Volumes,
    container_dir: &Path,
) -> conmon_protocol::ContainerPlan {
    let Volumes { rootfs, volumes } = volumes;
    conmon_protocol::ContainerPlan {
        container_id: order.id.to_string(),
        container_dir: container_dir.into(),
        bundle_dir: container_dir.join("bundle"),
        rootfs: Rootfs::Overlay { lower: rootfs.lower, upper: rootfs.upper, work: rootfs.work },
        log_path: plan.log_path.clone(),
        terminal: plan.terminal,
        stdin: plan.stdin,
        stdio_owner: plan.stdio_owner,
        file_label: plan.file_label.clone(),
        handler: handler(node, &order.sandbox.plan),
        volumes,
        patience_ms: node.config().container.volume_timeout_s * 1000,
    }
}

fn handler(node: &Node, sandbox: &sandbox::Plan) -> Handler {
    let config = node.config();
    let (name, cgroup_driver) = (&sandbox.handler, sandbox.pod.cgroup_driver);
    match config.runtime.handlers.get(name).filter(|handler| !handler.is_in_tree()) {
        Some(handler) => Handler::Command {
            path: handler.path.clone(),
            root: handler.root.clone().unwrap_or_else(|| config.run.join(format!("runtime-{name}"))),
            cgroup_driver,
        },
        None => {
            let seccomp_cache = Some(config.run.join("seccomp"));
            Handler::InTree { root: config.run.join("runtime"), seccomp_cache, cgroup_driver }
        }
    }
}

async fn create(monitor: &Monitor, plan: conmon_protocol::ContainerPlan) -> Result<i32, Error> {
    match monitor.ask(Ask::Create(plan), Vec::new()).await? {
        (Answer::Created { pid }, _) => Ok(pid),
        _ => Err(monitor::Error::Confused.into()),
    }
}

/// Lets a made container go on to its command.
///
/// # Errors
/// When there is no such command, or the monitor is gone.
pub async fn start(monitor: &Monitor, container_id: Arc<str>) -> Result<i64, Error> {
    let progress = Progress::new(container_id.clone(), Step::ContainerStart);
    progress.enter(Step::ContainerStart);
    let asked = monitor.ask(Ask::Start { container_id: container_id.to_string() }, Vec::new()).await;
    progress.enter(Step::ContainerStarted);
    progress.finish();
    match asked? {
        (Answer::Started { started_at_ns }, _) => Ok(started_at_ns),
        _ => Err(monitor::Error::Confused.into()),
    }
}
