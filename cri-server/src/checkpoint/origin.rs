//! What a container is restored from: an archive, a checkpoint image, or a folder of a pod's checkpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conmon_protocol::{Answer, Ask, ContainerPlan, Images};
use image_service::Image;
use oci_spec::runtime::Spec;

use super::partial::Partial;
use super::{Error, IMAGES, PATIENCE, ROOTFS_DIFF, archive, blocking, describe, may_restore};
use crate::error::Error as Failed;
use crate::monitor::{self, Monitor};
use crate::node::Node;

/// Says that an image is a checkpoint (CRI-O and containerd; the second is checkpointctl's).
const ANNOTATIONS: [&str; 2] =
    ["io.kubernetes.cri-o.annotations.checkpoint.name", "org.criu.checkpoint.container.name"];
/// What holds a checkpoint image's layer while it is read; named as images that are volumes are, so that it is found
/// by whoever cleans up after a crash.
const HELD: &str = "-image-checkpoint";
/// After its own time the monitor answers at once.
const MONITORS_WORDS: Duration = Duration::from_secs(5);

/// A checkpoint that a container is being made of.
#[derive(Debug)]
pub struct Origin {
    /// The image below, which the container had when it was written down.
    pub image: Arc<Image>,
    criu: PathBuf,
    /// The checkpoint's folder; nobody writes there.
    dir: PathBuf,
    /// Ours.
    work: Partial,
    held: Option<String>,
}

impl Origin {
    /// `None`: the container is to be made anew. `from` is a folder that is known to be a checkpoint.
    ///
    /// # Errors
    /// When restoring is not allowed or not possible here, or the checkpoint is none that can be read.
    pub async fn find(
        node: &Arc<Node>,
        container_id: &str,
        image: &str,
        from: Option<&Path>,
    ) -> Result<Option<Origin>, Failed> {
        if let Some(dir) = from {
            let (criu, work) = begin(node).await?;
            return Self::open(node, criu, dir.into(), work, None).await.map(Some);
        }
        if image.starts_with('/') {
            let (criu, work) = begin(node).await?;
            let (archive, dir) = (PathBuf::from(image), work.dir.clone());
            blocking(move || archive::unpack(&archive, &dir)).await?;
            let dir = work.dir.clone();
            return Self::open(node, criu, dir, work, None).await.map(Some);
        }
        let Some(found) = node.images.find(image) else { return Ok(None) };
        if !is_checkpoint(node, &found).await? {
            return Ok(None);
        }
        let (criu, work) = begin(node).await?;
        let held = format!("{container_id}{HELD}");
        let layers = node.images.make_writable(&held, &found).await?;
        let opened = match &layers.lower[..] {
            [layer] => Self::open(node, criu, layer.clone(), work, Some(held.clone())).await,
            more => {
                let why = format!("a checkpoint image has one layer, this one {}", more.len());
                Err(Error::damaged(image, why).into())
            }
        };
        if opened.is_err() {
            node.images.unmake_writable(&held).await?;
        }
        opened.map(Some)
    }

    async fn open(
        node: &Node,
        criu: PathBuf,
        dir: PathBuf,
        work: Partial,
        held: Option<String>,
    ) -> Result<Origin, Failed> {
        let looked_at = dir.clone();
        let described = blocking(move || {
            archive::images(&looked_at)?;
            describe::read(&looked_at)
        });
        let described = described.await?;
        let names = [&described.rootfs_image_ref, &described.rootfs_image_name, &described.rootfs_image];
        let mut names = names.into_iter().filter(|name| !name.is_empty());
        let image = names.clone().find_map(|name| node.images.find(name));
        let name = names.next_back().cloned().unwrap_or_default();
        let image = image.ok_or(Failed::NoImage { name })?;
        Ok(Origin { image, criu, dir, work, held })
    }

    /// Puts into a new container's writable layer what the old one had there, and sees that the new one has all that
    /// the old one's processes have open.
    ///
    /// # Errors
    /// When the checkpoint is damaged, or the new container lacks a mount.
    pub async fn fill(&self, node: &Node, container_id: &str, spec: &Spec) -> Result<(), Failed> {
        let (dir, places) = (self.dir.clone(), describe::places(spec));
        let (changes, gone) = blocking(move || {
            check_mounts(&dir, &places)?;
            let changes = match archive::open(&dir.join(ROOTFS_DIFF)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                opened => Some(opened.map_err(Error::io("opening", dir.join(ROOTFS_DIFF)))?),
            };
            Ok((changes, describe::gone(&dir)?))
        })
        .await?;
        Ok(node.images.fill_writable(container_id, changes, gone).await?)
    }

    /// Has the monitor make the container, whose processes wait. Gives the first one.
    ///
    /// # Errors
    /// criu's words, or the monitor's.
    pub async fn restore(&self, monitor: &Monitor, plan: ContainerPlan) -> Result<i32, Failed> {
        let patience_ms = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
        let from = Images {
            criu: self.criu.clone(),
            dir: self.dir.join(IMAGES),
            work_dir: self.work.dir.clone(),
            patience_ms,
        };
        let asked = monitor.ask_patiently(Ask::Restore { plan, from }, PATIENCE + MONITORS_WORDS).await;
        match asked? {
            (Answer::Created { pid }, _) => Ok(pid),
            _ => Err(monitor::Error::Confused.into()),
        }
    }

    /// Lets go of the checkpoint.
    pub async fn close(self, node: &Node) {
        if let Some(held) = &self.held
            && let Err(error) = node.images.unmake_writable(held).await
        {
            tracing::error!(held, %error, "a checkpoint image's layer stays held until the next start");
        }
        // It may be as large as a node's memory.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

async fn begin(node: &Node) -> Result<(PathBuf, Partial), Failed> {
    let (criu, root) = (may_restore(node).await?, node.config().root.clone());
    Ok((criu, blocking(move || Partial::of_our_own(&root)).await?))
}

/// Checkpoint images have nothing to run; of others nobody asks the annotations.
async fn is_checkpoint(node: &Node, image: &Image) -> Result<bool, Failed> {
    if !image.config.entrypoint.is_empty() || !image.config.cmd.is_empty() {
        return Ok(false);
    }
    let annotations = node.images.annotations(image).await?;
    Ok(ANNOTATIONS.iter().any(|name| annotations.contains_key(*name)))
}

/// criu says of a mount that is missing only its number.
fn check_mounts(dir: &Path, places: &[PathBuf]) -> Result<(), Error> {
    let missing: Vec<String> = describe::mounted(dir)?
        .into_iter()
        .filter(|place| !places.contains(place))
        .map(|place| place.display().to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Request(format!(
        "mounts: the checkpoint has something of its node mounted at {}, and the new container has nothing there",
        missing.join(", ")
    )))
}
