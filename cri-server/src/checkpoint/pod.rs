//! CheckpointPod and RestorePod: several containers of a pod as they were at one moment, and a new pod of them.
//!
//! ```text
//! OUTPUT/pod.dump             which pod, and which containers; written last
//! OUTPUT/containers/<name>/   each as in a container's checkpoint, see `checkpoint`
//! ```
//! The kubelet owns the folder: nothing is written elsewhere, save a note of a few bytes that the next start would clean
//! up by. What the sandbox itself is, namespaces, addresses, files, is made anew from the configuration of the restore.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::v1;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::capture::{self, Subject};
use super::partial::Partial;
use super::{Error, archive, blocking, describe, may_checkpoint, may_restore, to_its_end};
use crate::container::{self, Container};
use crate::error::{Error as Failed, Noun, chain};
use crate::node::Node;
use crate::sandbox::life::Ask;
use crate::sandbox::task::Message;
use crate::sandbox::{Name, Sandbox};

const POD_DUMP: &str = "pod.dump";
const CONTAINERS: &str = "containers";
const VERSION: u32 = 1;

/// `pod.dump`; what checkpointctl knows of a pod, and what we need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PodDump {
    version: u32,
    metadata: Metadata,
    hostname: String,
    /// By name.
    containers: BTreeMap<String, Member>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Metadata {
    name: String,
    uid: String,
    namespace: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    /// It was this one.
    id: String,
}

/// Goes on to its end when the client goes away.
///
/// # Errors
/// Names what is in the way. Nothing is left in the folder then, and all containers run on.
pub async fn checkpoint_pod(
    node: &Arc<Node>,
    request: v1::CheckpointPodRequest,
    deadline: Option<Instant>,
) -> Result<(), Failed> {
    let node = node.clone();
    to_its_end(async move { checkpoint(&node, request, deadline).await }).await
}

async fn checkpoint(
    node: &Arc<Node>,
    request: v1::CheckpointPodRequest,
    deadline: Option<Instant>,
) -> Result<(), Failed> {
    let sandbox = node.world.now().sandbox(&request.pod_sandbox_id)?;
    no_options(&request.options)?;
    let members = members(node, &sandbox, &request.container_ids)?;
    let output = folder("output_path", &request.output_path)?;
    let criu = may_checkpoint(node).await?;
    let until = capture::deadline(deadline, 0);
    let (root, place) = (node.config().root.clone(), output.clone());
    let names: Vec<String> = members.iter().map(|member| container::name(&member.facts.config).0).collect();
    let begun = blocking(move || begin(&root, &place, &names)).await?;
    let Begun { partial, made, dirs } = begun;
    let subjects =
        members.iter().cloned().zip(dirs).map(|(container, dir)| Subject { container, dir }).collect();
    let captured = capture::capture(node, &sandbox, subjects, criu, until).await;
    let dump = dump(&sandbox, &members);
    let finish = move |captured: bool| {
        let done = if captured {
            put_in_place(partial, &output, &dump)
        } else {
            drop(partial);
            Ok(())
        };
        if made && (!captured || done.is_err()) {
            // Empty, unless somebody else has put something there meanwhile.
            let _ = fs::remove_dir(&output);
        }
        done
    };
    let captured_well = captured.is_ok();
    let finished = blocking(move || finish(captured_well)).await;
    captured.and(finished)
}

struct Begun {
    partial: Partial,
    /// The folder is of our making.
    made: bool,
    dirs: Vec<PathBuf>,
}

fn begin(root: &Path, output: &Path, names: &[String]) -> Result<Begun, Error> {
    let made = !output.exists();
    if made {
        fs::DirBuilder::new().mode(0o700).create(output).map_err(Error::io("making", output))?;
    }
    let mut entries = fs::read_dir(output).map_err(Error::io("reading", output))?;
    if entries.next().is_some() {
        return Err(Error::Request(format!("output_path: {} is not empty", output.display())));
    }
    let beside = vec![output.join(POD_DUMP), output.join(CONTAINERS)];
    let partial = Partial::make(root, output, beside)?;
    let below = partial.dir.join(CONTAINERS);
    let make =
        |path: &Path| fs::DirBuilder::new().mode(0o700).create(path).map_err(Error::io("making", path));
    make(&below)?;
    let dirs: Vec<PathBuf> = names.iter().map(|name| below.join(name)).collect();
    dirs.iter().try_for_each(|dir| make(dir))?;
    Ok(Begun { partial, made, dirs })
}

/// `pod.dump` comes last: where it is, all is.
fn put_in_place(partial: Partial, output: &Path, dump: &PodDump) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(dump).map_err(|error| Error::damaged(output, error.to_string()))?;
    let new = partial.dir.join(POD_DUMP);
    fs::write(&new, text).map_err(Error::io("writing", &new))?;
    for name in [CONTAINERS, POD_DUMP] {
        let target = output.join(name);
        fs::rename(partial.dir.join(name), &target).map_err(Error::io("putting in place", &target))?;
    }
    partial.done();
    Ok(())
}

/// Those that are named, or all that run.
fn members(node: &Node, sandbox: &Sandbox, ids: &[String]) -> Result<Vec<Arc<Container>>, Failed> {
    let world = node.world.now();
    let of_pod = |container: &Arc<Container>| container.facts.sandbox_id == sandbox.facts.id;
    let mut members: Vec<Arc<Container>> = Vec::new();
    if ids.is_empty() {
        let running = world.containers.values().filter(|it| of_pod(it) && it.life.is_running());
        members.extend(running.cloned());
    }
    for id in ids {
        let container = world.container(id)?;
        if !of_pod(&container) {
            let why = format!("container_ids: {id} is not in pod {}", sandbox.facts.id);
            return Err(Error::Request(why).into());
        }
        members.push(container);
    }
    let names: BTreeSet<String> = members.iter().map(|it| container::name(&it.facts.config).0).collect();
    if let Some(name) = names.iter().find(|name| !is_plain(name)) {
        return Err(Error::Request(format!("container {name:?} has a name that can't be a folder's")).into());
    }
    if names.len() < members.len() {
        return Err(Error::Request("container_ids: two of them are attempts of one container".into()).into());
    }
    if members.is_empty() {
        let (noun, id) = (Noun::Sandbox, sandbox.facts.id.to_string());
        return Err(Failed::State { noun, id, why: "has no running container to be checkpointed" });
    }
    Ok(members)
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && name.len() < 256 && !name.contains(['/', '\0'])
}

fn dump(sandbox: &Sandbox, members: &[Arc<Container>]) -> PodDump {
    let metadata = sandbox.facts.config().metadata.clone().unwrap_or_default();
    let member = |container: &Arc<Container>| {
        let facts = &container.facts;
        (container::name(&facts.config).0, Member { id: facts.id.to_string() })
    };
    PodDump {
        version: VERSION,
        metadata: Metadata { name: metadata.name, uid: metadata.uid, namespace: metadata.namespace },
        hostname: sandbox.facts.plan.hostname.clone(),
        containers: members.iter().map(member).collect(),
    }
}

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
    let sandbox_id = underway.id.clone();
    let made = async {
        underway.wait(deadline).await?;
        make_all(node, &sandbox_id, orders, deadline).await
    };
    match made.await {
        Ok(restored_containers) => {
            Ok(v1::RestorePodResponse { pod_sandbox_id: sandbox_id.to_string(), restored_containers })
        }
        Err(error) => {
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
fn orders(dump: &PodDump, place: &Path, configs: Vec<v1::ContainerConfig>) -> Result<Vec<Order>, Error> {
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

fn read(place: &Path) -> Result<PodDump, Error> {
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

fn folder(field: &str, path: &str) -> Result<PathBuf, Error> {
    let path = Path::new(path);
    if path.is_absolute() {
        return Ok(path.into());
    }
    Err(Error::Request(format!("{field}: {:?} is not an absolute path", path.display().to_string())))
}

/// None is known, so none is honoured.
fn no_options(options: &std::collections::HashMap<String, String>) -> Result<(), Error> {
    match options.keys().min() {
        None => Ok(()),
        Some(name) => Err(Error::Request(format!("options: berth knows no option {name:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(names: &[&str]) -> PodDump {
        PodDump {
            version: VERSION,
            metadata: Metadata { name: "p".into(), uid: "u".into(), namespace: "n".into() },
            hostname: "h".into(),
            containers: names.iter().map(|name| ((*name).into(), Member { id: "c".into() })).collect(),
        }
    }

    fn config(name: &str) -> v1::ContainerConfig {
        let metadata = v1::ContainerMetadata { name: name.into(), attempt: 0 };
        v1::ContainerConfig { metadata: Some(metadata), ..Default::default() }
    }

    #[test]
    fn each_container_is_named_once_on_both_sides() {
        let check = |there: &[&str], asked: &[&str], fits: bool| {
            let configs = asked.iter().map(|name| config(name)).collect();
            assert_eq!(orders(&dump(there), Path::new("/c"), configs).is_ok(), fits, "{there:?} {asked:?}");
        };
        check(&["a", "b"], &["b", "a"], true);
        check(&["a", "b"], &["a"], false);
        check(&["a"], &["a", "b"], false);
        check(&["a"], &["a", "a"], false);
        let orders = orders(&dump(&["a"]), Path::new("/c"), vec![config("a")]).unwrap();
        assert_eq!(orders[0].1, Path::new("/c/containers/a"));
    }

    #[test]
    fn a_pods_checkpoint_names_no_place_but_its_own() {
        let check = |dump: &PodDump, words: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(POD_DUMP), serde_json::to_vec(dump).unwrap()).unwrap();
            let error = read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check(&dump(&["../../etc"]), "can't be a container's name");
        check(&dump(&[".."]), "can't be a container's name");
        check(&PodDump { version: 2, ..dump(&["a"]) }, "version 2");
        assert!(read(Path::new("/nosuch")).unwrap_err().to_string().contains("no pod.dump"));
    }

    #[test]
    fn a_folder_with_something_in_it_is_not_written_to() {
        let (root, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(output.path().join("x"), "x").unwrap();
        assert!(begin(root.path(), output.path(), &["a".into()]).is_err());
        fs::remove_file(output.path().join("x")).unwrap();
        let Begun { partial, made, dirs } = begin(root.path(), output.path(), &["a".into()]).unwrap();
        assert!(!made && dirs[0].is_dir());
        put_in_place(partial, output.path(), &dump(&["a"])).unwrap();
        assert_eq!(read(output.path()).unwrap(), dump(&["a"]));
        assert!(output.path().join("containers/a").is_dir());
        assert_eq!(fs::read_dir(output.path()).unwrap().count(), 2, "nothing else is left");
    }
}
