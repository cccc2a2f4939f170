//! Writes containers of one pod down, all as they are at one moment: the pod's monitor freezes them and has criu write
//! their processes; then we copy their files, and only then they run on.

use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conmon_protocol::{Answer, Ask, Dump, RefusalKind};
use image_service::RootfsPlan;

use super::{Error, IMAGES, PATIENCE, ROOTFS_DIFF, blocking, changes, describe};
use crate::container::Container;
use crate::error::{Error as Failed, Noun};
use crate::monitor::{self, Monitor};
use crate::node::Node;
use crate::sandbox::Sandbox;

/// After its own time the monitor answers at once, unless criu is in a container's processes: then when criu is done.
const MONITORS_WORDS: Duration = PATIENCE.saturating_add(Duration::from_secs(5));

/// A container, and the folder for it, which exists.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) container: Arc<Container>,
    pub(super) dir: PathBuf,
}

/// When a checkpoint is given up: the client's own deadline, or so many seconds, or ours.
pub(super) fn deadline(client: Option<tokio::time::Instant>, timeout_s: i64) -> Instant {
    let asked = u64::try_from(timeout_s).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let until = Instant::now() + asked.unwrap_or(PATIENCE).min(PATIENCE);
    client.map_or(until, |client| until.min(client.into_std()))
}

/// # Errors
/// What kept it from being whole. Its containers run on in any case.
pub(super) async fn capture(
    node: &Arc<Node>,
    sandbox: &Sandbox,
    subjects: Vec<Subject>,
    criu: PathBuf,
    until: Instant,
) -> Result<(), Failed> {
    refuse(sandbox, &subjects)?;
    let monitor = sandbox.monitor.clone().ok_or(monitor::Error::Gone)?;
    let rootfs = subjects.iter().map(|subject| rootfs(node, subject)).collect::<Result<Vec<_>, Error>>()?;
    let dumps = subjects.iter().map(dump).collect::<Result<Vec<_>, Error>>()?;
    let left = until.saturating_duration_since(Instant::now());
    let patience_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    let ask = Ask::Checkpoint { dumps, criu, patience_ms };
    freeze(&monitor, ask, left).await?;
    let frozen = subjects.clone();
    let copied = blocking(move || {
        frozen
            .iter()
            .zip(rootfs)
            .map(|(subject, rootfs)| copy(subject, &rootfs, until))
            .collect::<Result<Vec<_>, Error>>()
    })
    .await;
    // A monitor that died meanwhile has let them run on too early, and so has one whose time was over.
    let thawed = monitor.order(Ask::Thaw).await;
    let gone = copied?;
    thawed?;
    if Instant::now() >= until {
        return Err(Error::Late.into());
    }
    let node = node.clone();
    let describe = move || {
        subjects
            .iter()
            .zip(&gone)
            .try_for_each(|(subject, gone)| describe::write(&node, &subject.container, gone, &subject.dir))
    };
    blocking(describe).await
}

async fn freeze(monitor: &Monitor, ask: Ask, patience: Duration) -> Result<(), Failed> {
    match monitor.ask_patiently(ask, patience + MONITORS_WORDS).await {
        Ok((Answer::Done, _)) => Ok(()),
        Ok(_) => Err(monitor::Error::Confused.into()),
        Err(monitor::Error::Refused(refusal)) if refusal.kind == RefusalKind::TimedOut => {
            Err(Error::Late.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// What criu can't carry elsewhere is refused before anything stands still.
fn refuse(sandbox: &Sandbox, subjects: &[Subject]) -> Result<(), Failed> {
    if sandbox.facts.plan.pod.user.is_some() {
        let why = format!(
            "sandbox {} has a user namespace of its own (hostUsers: false), which can't be checkpointed",
            sandbox.facts.id
        );
        return Err(Error::State(why).into());
    }
    for Subject { container, .. } in subjects {
        if !container.life.is_running() {
            let id = container.facts.id.to_string();
            return Err(Failed::State { noun: Noun::Container, id, why: "is not running" });
        }
    }
    Ok(())
}

fn rootfs(node: &Node, subject: &Subject) -> Result<RootfsPlan, Error> {
    let id = &subject.container.facts.id;
    node.images.writable(id).ok_or_else(|| Error::State(format!("container {id} has no writable layer")))
}

fn dump(subject: &Subject) -> Result<Dump, Error> {
    let dir = subject.dir.join(IMAGES);
    fs::DirBuilder::new().mode(0o700).create(&dir).map_err(Error::io("making", &dir))?;
    let container_id = subject.container.facts.id.to_string();
    Ok(Dump { container_id, dir, work_dir: subject.dir.clone() })
}

fn copy(subject: &Subject, rootfs: &RootfsPlan, until: Instant) -> Result<Vec<PathBuf>, Error> {
    let path = subject.dir.join(ROOTFS_DIFF);
    let file = File::create_new(&path).map_err(Error::io("making", &path))?;
    changes::write(rootfs, BufWriter::with_capacity(256 << 10, file), until)
}
