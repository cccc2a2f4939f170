//! What a pod, a container and an exec are to be: decided by the daemon, performed by the monitor.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlan {
    pub sandbox_id: String,
    pub pod_dir: PathBuf,
    pub hostname: Option<String>,
    pub network: Sharing,
    pub ipc: Sharing,
    pub uts: Sharing,
    pub pid: PidSharing,
    /// The pod's user namespace; `None` is the host's.
    pub user: Option<IdMaps>,
    /// Name and value, as the pod asked. Only those of a namespace that the pod owns are accepted.
    pub sysctls: Vec<(String, String)>,
    /// Size of /dev/shm when the pod owns its IPC namespace; `None` is the default of 64 MiB.
    pub shm_size_bytes: Option<u64>,
    /// The path of the pod's cgroup; empty: the pod has none of its own.
    pub cgroup_parent: String,
    #[serde(default)]
    pub cgroup_driver: CgroupDriver,
    /// Where the monitor shall live; `None`: where it was started.
    #[serde(default)]
    pub monitor_cgroup: Option<MonitorCgroup>,
    /// SELinux, of the first process of a PID namespace that the pod's containers share.
    #[serde(default)]
    pub process_label: Option<String>,
    /// SELinux, of the pod's own file systems.
    #[serde(default)]
    pub file_label: Option<String>,
}

/// A cgroup for a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MonitorCgroup {
    /// The pod's own, or one below it where a cgroup has either processes or children (v2).
    Pod,
    /// This one, which many monitors may share: a path, or with the systemd driver a slice.
    Named(String),
}

/// Who makes the cgroups of containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// The runtime, with directories.
    #[default]
    Cgroupfs,
    /// systemd: each container is a scope.
    Systemd,
}

/// Whose namespace the pod lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sharing {
    Own,
    Host,
}

/// Whose PID namespace the pod's containers live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidSharing {
    /// Each container has its own.
    Container,
    /// All containers share the pod's.
    Pod,
    Host,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    pub uids: Vec<IdMap>,
    pub gids: Vec<IdMap>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    pub container_id: u32,
    pub host_id: u32,
    pub length: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub container_id: String,
    pub container_dir: PathBuf,
    pub bundle_dir: PathBuf,
    pub rootfs: Rootfs,
    /// `None`: the container's output is drained and dropped.
    pub log_path: Option<PathBuf>,
    pub terminal: bool,
    pub stdin: Stdin,
    pub stdio_owner: Owner,
    /// SELinux, of the FIFOs.
    #[serde(default)]
    pub file_label: Option<String>,
    pub handler: Handler,
    /// What of the host is mounted into it. With any of them a child makes the container, which can be given up.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// How long that may take; 0 is 30 s.
    #[serde(default)]
    pub patience_ms: u64,
}

/// A path on the host. Whoever serves it may be away, and then the kernel keeps who asks for it, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub path: PathBuf,
    /// A directory is made there if nothing is.
    pub make: bool,
    /// The SELinux label that it gets, with all that is in it.
    #[serde(default)]
    pub label: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// Layers, topmost first, and the writable layer. Mounted detached, seen by the container only.
    Overlay {
        lower: Vec<PathBuf>,
        upper: PathBuf,
        work: PathBuf,
    },
    Dir(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// The container reads /dev/null.
    Closed,
    /// Clients come and go; the container never sees an end of file.
    Open,
    /// The end of the first attached client's stdin is the end of the container's.
    Once,
}

/// The user and group on the host that the container's user maps to; the FIFOs are theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// Who makes the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handler {
    /// Our own runtime, linked into the monitor.
    InTree {
        root: PathBuf,
        seccomp_cache: Option<PathBuf>,
        #[serde(default)]
        cgroup_driver: CgroupDriver,
    },
    /// Another OCI runtime, driven by its command line.
    Command { path: PathBuf, root: PathBuf, cgroup_driver: CgroupDriver },
}

/// What a container is restored from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// criu's path.
    pub criu: PathBuf,
    pub dir: PathBuf,
    /// For criu's log, which outlives a failure.
    pub work_dir: PathBuf,
    /// How long it may take.
    pub patience_ms: u64,
}

/// A container of which images are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    pub container_id: String,
    /// For the images.
    pub dir: PathBuf,
    /// For criu's log and statistics.
    pub work_dir: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlan {
    pub exec_id: String,
    pub container_id: String,
    /// An OCI `process` object.
    pub process: serde_json::Value,
    pub terminal: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// The process is killed when it is still running after this long; `None` waits for ever.
    pub timeout_ms: Option<u64>,
}
