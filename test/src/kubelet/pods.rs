//! A pod with the fields that the kubelet gives it.

use std::path::{Path, PathBuf};

use proto::v1;

use super::Kubelet;

/// Its quality of service, of which its cgroup and its out-of-memory score come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// A pod as a user wrote it.
#[derive(Debug, Clone)]
pub struct Pod {
    name: String,
    qos: Qos,
    /// Each a name and a command.
    containers: Vec<(String, Vec<String>)>,
    image: String,
    cgroup: String,
    /// Of all pods.
    logs: PathBuf,
}

const MEMORY_BYTES: i64 = 64 << 20;

impl Kubelet {
    pub fn pod(&self, name: &str, qos: Qos) -> Pod {
        Pod {
            name: name.to_owned(),
            qos,
            containers: Vec::new(),
            image: self.image.clone(),
            cgroup: self.cgroup.clone(),
            logs: self.logs.clone(),
        }
    }
}

impl Qos {
    /// A burstable pod's depends on its requests and is between the other two.
    pub fn oom_score_adj(self) -> i64 {
        match self {
            Qos::Guaranteed => -997,
            Qos::Burstable => 968,
            Qos::BestEffort => 1000,
        }
    }

    /// A guaranteed pod's cgroup is directly below all pods'.
    fn folder(self) -> &'static str {
        match self {
            Qos::Guaranteed => "",
            Qos::Burstable => "/burstable",
            Qos::BestEffort => "/besteffort",
        }
    }
}

impl Pod {
    /// With one more container.
    #[must_use]
    pub fn runs(mut self, name: &str, command: &[&str]) -> Pod {
        self.containers.push((name.to_owned(), command.iter().map(|word| (*word).to_owned()).collect()));
        self
    }

    pub fn uid(&self) -> String {
        format!("{}-0000-4000-8000-000000000000", self.name)
    }

    pub fn container_names(&self) -> Vec<String> {
        self.containers.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The kubelet has made it by the time it asks.
    pub fn cgroup_parent(&self) -> String {
        format!("{}/kubepods{}/pod{}", self.cgroup, self.qos.folder(), self.uid())
    }

    pub fn log_dir(&self) -> PathBuf {
        self.logs.join(format!("default_{}_{}", self.name, self.uid()))
    }

    pub fn log_of(&self, container: &str, attempt: u32) -> PathBuf {
        self.log_dir().join(container).join(format!("{attempt}.log"))
    }

    pub fn sandbox_config(&self) -> v1::PodSandboxConfig {
        let options = namespaces();
        let seccomp = Some(v1::SecurityProfile::default());
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: self.name.clone(),
                uid: self.uid(),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: self.name.clone(),
            log_directory: self.log_dir().display().to_string(),
            dns_config: Some(v1::DnsConfig { servers: vec!["10.0.0.10".into()], ..Default::default() }),
            labels: self.labels(None),
            annotations: [("kubernetes.io/config.source".to_owned(), "file".to_owned())].into(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    seccomp,
                    ..Default::default()
                }),
                overhead: Some(v1::LinuxContainerResources::default()),
                resources: Some(self.resources()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// `image` is the id that ImageStatus told.
    pub fn container_config(&self, name: &str, attempt: u32, image: &str) -> v1::ContainerConfig {
        let (_, command) =
            self.containers.iter().find(|(own, _)| own == name).expect("a container of the pod");
        let log = self.log_of(name, attempt);
        std::fs::create_dir_all(log.parent().expect("a log lies in a folder")).expect("making a log folder");
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt }),
            image: Some(v1::ImageSpec {
                image: image.to_owned(),
                user_specified_image: self.image.clone(),
                ..Default::default()
            }),
            command: command.clone(),
            envs: vec![v1::KeyValue { key: "KUBERNETES_PORT".into(), value: b"tcp://10.0.0.1:443".to_vec() }],
            mounts: self.mounts(name),
            labels: self.labels(Some(name)),
            annotations: [
                ("io.kubernetes.container.hash".to_owned(), "8c65cb5a".to_owned()),
                ("io.kubernetes.container.restartCount".to_owned(), attempt.to_string()),
                ("io.kubernetes.container.terminationMessagePath".to_owned(), TERMINATION_LOG.to_owned()),
            ]
            .into(),
            log_path: format!("{name}/{attempt}.log"),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(self.resources()),
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    run_as_user: Some(v1::Int64Value { value: 0 }),
                    masked_paths: words(&["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]),
                    readonly_paths: words(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]),
                    seccomp: Some(v1::SecurityProfile::default()),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }

    /// The same for the pod and for its one container. Huge pages are always there, also where no controller limits
    /// them.
    fn resources(&self) -> v1::LinuxContainerResources {
        let limited = self.qos == Qos::Guaranteed;
        let no_pages = |page_size: &str| v1::HugepageLimit { page_size: page_size.into(), limit: 0 };
        v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: if limited { 50_000 } else { 0 },
            cpu_shares: if limited { 512 } else { 2 },
            memory_limit_in_bytes: if limited { MEMORY_BYTES } else { 0 },
            memory_swap_limit_in_bytes: if limited { MEMORY_BYTES } else { 0 },
            oom_score_adj: self.qos.oom_score_adj(),
            hugepage_limits: vec![no_pages("2MB"), no_pages("1GB")],
            ..Default::default()
        }
    }

    /// /etc/hosts and the termination log, which the kubelet has written.
    fn mounts(&self, name: &str) -> Vec<v1::Mount> {
        let file = |file: &str, container_path: &str| v1::Mount {
            container_path: container_path.to_owned(),
            host_path: written(&self.log_dir().join(format!("{name}-{file}"))),
            ..Default::default()
        };
        vec![file("etc-hosts", "/etc/hosts"), file("termination-log", TERMINATION_LOG)]
    }

    fn labels(&self, container: Option<&str>) -> std::collections::HashMap<String, String> {
        let labels = [
            ("io.kubernetes.pod.name", self.name.clone()),
            ("io.kubernetes.pod.namespace", "default".to_owned()),
            ("io.kubernetes.pod.uid", self.uid()),
        ];
        let name = container.map(|name| ("io.kubernetes.container.name", name.to_owned()));
        labels.into_iter().chain(name).map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

const TERMINATION_LOG: &str = "/dev/termination-log";

fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption {
        pid: v1::NamespaceMode::Container.into(),
        userns_options: Some(v1::UserNamespace {
            mode: v1::NamespaceMode::Node.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn words(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

fn written(path: &Path) -> String {
    std::fs::write(path, "").expect("writing a file for a pod");
    path.display().to_string()
}
