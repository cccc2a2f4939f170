//! The OCI validation suite: what runtime-spec 1.3 demands, asked of any runtime by its command line alone.
//!
//! A test is one demand with the section that makes it. All runtimes are asked the same; the table that comes out
//! has a line a test and a column a runtime.

mod bundle;
mod known;
mod runtime;
mod table;
mod tests;
mod verdict;

pub use runtime::Runtime;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use verdict::{Outcome, Verdict};

/// What is asked of the suite.
#[derive(Debug, Default)]
pub struct Options {
    /// Instead of our own runtime and its peers.
    pub runtimes: Vec<PathBuf>,
    pub systemd_cgroup: bool,
    /// Only tests whose section or name contains this.
    pub focus: Option<String>,
    /// Without the peers.
    pub alone: bool,
    /// What bundles run; none: the one that this workspace builds.
    pub probe: Option<PathBuf>,
}

/// RFC 2119's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Must,
    Should,
    /// Not of the specification: what runc's command line has, and engines rely on.
    Command,
}

/// One demand.
struct Test {
    /// File and heading, such as `config.md#mounts`.
    section: &'static str,
    name: String,
    level: Level,
    /// The minor version of the specification that brought it: 2 for 1.2.
    since: u32,
    check: Box<dyn Fn(&Lab<'_>) -> Outcome>,
}

/// What a test works with.
struct Lab<'a> {
    runtime: &'a Runtime,
    probe: PathBuf,
    host: Host,
}

/// What the machine has.
#[derive(Debug, Clone, Copy)]
struct Host {
    /// cgroup2 alone, at /sys/fs/cgroup.
    unified: bool,
    /// Capabilities that we have to give, as a mask.
    capabilities: u64,
}

/// Numbers of linux/capability.h, for what the kernel allows nobody without.
const CAP_SYS_NICE: u32 = 23;
const CAP_SYS_RESOURCE: u32 = 24;

impl Host {
    fn look() -> Result<Host> {
        let magic = rustix::fs::statfs("/sys/fs/cgroup").context("looking at /sys/fs/cgroup")?.f_type;
        let status = std::fs::read_to_string("/proc/self/status").context("reading our status")?;
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap_or_default();
        let capabilities = u64::from_str_radix(effective, 16).context("reading our capabilities")?;
        Ok(Host { unified: magic == CGROUP2_MAGIC, capabilities })
    }

    /// The kernel would refuse it to any runtime of ours.
    fn needs(self, capability: u32) -> Outcome {
        if self.capabilities & 1 << capability != 0 {
            return Ok(());
        }
        verdict::not_applicable(format!("this machine's root lacks capability {capability}"))
    }
}

/// linux/magic.h.
const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;

fn must(
    section: &'static str,
    name: impl Into<String>,
    check: impl Fn(&Lab<'_>) -> Outcome + 'static,
) -> Test {
    Test { section, name: name.into(), level: Level::Must, since: 0, check: Box::new(check) }
}

fn should(
    section: &'static str,
    name: impl Into<String>,
    check: impl Fn(&Lab<'_>) -> Outcome + 'static,
) -> Test {
    Test { level: Level::Should, ..must(section, name, check) }
}

fn command(name: impl Into<String>, check: impl Fn(&Lab<'_>) -> Outcome + 'static) -> Test {
    Test { level: Level::Command, ..must("command line", name, check) }
}

impl Test {
    fn since(self, minor: u32) -> Test {
        Test { since: minor, ..self }
    }

    fn has(&self, focus: Option<&str>) -> bool {
        focus.is_none_or(|focus| self.section.contains(focus) || self.name.contains(focus))
    }
}

/// What one test came to, by runtime.
struct Row {
    section: &'static str,
    name: String,
    level: Level,
    outcomes: Vec<Outcome>,
}

/// Runs all tests on all runtimes and prints the table.
///
/// # Errors
/// When a runtime of ours fails a test that is not known with a reason, or passes one that is.
pub fn run(options: &Options) -> Result<()> {
    let runtimes = Runtime::all(options)?;
    let probe = options.probe.clone().unwrap_or_else(|| crate::programs::Programs::built().probe);
    ensure!(probe.exists(), "{} is not there: build it, or name another with --probe", probe.display());
    let host = Host::look()?;
    let tests = tests::all();
    let wanted = tests.iter().filter(|test| test.has(options.focus.as_deref()));
    let mut rows = Vec::new();
    for test in wanted {
        let labs = runtimes.iter().map(|runtime| Lab { runtime, probe: probe.clone(), host });
        let outcomes = labs.map(|lab| judged(test, &lab)).collect();
        let row = Row { section: test.section, name: test.name.clone(), level: test.level, outcomes };
        table::line(&row);
        rows.push(row);
    }
    take_away_parents();
    ensure!(!rows.is_empty(), "no test is called {:?}", options.focus);
    table::summary(&runtimes, &rows);
    known::check(&runtimes, &rows, options.focus.is_none())
}

/// The cgroup that all bundles had theirs in. One that still has children stays: somebody else is at work.
fn take_away_parents() {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    for hierarchy in hierarchies.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]) {
        let _ = std::fs::remove_dir(hierarchy.join("berth-oci"));
    }
}

/// A runtime that declares an older version need not know what came later.
fn judged(test: &Test, lab: &Lab<'_>) -> Outcome {
    match (test.check)(lab) {
        Err(Verdict::Fails(_)) if lab.runtime.minor < test.since => Err(Verdict::NotApplicable(format!(
            "declares 1.{} of the specification; this came with 1.{}",
            lab.runtime.minor, test.since
        ))),
        other => other,
    }
}
