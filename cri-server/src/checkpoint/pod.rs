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
use tokio::time::Instant;

use super::capture::{self, Subject};
use super::partial::{self, Partial};
use super::{Error, blocking, may_checkpoint, to_its_end};
use crate::container::{self, Container};
use crate::error::{Error as Failed, Noun};
use crate::node::Node;
use crate::sandbox::Sandbox;

mod restore;

pub use restore::restore_pod;

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
    // Else what an earlier one had left in the same folder might be removed after this one is there.
    node.leftovers.gone().await?;
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
    begin_in(root, output, names, made).inspect_err(|_| {
        if made {
            let _ = fs::remove_dir(output);
        }
    })
}

fn begin_in(root: &Path, output: &Path, names: &[String], made: bool) -> Result<Begun, Error> {
    if made {
        partial::sync(&partial::parent(output))?;
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
    partial.settle()?;
    for name in [CONTAINERS, POD_DUMP] {
        let target = output.join(name);
        fs::rename(partial.dir.join(name), &target).map_err(Error::io("putting in place", &target))?;
    }
    partial.done()
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
mod power;

#[cfg(test)]
mod tests {
    use super::restore::{orders, read};
    use super::*;

    pub(super) fn dump(names: &[&str]) -> PodDump {
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
    fn a_checkpoint_that_can_not_begin_leaves_no_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (root, output) = (dir.path().join("no folder"), dir.path().join("output"));
        fs::write(&root, "x").unwrap();
        assert!(begin(&root, &output, &["a".into()]).is_err());
        assert!(!output.exists());
        fs::create_dir(&output).unwrap();
        assert!(begin(&root, &output, &["a".into()]).is_err());
        assert!(output.exists(), "it is not ours");
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
