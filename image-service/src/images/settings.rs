//! What the service is told once.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::platform::Platform;
use crate::pull::counted::PullCgroup;

/// Where things lie and how much may be done at once. [`Settings::new`] has the node's defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `ROOT/images`: blobs, layers, index.
    pub root: PathBuf,
    /// `ROOT/containers`: writable layers; on the same file system as `root`.
    pub containers_dir: PathBuf,
    pub registries_conf: PathBuf,
    pub registries_conf_dir: PathBuf,
    pub certs_dirs: Vec<PathBuf>,
    pub auth_files: Vec<PathBuf>,
    /// Has `NAMESPACE.json` for namespaces with credentials of their own, in the format of the others.
    pub namespace_auth_dir: PathBuf,
    pub policy: PathBuf,
    /// Has `NAMESPACE.json` for namespaces with a policy of their own, in place of the node's.
    pub policy_dir: PathBuf,
    /// Has the private keys of encrypted layers, each a PEM file.
    pub decryption_keys_path: PathBuf,
    /// Says where signatures lie that no registry has.
    pub registries_d: PathBuf,
    pub platform: Platform,
    /// Whose cgroup unpacking is counted in.
    pub pull_cgroup: PullCgroup,
    /// The program and the words that make [`crate::unpack_for_a_daemon`] run, where that is not the daemon's.
    pub unpacker: Vec<OsString>,
    /// Layers downloaded and unpacked at once on the whole node.
    pub parallel_layers: usize,
    /// An unpacked layer larger than this is refused.
    pub max_layer_bytes: u64,
    /// Of blobs this large, what has come is kept over broken pulls and crashes, once it is worth that.
    pub parts_from_bytes: u64,
    /// It is worth that after this time, or after 0.3 s when it comes more slowly than it is unpacked.
    pub parts_after: Duration,
    /// Connections beyond the first that large blobs may have, over all pulls of the node.
    pub more_connections: usize,
    /// Which start of the machine this is (random(4), `boot_id`); a test of power cuts says another.
    pub boot: String,
    /// Names that are pinned: exact (`registry.k8s.io/pause:3.9`) or with `*` at the end.
    pub pinned: Vec<String>,
}

impl Settings {
    /// The defaults of a node whose durable root is `root` (`/var/lib/berth`).
    pub fn new(root: &Path) -> Settings {
        Settings {
            root: root.join("images"),
            containers_dir: root.join("containers"),
            registries_conf: PathBuf::from("/etc/containers/registries.conf"),
            registries_conf_dir: PathBuf::from("/etc/containers/registries.conf.d"),
            certs_dirs: vec![
                PathBuf::from("/etc/containers/certs.d"),
                PathBuf::from("/etc/docker/certs.d"),
                PathBuf::from("/etc/containerd/certs.d"),
            ],
            auth_files: Vec::new(),
            namespace_auth_dir: PathBuf::from("/etc/berth/auth.d"),
            policy: PathBuf::from("/etc/containers/policy.json"),
            policy_dir: PathBuf::from("/etc/berth/policies.d"),
            decryption_keys_path: PathBuf::from("/etc/berth/decryption-keys"),
            registries_d: PathBuf::from("/etc/containers/registries.d"),
            platform: Platform::host(),
            pull_cgroup: PullCgroup::Daemon,
            unpacker: Vec::new(),
            parallel_layers: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8),
            max_layer_bytes: 256 << 30,
            parts_from_bytes: 16 << 20,
            parts_after: Duration::from_secs(2),
            more_connections: 8,
            boot: boot_id(),
            pinned: Vec::new(),
        }
    }
}

/// Another after every start of the machine (random(4)).
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}
