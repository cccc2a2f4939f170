//! Makes a sandbox: a list of steps, in the order of the plan. What fails is taken away by `unmake`.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use conmon_protocol::{Ask, Sharing};

use super::{Facts, Life, plan};
use crate::error::{Error, Noun};
use crate::monitor::{self, Monitor};
use crate::node::Node;
use crate::nri::Birth;
use crate::selinux::relabel::set_label;
use crate::step::{Progress, Step};

/// The end of a dead monitor's log that is looked at.
const LAST_WORDS_MAX: usize = 1024;

/// What making gives, beyond what was planned.
#[derive(Debug)]
pub struct Made {
    pub monitor: Monitor,
    pub ips: Vec<IpAddr>,
    /// Plugins have heard of it, and hear of its end unless it comes into the world.
    pub birth: Birth,
}

/// # Errors
/// Names the step that failed. What was made by then is still there.
pub async fn make(node: &Node, facts: &Facts, progress: &Progress) -> Result<Made, Error> {
    let made = steps(node, facts, progress).await;
    made.map_err(|source| Error::Making {
        noun: Noun::Sandbox,
        id: facts.id.to_string(),
        step: progress.step(),
        source: Arc::new(source),
    })
}

async fn steps(node: &Node, facts: &Facts, progress: &Progress) -> Result<Made, Error> {
    let record = node.store.sandbox(&facts.id);
    progress.enter(Step::SandboxStore);
    record.make(&["containers"])?;
    record.write_json("life", &Life::Making)?;
    record.write_request(&facts.request)?;
    record.write_json("plan", &facts.plan)?;

    progress.enter(Step::SandboxMonitor);
    let monitor = node.monitors.spawn(record.dir())?;

    progress.enter(Step::SandboxNamespaces);
    let made = monitor.order(Ask::MakePod(facts.plan.pod.clone())).await;
    made.map_err(|error| last_words(error, record.dir()))?;

    progress.enter(Step::SandboxFiles);
    record.write("resolv.conf", facts.plan.resolv_conf.as_bytes())?;
    record.write("hostname", format!("{}\n", facts.plan.hostname).as_bytes())?;
    label_files(record.dir(), facts)?;

    progress.enter(Step::SandboxNetwork);
    let ips = progress.within(attach(node, facts)).await?;

    progress.enter(Step::SandboxPlugins);
    let birth = progress.within(node.nri.run_pod(facts, &ips)).await?;

    progress.enter(Step::SandboxReady);
    record.write_json("life", &Life::Ready)?;
    progress.finish();
    Ok(Made { monitor, ips, birth })
}

/// What the pod's containers are to read, whatever categories they have.
fn label_files(dir: &Path, facts: &Facts) -> Result<(), Error> {
    let Some(labels) = &facts.plan.labels else { return Ok(()) };
    ["resolv.conf", "hostname"].map(|name| dir.join(name)).iter().try_for_each(|file| {
        let doing = || format!("labelling {} as {}", file.display(), labels.shared);
        set_label(file, &labels.shared).map_err(|error| Error::io(doing(), error))
    })
}

/// A monitor that dies over its first task has said why in its log, which is about to be taken away.
fn last_words(error: monitor::Error, pod_dir: &Path) -> Error {
    let log = std::fs::read(pod_dir.join("monitor.log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log[log.len().saturating_sub(LAST_WORDS_MAX)..]).into_owned();
    match (error, log.trim().lines().next_back()) {
        (monitor::Error::Gone, Some(line)) => Error::MonitorDied { said: line.to_string() },
        (monitor::Error::Gone, None) => Error::MonitorDied { said: "nothing".into() },
        (error, _) => error.into(),
    }
}

async fn attach(node: &Node, facts: &Facts) -> Result<Vec<IpAddr>, Error> {
    match facts.plan.pod.network {
        Sharing::Host => Ok(Vec::new()),
        Sharing::Own => {
            let pod = plan::network_pod(&facts.plan, facts.config());
            let attached = node.network.attach(&pod).await;
            let attachment = attached
                .map_err(|error| Error::Network { id: facts.id.to_string(), source: Arc::new(error) })?;
            Ok(attachment.ips)
        }
    }
}
