//! RestorePod: a new sandbox, and its containers of a checkpoint's folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::v1;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::{Error, archive, blocking, describe, may_restore, to_its_end};
use super::{CONTAINERS, POD_DUMP, PodDump, VERSION, folder, is_plain, no_options};
use crate::container;
use crate::error::{Error as Failed, Noun, chain};
use crate::node::Node;
use crate::sandbox::Name;
use crate::sandbox::life::Ask;
use crate::sandbox::task::Message;

/// A new sandbox with its containers, which wait for their starts.
///
/// # Errors
/// Names what is in the way. Nothing of the pod is left then.
pub async fn restore_pod(
    node: &Arc<Node>,
    request: v1::RestorePodRequest,
    deadline: Option<Instant>,
) -> Result<v1::RestorePodResponse, Failed> {
    let node = node.clone();
    to_its_end(async move { restore(&node, request, deadline).await }).await
}

async fn restore(
    node: &Arc<Node>,
    request: v1::RestorePodRequest,
    deadline: Option<Instant>,
) -> Result<v1::RestorePodResponse, Failed> {
    let v1::RestorePodRequest { checkpoint_path, config, runtime_handler, options, container_configs } =
        request;
    no_options(&options)?;
    let config = config.ok_or_else(|| Error::Request("config: is missing".into()))?;
    let place = folder("checkpoint_path", &checkpoint_path)?;
    may_restore(node).await?;
    let looked_at = place.clone();
    let dump = blocking(move || read(&looked_at)).await?;
    let orders = orders(&dump, &place, container_configs)?;
    let orders = same_images(node, orders).await?;
    let sandbox_request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler };
    if let Some(id) = node.named(&Name::of(&sandbox_request)) {
        let name = Name::of(&sandbox_request).to_string();
        return Err(Failed::Exists { noun: Noun::Sandbox, name, id: id.to_string() });
    }
    let underway = node.run_sandbox(sandbox_request)?;
    let (sandbox_id, making) = (underway.id.clone(), underway.clone());
    let made = async {
        underway.wait(deadline).await?;
        make_all(node, &sandbox_id, orders, deadline).await
    };
    match made.await {
        Ok(restored_containers) => {
            Ok(v1::RestorePodResponse { pod_sandbox_id: sandbox_id.to_string(), restored_containers })
        }
        Err(error) => {
            // Late is not over: what is being made can't be removed yet, and would stay.
            let _ = making.wait(None).await;
            if let Err(left) = remove(node, &sandbox_id).await {
                tracing::error!(
                    sandbox = &*sandbox_id,
                    error = chain(&left),
                    "what a failed restore left stays"
                );
            }
            Err(error)
        }
    }
}

type Order = (v1::ContainerConfig, PathBuf);

/// Each container with its folder. The restore says what is in the pod, so both must name the same.
pub(super) fn orders(
    dump: &PodDump,
    place: &Path,
    configs: Vec<v1::ContainerConfig>,
) -> Result<Vec<Order>, Error> {
    let asked: BTreeSet<String> = configs.iter().map(|config| container::name(config).0).collect();
    let there: BTreeSet<String> = dump.containers.keys().cloned().collect();
    if asked != there || asked.len() != configs.len() {
        return Err(Error::Request(format!(
            "container_configs: name {:?}, and the checkpoint has {:?}; each must be there once",
            asked.into_iter().collect::<Vec<_>>(),
            there.into_iter().collect::<Vec<_>>(),
        )));
    }
    let dir = |config: &v1::ContainerConfig| place.join(CONTAINERS).join(container::name(config).0);
    Ok(configs.into_iter().map(|config| (dir(&config), config)).map(|(dir, config)| (config, dir)).collect())
}

/// Processes go on with the files that they had, so another image's are of no use to them.
async fn same_images(node: &Arc<Node>, orders: Vec<Order>) -> Result<Vec<Order>, Failed> {
    let node = node.clone();
    let check = move || {
        for (config, dir) in &orders {
            let description = describe::read(dir)?;
            let asked = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
            let before = node.images.find(&description.rootfs_image_ref);
            if let (Some(asked), Some(before)) = (node.images.find(&asked), before)
                && asked.id != before.id
            {
                return Err(Error::Request(format!(
                    "container_configs: container {} was checkpointed with the image {}, and is to have another one",
                    description.name, description.rootfs_image_ref,
                )));
            }
        }
        Ok(orders)
    };
    blocking(check).await
}

async fn make_all(
    node: &Node,
    sandbox_id: &Arc<str>,
    orders: Vec<Order>,
    deadline: Option<Instant>,
) -> Result<Vec<v1::RestoredContainer>, Failed> {
    let sandbox = node.world.now().sandbox(sandbox_id)?;
    let gone = || Failed::NotFound { noun: Noun::Sandbox, id: sandbox_id.to_string() };
    let mut restored = Vec::with_capacity(orders.len());
    for (config, dir) in orders {
        let name = container::name(&config).0;
        let (reply, heard) = oneshot::channel();
        let message = Message::Create { config: Box::new(config), from: Some(dir), reply };
        sandbox.task.send(message).await.map_err(|_| gone())?;
        let underway = heard.await.map_err(|_| gone())??;
        let container_id = underway.wait(deadline).await?.to_string();
        restored.push(v1::RestoredContainer { name, container_id });
    }
    Ok(restored)
}

async fn remove(node: &Node, sandbox_id: &str) -> Result<(), Failed> {
    let Ok(sandbox) = node.world.now().sandbox(sandbox_id) else { return Ok(()) };
    let (reply, heard) = oneshot::channel();
    match sandbox.task.send(Message::Sandbox { ask: Ask::Remove, reply }).await {
        Ok(()) => heard.await.unwrap_or(Ok(())),
        Err(_) => Ok(()),
    }
}

pub(super) fn read(place: &Path) -> Result<PodDump, Error> {
    let bytes = archive::read(&place.join(POD_DUMP))?;
    let bytes = bytes.ok_or_else(|| Error::damaged(place, format!("it has no {POD_DUMP}")))?;
    let dump: PodDump = serde_json::from_slice(&bytes)
        .map_err(|error| Error::damaged(place, format!("{POD_DUMP}: {error}")))?;
    if dump.version != VERSION {
        return Err(Error::damaged(place, format!("it has version {}, and we read {VERSION}", dump.version)));
    }
    match dump.containers.keys().find(|name| !is_plain(name)) {
        Some(name) => Err(Error::damaged(place, format!("{name:?} can't be a container's name"))),
        None => Ok(dump),
    }
}
