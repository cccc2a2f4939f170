//! Pods and containers as plugins are told of them.

use std::path::Path;
use std::sync::Arc;

use conmon_protocol::{PidSharing, Sharing};
use oci_spec::runtime::{Hook as OciHook, Linux, LinuxNamespaceType, Spec};
use proto::nri::{
    CdiDevice, Container, ContainerState, Hook, Hooks, Image, LinuxContainer, LinuxDevice, LinuxIoPriority,
    LinuxNamespace, LinuxNetDevice, LinuxPodSandbox, LinuxRdt, Mount, OptionalBool, OptionalFileMode,
    OptionalInt, OptionalRepeatedString, OptionalString, OptionalUInt32, PodSandbox, PosixRlimit,
    SecurityProfile, User,
};
use proto::v1;

use super::resources;
use crate::container::{self, Life};
use crate::node::Node;
use crate::sandbox::{self, PodLimits};

/// Who an event is about.
#[derive(Debug, Clone)]
pub enum Subject {
    /// Nobody else knows of it yet.
    Told { pod: Box<PodSandbox>, container: Option<Box<Container>> },
    /// It is or was in the world.
    Known { sandbox: Arc<sandbox::Sandbox>, container: Option<Arc<container::Container>> },
}

impl Subject {
    pub fn pod(sandbox: Arc<sandbox::Sandbox>) -> Self {
        Subject::Known { sandbox, container: None }
    }

    pub fn container(sandbox: Arc<sandbox::Sandbox>, container: Arc<container::Container>) -> Self {
        Subject::Known { sandbox, container: Some(container) }
    }

    /// In the plugins' words. What only the bundle says is read from there, if it still is.
    pub(super) async fn told(self, node: &Arc<Node>) -> (PodSandbox, Option<Container>) {
        match self {
            Subject::Told { pod, container } => (*pod, container.map(|container| *container)),
            Subject::Known { sandbox, container } => {
                let pod = known_pod(&sandbox);
                let Some(container) = container else { return (pod, None) };
                let node = node.clone();
                let reading = tokio::task::spawn_blocking(move || known_container(&node, &container));
                (pod, reading.await.ok())
            }
        }
    }
}

pub(super) fn known_pod(sandbox: &sandbox::Sandbox) -> PodSandbox {
    let ips = sandbox.ips.iter().map(ToString::to_string).collect();
    pod(&sandbox.facts, ips, sandbox.limits.as_deref())
}

/// `limits` are those that the kubelet said last, after the pod was made.
pub(super) fn pod(facts: &sandbox::Facts, ips: Vec<String>, limits: Option<&PodLimits>) -> PodSandbox {
    let config = facts.config();
    let metadata = config.metadata.clone().unwrap_or_default();
    let linux = config.linux.clone().unwrap_or_default();
    let (overhead, resources) = match limits {
        Some(limits) => (limits.overhead.as_ref(), limits.resources.as_ref()),
        None => (linux.overhead.as_ref(), linux.resources.as_ref()),
    };
    PodSandbox {
        id: facts.id.to_string(),
        name: metadata.name,
        uid: metadata.uid,
        namespace: metadata.namespace,
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        runtime_handler: facts.request.runtime_handler.clone(),
        linux: Some(LinuxPodSandbox {
            pod_overhead: overhead.map(resources::from_cri),
            pod_resources: resources.map(resources::from_cri),
            cgroup_parent: facts.plan.pod.cgroup_parent.clone(),
            cgroups_path: String::new(),
            namespaces: pod_namespaces(facts),
            resources: None,
        }),
        // There is no process of the pod's own.
        pid: 0,
        ips,
    }
}

/// Those that the pod has of its own, where they are pinned.
fn pod_namespaces(facts: &sandbox::Facts) -> Vec<LinuxNamespace> {
    let pod = &facts.plan.pod;
    let pins = pod.pod_dir.join("ns");
    let own = |sharing: Sharing| sharing == Sharing::Own;
    let all = [
        (own(pod.network), "network", "net"),
        (own(pod.ipc), "ipc", "ipc"),
        (own(pod.uts), "uts", "uts"),
        (matches!(pod.pid, PidSharing::Pod), "pid", "pid"),
        (pod.user.is_some(), "user", "user"),
    ];
    let pinned = |(_, kind, pin): (bool, &str, &str)| LinuxNamespace {
        r#type: kind.to_owned(),
        path: pins.join(pin).display().to_string(),
    };
    all.into_iter().filter(|(has, ..)| *has).map(pinned).collect()
}

/// Blocking: reads the container's bundle.
pub(super) fn known_container(node: &Node, known: &container::Container) -> Container {
    let facts = &known.facts;
    let record = node.store.sandbox(&facts.sandbox_id).container(&facts.id);
    let spec: Option<Spec> = record.read_json("bundle/config.json").ok();
    let about = About {
        id: &facts.id,
        sandbox_id: &facts.sandbox_id,
        config: &facts.config,
        image_id: &facts.made.image_id,
        spec: spec.as_ref().unwrap_or(&facts.made.plan.spec),
    };
    let mut told = container(&about);
    if known.limits.is_some() {
        let now = resources::from_cri(&known.resources());
        let linux = told.linux.get_or_insert_default();
        super::overlay::resources(linux.resources.get_or_insert_default(), &now);
    }
    let exit = known.life.exit();
    told.state = state(&known.life).into();
    told.pid = known.life.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
    told.created_at = facts.made.created_at_ns;
    told.started_at = known.life.started_at_ns();
    told.finished_at = exit.map_or(0, |exit| exit.finished_at_ns);
    told.exit_code = exit.map_or(0, |exit| exit.code);
    told.status_reason = match exit {
        Some(exit) if exit.oom_killed => "OOMKilled".to_owned(),
        Some(exit) if exit.code != 0 => "Error".to_owned(),
        Some(_) => "Completed".to_owned(),
        None => String::new(),
    };
    told
}

fn state(life: &Life) -> ContainerState {
    match life {
        Life::Making => ContainerState::ContainerUnknown,
        Life::Created { .. } => ContainerState::ContainerCreated,
        Life::Starting { .. } | Life::Running { .. } | Life::Stopping { .. } => {
            ContainerState::ContainerRunning
        }
        Life::Exited { .. } | Life::Removing { .. } | Life::Broken { .. } => ContainerState::ContainerStopped,
    }
}

/// What a container is described by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) id: &'a str,
    pub(crate) sandbox_id: &'a str,
    pub(crate) config: &'a v1::ContainerConfig,
    pub(crate) image_id: &'a str,
    pub(crate) spec: &'a Spec,
}

/// One that is yet to be made, or what does not change about one that is.
pub(super) fn container(about: &About<'_>) -> Container {
    let (config, spec) = (about.config, about.spec);
    let mut annotations = config.annotations.clone();
    annotations.extend(spec.annotations().clone().unwrap_or_default());
    let process = spec.process().clone().unwrap_or_default();
    let mut linux = spec.linux().as_ref().map(linux).unwrap_or_default();
    linux.oom_score_adj = process.oom_score_adj().map(|score| OptionalInt { value: score.into() });
    linux.io_priority = process.io_priority().map(|priority| LinuxIoPriority {
        class: io_class(&priority.class().to_string()),
        priority: i32::try_from(priority.priority()).unwrap_or_default(),
    });
    linux.seccomp_profile = seccomp_profile(config);
    Container {
        id: about.id.to_owned(),
        pod_sandbox_id: about.sandbox_id.to_owned(),
        name: config.metadata.clone().unwrap_or_default().name,
        labels: config.labels.clone().into_iter().collect(),
        annotations: annotations.into_iter().collect(),
        args: process.args().clone().unwrap_or_default(),
        env: process.env().clone().unwrap_or_default(),
        mounts: spec.mounts().iter().flatten().map(mount).collect(),
        hooks: spec.hooks().as_ref().map(hooks),
        linux: Some(linux),
        rlimits: process.rlimits().iter().flatten().map(rlimit).collect(),
        cdi_devices: config.cdi_devices.iter().map(|d| CdiDevice { name: d.name.clone() }).collect(),
        user: Some(User {
            uid: process.user().uid(),
            gid: process.user().gid(),
            additional_gids: process.user().additional_gids().clone().unwrap_or_default(),
        }),
        image: Some(image(config, about.image_id)),
        ..Default::default()
    }
}

fn io_class(name: &str) -> i32 {
    proto::nri::IoPrioClass::from_str_name(name).map_or(0, Into::into)
}

fn image(config: &v1::ContainerConfig, image_id: &str) -> Image {
    let asked = config.image.clone().unwrap_or_default();
    let name = if asked.user_specified_image.is_empty() { asked.image } else { asked.user_specified_image };
    let digest = name.split_once('@').map(|(_, digest)| digest.to_owned()).unwrap_or_default();
    Image { name, digest, config_digest: image_id.to_owned() }
}

/// The kinds have the same numbers in both interfaces.
fn seccomp_profile(config: &v1::ContainerConfig) -> Option<SecurityProfile> {
    let asked = config.linux.as_ref()?.security_context.as_ref()?.seccomp.as_ref()?;
    Some(SecurityProfile { profile_type: asked.profile_type, localhost_ref: asked.localhost_ref.clone() })
}

fn text(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn mount(mount: &oci_spec::runtime::Mount) -> Mount {
    Mount {
        destination: text(Some(mount.destination())),
        r#type: mount.typ().clone().unwrap_or_default(),
        source: text(mount.source().as_deref()),
        options: mount.options().clone().unwrap_or_default(),
    }
}

fn rlimit(limit: &oci_spec::runtime::PosixRlimit) -> PosixRlimit {
    PosixRlimit { r#type: limit.typ().to_string(), hard: limit.hard(), soft: limit.soft() }
}

fn hooks(hooks: &oci_spec::runtime::Hooks) -> Hooks {
    let all = |hooks: &Option<Vec<OciHook>>| hooks.iter().flatten().map(hook).collect();
    Hooks {
        #[allow(deprecated, reason = "files in the field still say prestart")]
        prestart: all(hooks.prestart()),
        create_runtime: all(hooks.create_runtime()),
        create_container: all(hooks.create_container()),
        start_container: all(hooks.start_container()),
        poststart: all(hooks.poststart()),
        poststop: all(hooks.poststop()),
    }
}

fn hook(hook: &OciHook) -> Hook {
    Hook {
        path: text(Some(hook.path())),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone().unwrap_or_default(),
        timeout: hook.timeout().map(|value| OptionalInt { value }),
    }
}

fn linux(linux: &Linux) -> LinuxContainer {
    let net_device = |device: &oci_spec::runtime::LinuxNetDevice| LinuxNetDevice {
        name: device.name().clone().unwrap_or_default(),
    };
    LinuxContainer {
        namespaces: linux.namespaces().iter().flatten().map(namespace).collect(),
        devices: linux.devices().iter().flatten().map(device).collect(),
        resources: linux.resources().as_ref().map(resources::from_oci),
        cgroups_path: text(linux.cgroups_path().as_deref()),
        sysctl: linux.sysctl().clone().unwrap_or_default().into_iter().collect(),
        net_devices: linux
            .net_devices()
            .iter()
            .flatten()
            .map(|(host, device)| (host.clone(), net_device(device)))
            .collect(),
        rdt: linux.intel_rdt().as_ref().map(|rdt| LinuxRdt {
            clos_id: rdt.clos_id().clone().map(|value| OptionalString { value }),
            schemata: rdt.schemata().clone().map(|value| OptionalRepeatedString { value }),
            enable_monitoring: rdt.enable_monitoring().map(|value| OptionalBool { value }),
            remove: false,
        }),
        ..Default::default()
    }
}

fn namespace(namespace: &oci_spec::runtime::LinuxNamespace) -> LinuxNamespace {
    let kind = match namespace.typ() {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    };
    LinuxNamespace { r#type: kind.to_owned(), path: text(namespace.path().as_deref()) }
}

fn device(device: &oci_spec::runtime::LinuxDevice) -> LinuxDevice {
    LinuxDevice {
        path: text(Some(device.path())),
        r#type: device.typ().as_str().to_owned(),
        major: device.major(),
        minor: device.minor(),
        file_mode: device.file_mode().map(|value| OptionalFileMode { value }),
        uid: device.uid().map(|value| OptionalUInt32 { value }),
        gid: device.gid().map(|value| OptionalUInt32 { value }),
    }
}
