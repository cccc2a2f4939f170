//! Runs critest, the CRI conformance suite, against a private node.
//!
//! Results go to `target/critest` as text, JUnit and JSON, and are compared with
//! `test/critest/not-passing.txt`: a spec that is not listed must pass, and one
//! that is listed must not.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::bench::containerd::Containerd;
use crate::node::{Node, Options as NodeOptions};
use crate::programs::{Programs, target_dir, workspace};
use crate::registry::DockerRegistry;
use crate::stand_ins;
use crate::tools::{CriTools, NewerCritest};

/// How to run the suite.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Exec, attach and port-forward over WebSocket instead of SPDY.
    pub websocket: bool,
    /// Only specs whose name matches this expression; nothing is compared with the list then.
    pub focus: Option<String>,
    /// Specs run at once; 0 or 1 is one after the other.
    pub parallel: u32,
    /// Debian's containerd instead of berthd, to see what a spec expects; nothing is compared then.
    pub peer: bool,
    /// berthd with the systemd cgroup driver; nothing is compared then, as this is for another machine than the list.
    pub systemd_cgroup: bool,
    /// The order in which specs run; critest picks one of its own where none is given.
    pub seed: Option<u32>,
    /// critest's benchmarks instead of its validation specs; nothing is compared then.
    pub benchmark: bool,
    /// A critest with specs that the list does not know; nothing is compared then.
    pub newer: Option<NewerCritest>,
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    /// Specs whose outcome the list does not foresee, one line each.
    pub surprises: Vec<String>,
}

/// Runs the suite in this process's network namespace.
pub async fn run(options: &Options) -> Result<Summary> {
    let mut tools = CriTools::build()?;
    if let Some(newer) = &options.newer {
        tools.critest = newer.build()?;
    }
    let out_dir = make_place()?;
    let registry_dir = tempfile::Builder::new().prefix("berth-registry-").tempdir()?;
    let registry = DockerRegistry::start(registry_dir.path())?;
    println!("pushing the stand-in images to {}", registry.address());
    let pushed = stand_ins::push_all(&registry, &Programs::built()).await?;
    let critest = with_digest_replaced(&tools.critest, &out_dir, &pushed.digest_image)?;
    let report = if options.peer {
        run_peer(&critest, &tools, &registry, &out_dir, options).await?
    } else {
        let mirror = Some(registry.address().to_string());
        let driver = if options.systemd_cgroup { "systemd" } else { "cgroupfs" };
        let config = format!("[runtime]\ncgroup_driver = \"{driver}\"\n");
        let node = Node::start(NodeOptions { mirror, config, ..NodeOptions::default() }).await?;
        let endpoint = node.endpoint();
        let nri_socket = options.newer.is_some().then(|| node.dir().join("nri.sock"));
        let target = Target { endpoint: &endpoint, nri_socket };
        let report = execute(&critest, &tools, &target, &out_dir, options);
        std::fs::write(out_dir.join("berthd.log"), node.log())?;
        report?
    };
    let outcomes = outcomes(&report, options.benchmark)?;
    let usual = !options.peer && !options.benchmark && !options.systemd_cgroup && options.newer.is_none();
    let whole = options.focus.is_none() && usual;
    let listed = if whole { Some(listed()?) } else { None };
    Ok(summarise(&outcomes, listed.as_ref()))
}

async fn run_peer(
    critest: &Path,
    tools: &CriTools,
    registry: &DockerRegistry,
    out_dir: &Path,
    options: &Options,
) -> Result<PathBuf> {
    let cni_dir = tempfile::tempdir()?;
    let network = serde_json::json!({"cniVersion": "1.0.0", "name": "peer", "plugins": [
        {"type": "bridge", "bridge": "peer0", "isGateway": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": cni_dir.path().join("ipam"),
            "ranges": [[{"subnet": "10.250.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]});
    std::fs::write(cni_dir.path().join("10-peer.conflist"), network.to_string())?;
    let address = registry.address();
    let pause = format!("{address}/pause:3.9");
    let containerd = Containerd::start_with_mirror(cni_dir.path(), &pause, Some(address)).await?;
    let endpoint = format!("unix://{}", containerd.socket().display());
    execute(critest, tools, &Target { endpoint: &endpoint, nri_socket: None }, out_dir, options)
}

/// Whom the suite asks.
struct Target<'a> {
    endpoint: &'a str,
    /// Releases up to v1.36.0 know nothing of it.
    nri_socket: Option<PathBuf>,
}

/// The folder of a run, with its files. A guest whose folder this is too may write to them, and under SELinux make none.
///
/// # Errors
/// When they cannot be made.
pub fn make_place() -> Result<PathBuf> {
    let dir = target_dir().join("critest");
    std::fs::create_dir_all(&dir)?;
    for name in ["critest", "critest.txt", "report.json", "junit.xml", "berthd.log"] {
        File::options().append(true).create(true).open(dir.join(name)).context(name)?;
    }
    Ok(dir)
}

/// A copy of critest that names our stand-in's digest instead of the published one: nothing else is changed.
fn with_digest_replaced(critest: &Path, out_dir: &Path, digest: &str) -> Result<PathBuf> {
    let mut program = std::fs::read(critest)?;
    let published = stand_ins::PUBLISHED_DIGEST.as_bytes();
    ensure!(digest.len() == published.len(), "the stand-in's digest is not a sha256: {digest:?}");
    let mut replaced = 0;
    let mut at = 0;
    while let Some(found) = program[at..].windows(published.len()).position(|window| window == published) {
        at += found;
        program[at..at + published.len()].copy_from_slice(digest.as_bytes());
        replaced += 1;
    }
    ensure!(replaced > 0, "critest does not name the published digest any more");
    let copy = out_dir.join("critest");
    std::fs::write(&copy, program)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&copy, mode)?;
    Ok(copy)
}

fn execute(
    critest: &Path,
    tools: &CriTools,
    target: &Target<'_>,
    out_dir: &Path,
    options: &Options,
) -> Result<PathBuf> {
    let report = out_dir.join("report.json");
    std::fs::write(&report, "")?;
    let text = File::create(out_dir.join("critest.txt"))?;
    let mut command = Command::new(critest);
    command
        .arg(format!("--runtime-endpoint={}", target.endpoint))
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .arg(format!("--ginkgo.junit-report={}", out_dir.join("junit.xml").display()))
        .args(["--ginkgo.no-color", "--test.timeout=30m"]);
    if let Some(socket) = &target.nri_socket {
        command.arg(format!("--nri-socket={}", socket.display()));
    }
    if let Some(focus) = &options.focus {
        command.arg(format!("--ginkgo.focus={focus}"));
    }
    if options.websocket {
        command.args(["--websocket-exec=true", "--websocket-attach=true", "--websocket-portforward=true"]);
    }
    if options.parallel > 1 && !options.benchmark {
        command.arg(format!("--parallel={}", options.parallel));
    }
    if let Some(seed) = options.seed {
        command.args([format!("--ginkgo.seed={seed}"), "--ginkgo.randomize-all".to_owned()]);
    }
    if options.benchmark {
        let file = out_dir.join("benchmark.yaml");
        std::fs::write(&file, benchmark_settings(options.parallel.max(1)))?;
        command.arg("--benchmark").arg(format!("--benchmarking-params-file={}", file.display()));
        command.arg(format!("--benchmarking-output-dir={}", out_dir.display()));
    }
    println!("running critest; its output: {}", out_dir.join("critest.txt").display());
    let path = format!(
        "{}:{}",
        tools.ginkgo.parent().context("ginkgo is in a folder")?.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    command.env("PATH", path).current_dir(out_dir).stdout(text.try_clone()?).stderr(text);
    command.status().context("running critest")?;
    ensure!(
        report.metadata()?.len() > 0,
        "critest wrote no report: see {}",
        out_dir.join("critest.txt").display()
    );
    Ok(report)
}

/// How many of each thing critest's benchmarks make, and how many at once: without a number it skips them.
fn benchmark_settings(parallel: u32) -> String {
    let of_each = |(noun, number)| format!("{noun}Number: {number}\n{noun}NumberParallel: {parallel}\n");
    [("containers", 50), ("pods", 50), ("images", 20)].map(of_each).concat()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: String,
}

/// A spec's state in ginkgo's word, and why it failed or was skipped.
type Outcomes = BTreeMap<String, (String, String)>;

/// Of the validation specs, or of the benchmarks: a run of the one skips the other.
fn outcomes(report: &Path, benchmarks: bool) -> Result<Outcomes> {
    let suites: Vec<Suite> =
        serde_json::from_slice(&std::fs::read(report)?).context("critest's JSON report")?;
    let specs = suites.into_iter().flat_map(|suite| suite.spec_reports.unwrap_or_default());
    let mut outcomes = Outcomes::new();
    for spec in specs.filter(|spec| spec.leaf_node_type == "It") {
        let mut words = spec.container_hierarchy_texts.unwrap_or_default();
        words.push(spec.leaf_node_text);
        let name = words.join(" ");
        let reason = spec.failure.map(|failure| failure.message).unwrap_or_default();
        if name.contains("benchmark") == benchmarks {
            outcomes.insert(name, (spec.state, reason));
        }
    }
    Ok(outcomes)
}

/// The checked-in list: spec name to reason.
fn listed() -> Result<BTreeMap<String, String>> {
    let file = workspace().join("test/critest/not-passing.txt");
    let text = std::fs::read_to_string(&file)?;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, reason) =
                line.split_once(" :: ").with_context(|| format!("no reason given: {line}"))?;
            Ok((name.trim().to_owned(), reason.trim().to_owned()))
        })
        .collect()
}

fn summarise(outcomes: &Outcomes, listed: Option<&BTreeMap<String, String>>) -> Summary {
    let mut summary = Summary::default();
    for (name, (state, reason)) in outcomes {
        match state.as_str() {
            "passed" => summary.passed += 1,
            "skipped" | "pending" => summary.skipped += 1,
            _ => summary.failed += 1,
        }
        let Some(listed) = listed else {
            if !["passed", "skipped", "pending"].contains(&state.as_str()) {
                summary.surprises.push(format!("{state}: {name}: {}", first_line(reason)));
            }
            continue;
        };
        match (state == "passed", listed.contains_key(name)) {
            (true, true) => summary.surprises.push(format!("passes now, take it off the list: {name}")),
            (false, false) => summary.surprises.push(format!("{state}: {name}: {}", first_line(reason))),
            (true, false) | (false, true) => {}
        }
    }
    let missing = listed.into_iter().flatten().filter(|(name, _)| !outcomes.contains_key(*name));
    summary
        .surprises
        .extend(missing.map(|(name, _)| format!("listed, but critest has no such spec: {name}")));
    summary
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes_of(specs: &[(&str, &str)]) -> Outcomes {
        specs.iter().map(|(name, state)| ((*name).into(), ((*state).into(), "why".into()))).collect()
    }

    #[test]
    fn only_what_the_list_does_not_foresee_is_a_surprise() {
        let outcomes = outcomes_of(&[("a", "passed"), ("b", "failed"), ("c", "skipped"), ("d", "passed")]);
        let listed =
            [("c", "no LSM"), ("d", "old")].map(|(name, why)| (name.to_owned(), why.to_owned())).into();
        let summary = summarise(&outcomes, Some(&listed));
        assert_eq!((summary.passed, summary.failed, summary.skipped), (2, 1, 1));
        assert_eq!(summary.surprises, ["failed: b: why", "passes now, take it off the list: d"]);
        let outcomes = outcomes_of(&[("a", "passed"), ("b", "panicked"), ("c", "skipped")]);
        assert_eq!(summarise(&outcomes, None).surprises, ["panicked: b: why"]);
    }
}
