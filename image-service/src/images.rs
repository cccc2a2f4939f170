//! The service: what the daemon asks of images, each a few words long.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::image::Image;
use crate::platform::Platform;
use crate::pull::PullRequest;

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
    pub policy: PathBuf,
    pub platform: Platform,
    /// Layers downloaded and unpacked at once on the whole node.
    pub parallel_layers: usize,
    /// An unpacked layer larger than this is refused.
    pub max_layer_bytes: u64,
    /// Names that are pinned: exact (`registry.k8s.io/pause:3.9`) or with `*` at the end.
    pub pinned: Vec<String>,
}

/// What lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    pub path: PathBuf,
    pub bytes: u64,
    pub inodes: u64,
}

/// What a container's root is mounted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsPlan {
    /// The topmost first, as overlay wants it.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// The images of this node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {}

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
            ],
            auth_files: Vec::new(),
            policy: PathBuf::from("/etc/containers/policy.json"),
            platform: Platform::host(),
            parallel_layers: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8),
            max_layer_bytes: 256 << 30,
            pinned: Vec::new(),
        }
    }
}

impl Images {
    /// Opens the store, drops what is damaged, removes what a crash left behind.
    pub async fn open(settings: Settings) -> Result<Images, Error> {
        todo!()
    }

    /// Pulls and gives the image; whoever asks for the same at the same time joins.
    /// Dropping the future of the last who asks cancels it and leaves nothing.
    pub async fn pull(&self, request: PullRequest) -> Result<Arc<Image>, Error> {
        todo!()
    }

    /// Takes in an OCI layout (directory or tar) or a docker archive. `name` is given to its only image.
    pub async fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<Arc<Image>>, Error> {
        todo!()
    }

    /// All images, sorted by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        todo!()
    }

    /// By name (`:latest` and `docker.io/library` implied), `name@digest`, id, or unambiguous start of an id.
    pub fn find(&self, name_or_id: &str) -> Option<Arc<Image>> {
        todo!()
    }

    /// Forgets the image with all its names. Layers that a container uses stay until it is gone.
    pub async fn remove(&self, name_or_id: &str) -> Result<(), Error> {
        todo!()
    }

    /// What images take.
    pub fn usage(&self) -> Usage {
        todo!()
    }

    /// What writable layers take. Walks them: for the disk, not for the hot path.
    pub fn container_usage(&self) -> Usage {
        todo!()
    }

    /// Makes a container's writable layer and holds the image's layers for it. Repeatable.
    pub async fn make_writable(&self, container_id: &str, image: &Image) -> Result<RootfsPlan, Error> {
        todo!()
    }

    /// Removes a container's writable layer and lets go of the layers below. Gone is done.
    pub async fn unmake_writable(&self, container_id: &str) -> Result<(), Error> {
        todo!()
    }

    /// The containers that have a writable layer.
    pub fn writables(&self) -> Vec<String> {
        todo!()
    }

    /// What one writable layer takes; walks it, so ask from a thread that may wait.
    pub fn writable_usage(&self, container_id: &str) -> Usage {
        todo!()
    }
}
