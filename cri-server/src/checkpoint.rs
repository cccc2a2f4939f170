//! Checkpoints: containers written down, processes by criu and files by us, and containers made of that again.
//!
//! ```text
//! config.dump      what it was, and the image below         spec.dump        its OCI configuration
//! bind.mounts      which of its mounts are the node's       deleted.files    paths of the image that are gone
//! rootfs-diff.tar  what it wrote                            dump.log, stats-dump  criu's own
//! checkpoint/      criu's images
//! ```
//! Names and contents are those that CRI-O writes, that the kubelet hands on, and that checkpointctl reads. As one tar
//! that is a container's checkpoint; as the only layer of an image it is a checkpoint image; as folders beside a
//! `pod.dump` it is a pod's.
//!
//! `capture` writes down what is frozen, `changes` the files, `describe` the words; `archive` packs and unpacks;
//! `container` and `pod` are the calls, `origin` the way back, and `partial` what a crash leaves nothing of.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::node::Node;

mod archive;
mod capture;
mod changes;
mod container;
mod describe;
mod origin;
mod partial;
mod pod;

pub use container::checkpoint_container;
pub use origin::Origin;
pub use partial::{Leftovers, sweep};
pub use pod::{checkpoint_pod, restore_pod};

const CONFIG_DUMP: &str = "config.dump";
const SPEC_DUMP: &str = "spec.dump";
const BIND_MOUNTS: &str = "bind.mounts";
const DELETED_FILES: &str = "deleted.files";
const ROOTFS_DIFF: &str = "rootfs-diff.tar";
const IMAGES: &str = "checkpoint";

/// How long a checkpoint may take, and so how long containers may stand still, when nobody says.
const PATIENCE: Duration = Duration::from_secs(600);

/// In the first moments of a daemon.
const NOT_ASKED: &str = "it was not asked yet whether it works here; ask again in a moment";

/// What a node does with checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allow {
    None,
    /// Writes them.
    Checkpoint,
    /// Makes containers of them, too. criu does as root whatever images say, so they are as trusted as the node itself.
    Restore,
}

/// Why there is no checkpoint, or no container of one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "this node makes no checkpoints (checkpoint.allow = \"none\" in berth.toml); its operator may set \"checkpoint\""
    )]
    NoCheckpoints,
    #[error(
        "this node restores nothing: criu does as root whatever a checkpoint says. Where all of them are to be trusted, \
         its operator may set checkpoint.allow = \"restore\" in berth.toml"
    )]
    NoRestore,
    #[error("checkpoints need criu: {0}")]
    Criu(String),
    #[error("{0}")]
    Request(String),
    #[error("{0}")]
    State(String),
    #[error("the checkpoint {}: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the checkpoint was not done in time and was given up; its containers run on")]
    Late,
}

impl Error {
    fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { doing, path, source }
    }

    fn damaged(path: impl Into<PathBuf>, why: impl Into<String>) -> Error {
        Error::Damaged { path: path.into(), why: why.into() }
    }
}

/// criu, where this node may and can write checkpoints.
async fn may_checkpoint(node: &Node) -> Result<PathBuf, Error> {
    match node.config().checkpoint.allow {
        Allow::None => Err(Error::NoCheckpoints),
        Allow::Checkpoint | Allow::Restore => working(node).await,
    }
}

/// criu, where this node may and can restore.
async fn may_restore(node: &Node) -> Result<PathBuf, Error> {
    match node.config().checkpoint.allow {
        Allow::None | Allow::Checkpoint => Err(Error::NoRestore),
        Allow::Restore => working(node).await,
    }
}

async fn working(node: &Node) -> Result<PathBuf, Error> {
    let criu = node.criu_asked().await.ok_or_else(|| Error::Criu(NOT_ASKED.into()))?;
    criu.works.as_ref().map(|_| criu.program.clone()).map_err(|why| Error::Criu(why.clone()))
}

/// For Status: what may be done here, and what can.
pub fn info(node: &Node) -> serde_json::Value {
    let (allow, criu) = (node.config().checkpoint.allow, node.criu());
    let works = criu.map_or_else(|| Err(NOT_ASKED.to_owned()), |criu| criu.works.clone());
    serde_json::json!({
        "allow": allow,
        "criu": node.config().checkpoint.criu,
        "version": works.as_ref().ok(),
        "checkpoint": allow != Allow::None && works.is_ok(),
        "restore": allow == Allow::Restore && works.is_ok(),
        "why": works.as_ref().err(),
    })
}

/// Work that goes on to its end when the client goes away.
fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, crate::error::Error>> + Send + 'static,
) -> impl Future<Output = Result<T, crate::error::Error>> + Send {
    let work = tokio::spawn(work);
    async { work.await.map_err(|_| crate::error::Error::Stopping)? }
}

/// In a thread that may take long.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, crate::error::Error> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| crate::error::Error::Stopping)?;
    Ok(done?)
}
