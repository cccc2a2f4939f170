//! What each task does, in order. The doing itself is in the test crate.

use std::future::Future;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use berth_test::programs::{Programs, cargo, cargo_command, target_dir, workspace};
use berth_test::tools::NewerCritest;
use berth_test::{bench, critest, criu, demo, stand_ins, tools};

use crate::namespace;

/// Everything that CI runs, cheapest first.
pub(crate) fn test() -> Result<()> {
    unit()?;
    crate::oci::oci(&[])?;
    node(&[])?;
    critest(&[])?;
    critest(&["--websocket", "--focus", "Streaming"])?;
    demo()
}

pub(crate) fn build() -> Result<()> {
    let programs = Programs::build()?;
    let out_dir = target_dir().join("berth");
    std::fs::create_dir_all(&out_dir)?;
    for program in [&programs.berthd, &programs.berth, &programs.conmon, &programs.runtime] {
        let name = program.file_name().context("a program has a name")?;
        std::fs::copy(program, out_dir.join(name))?;
    }
    println!("built into {}", out_dir.display());
    Ok(())
}

/// Formatting, lints, licences and the tests of every crate but the end-to-end ones.
pub(crate) fn unit() -> Result<()> {
    tools::ensure_packages(tools::NODE_PACKAGES)?;
    tools::ensure_packages(tools::COMPARISON_PACKAGES)?;
    tools::ensure_packages(tools::ENGINE_PACKAGES)?;
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"], &[])?;
    licences()?;
    let criu = criu::ensure()?.display().to_string();
    cargo_test("unit", &["test", "--workspace", "--no-fail-fast"], &[(criu::CRIU_VARIABLE, &criu)])
}

/// `cargo deny`, installed when it is missing.
fn licences() -> Result<()> {
    let present = Command::new("cargo-deny").arg("--version").output().is_ok();
    if !present {
        println!("installing cargo-deny (once)");
        cargo(&["install", "--locked", "--quiet", "cargo-deny"], &[])?;
    }
    cargo(&["deny", "--log-level", "error", "check", "bans", "licenses", "sources"], &[])?;
    advisories()
}

/// Where the database of advisories cannot be reached, that is said and nothing is judged.
fn advisories() -> Result<()> {
    let fetched = Command::new("cargo").args(["deny", "fetch", "db"]).current_dir(workspace()).output()?;
    if !fetched.status.success() {
        println!("skipped: advisories, whose database cannot be fetched from here");
        return Ok(());
    }
    cargo(&["deny", "--log-level", "error", "check", "advisories"], &[])
}

/// End-to-end tests on private nodes.
pub(crate) fn node(args: &[&str]) -> Result<()> {
    if !namespace::is_private() {
        prepare()?;
        tools::ensure_packages(tools::ENGINE_PACKAGES)?;
        tools::ensure_packages(tools::COST_PACKAGES)?;
        Programs::build_failpoints()?;
        tools::CriTools::build()?;
        criu::ensure()?;
        tools::build_nri_plugin()?;
        cargo(&["test", "--package", "berth-test", "--tests", "--no-run"], &[])?;
        return namespace::run_in_private(&[&["node"], args].concat());
    }
    namespace::bring_loopback_up()?;
    let mut command =
        vec!["test", "--package", "berth-test", "--tests", "--no-fail-fast", "--", "--include-ignored"];
    command.extend(["--test-threads", "2"]);
    command.extend(args);
    let criu = criu::ensure()?.display().to_string();
    cargo_test("node", &command, &[(criu::CRIU_VARIABLE, &criu)])
}

pub(crate) fn critest(args: &[&str]) -> Result<()> {
    let options = critest_options(args)?;
    if !namespace::is_private() {
        prepare_critest()?;
        // While there is a network to fetch modules from.
        options.newer.as_ref().map(NewerCritest::build).transpose()?;
        return namespace::run_in_private(&[&["critest"], args].concat());
    }
    namespace::bring_loopback_up()?;
    let summary = wait_for(critest::run(&options))?;
    for surprise in &summary.surprises {
        println!("{surprise}");
    }
    println!("critest: {} passed, {} failed, {} skipped", summary.passed, summary.failed, summary.skipped);
    ensure!(summary.surprises.is_empty(), "{} outcomes differ from the list", summary.surprises.len());
    Ok(())
}

fn critest_options(args: &[&str]) -> Result<critest::Options> {
    let mut options = critest::Options::default();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match *word {
            "--peer" => options.peer = true,
            "--systemd-cgroup" => options.systemd_cgroup = true,
            "--websocket" => options.websocket = true,
            "--focus" => options.focus = Some(value(word, words.next())?),
            "--parallel" => options.parallel = value(word, words.next())?.parse().context("--parallel")?,
            "--seed" => options.seed = Some(value(word, words.next())?.parse().context("--seed")?),
            "--benchmark" => options.benchmark = true,
            "--main" => options.newer = options.newer.or(Some(NewerCritest::Proxy)),
            "--source" => {
                options.newer = Some(NewerCritest::Checkout(value(word, words.next())?.into()));
            }
            other => bail!("critest has no option {other}"),
        }
    }
    Ok(options)
}

pub(crate) fn bench_lists(args: &[&str]) -> Result<()> {
    let mut options = bench::lists::Options::default();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let mut number = || value(word, words.next())?.parse().context("a number of pods or rounds");
        match *word {
            "--pods" => options.pods = number()?,
            "--churn" => options.churn = number()?,
            "--rounds" => options.rounds = number()?,
            "--alone" => options.alone = true,
            other => bail!("bench lists has no option {other}"),
        }
    }
    beside_containerd(&[&["bench", "lists"], args].concat(), || bench::lists::run(options))
}

pub(crate) fn bench_pod(args: &[&str]) -> Result<()> {
    let mut options = bench::pod::Options::default();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let number = value(word, words.next())?.parse().context("a number of rounds or pods")?;
        match *word {
            "--rounds" => options.rounds = number,
            "--pods" => options.pods = number,
            other => bail!("bench pod has no option {other}"),
        }
    }
    beside_containerd(&[&["bench", "pod"], args].concat(), || bench::pod::run(options))
}

/// Runs a benchmark of both daemons, in a network namespace of its own, and prints its report.
fn beside_containerd<F: Future<Output = Result<String>>>(
    task: &[&str],
    benchmark: impl FnOnce() -> F,
) -> Result<()> {
    if !namespace::is_private() {
        prepare()?;
        tools::ensure_packages(tools::PEER_PACKAGES)?;
        return namespace::run_in_private(task);
    }
    namespace::bring_loopback_up()?;
    print!("{}", wait_for(benchmark())?);
    Ok(())
}

pub(crate) fn bench_pull(args: &[&str]) -> Result<()> {
    let mut options = bench::pull::Options::default();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match *word {
            "--rounds" => options.rounds = value(word, words.next())?.parse().context("--rounds")?,
            "--only" => options.only = Some(value(word, words.next())?),
            "--backing" => options.backing = value(word, words.next())?.into(),
            "--no-peers" => options.no_peers = true,
            other => bail!("bench pull has no option {other}"),
        }
    }
    if !namespace::is_private() {
        tools::ensure_packages(tools::NODE_PACKAGES)?;
        tools::ensure_packages(tools::PULL_PACKAGES)?;
        Programs::build()?;
        Programs::build_pull_floor()?;
        return namespace::run_in_private(&[&["bench", "pull"], args].concat());
    }
    namespace::bring_loopback_up()?;
    print!("{}", wait_for(bench::pull::run(options))?);
    Ok(())
}

pub(crate) fn bench_runtime(args: &[&str]) -> Result<()> {
    let mut options = bench::runtime::Options::default();
    match args {
        [] => {}
        ["--rounds", rounds] => options.rounds = rounds.parse().context("a number of rounds")?,
        _ => bail!("bench runtime has no option {}", args.join(" ")),
    }
    if !namespace::is_private() {
        tools::ensure_packages(tools::RUNTIME_BENCH_PACKAGES)?;
        Programs::build_static()?;
        return namespace::run_in_private_mounts(&[&["bench", "runtime"], args].concat());
    }
    print!("{}", bench::runtime::run(options)?);
    Ok(())
}

pub(crate) fn demo() -> Result<()> {
    if !namespace::is_private() {
        prepare()?;
        return namespace::run_in_private(&["demo"]);
    }
    namespace::bring_loopback_up()?;
    wait_for(demo::run())
}

/// Fetches criu, and says where it is.
pub(crate) fn fetch_criu() -> Result<()> {
    println!("{}", criu::ensure()?.display());
    Ok(())
}

pub(crate) fn prepare_critest() -> Result<()> {
    prepare()?;
    tools::CriTools::build().map(drop)
}

/// What every task with pods needs: packages and programs.
fn prepare() -> Result<()> {
    tools::ensure_packages(tools::NODE_PACKAGES)?;
    Programs::build()?;
    stand_ins::fetch()
}

pub(crate) fn value(option: &str, value: Option<&&str>) -> Result<String> {
    value.map(|value| (*value).to_owned()).with_context(|| format!("{option} needs a value"))
}

fn wait_for<T>(task: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new().context("starting the async runtime")?.block_on(task)
}

/// Runs a cargo test command, its output shown, and ends with the sum of its summaries.
fn cargo_test(name: &str, args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    use std::io::{BufRead, BufReader};
    let mut child = cargo_command()
        .args(args)
        .envs(root_runner())
        .envs(env.iter().copied())
        .current_dir(workspace())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("running cargo")?;
    let mut counts = Counts::default();
    let output = child.stdout.take().context("cargo's output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        counts.add(&line);
    }
    let status = child.wait()?;
    namespace::give_back_target_dir()?;
    println!("{name}: {} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    ensure!(status.success(), "{name} tests failed");
    ensure!(counts.passed > 0, "{name}: no test ran");
    Ok(())
}

/// Builds stay the user's; the tests themselves run as root, since many of them ask the kernel for what only
/// root may have.
fn root_runner() -> Option<(&'static str, &'static str)> {
    let user = rustix::process::geteuid();
    (!user.is_root()).then_some(("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "sudo -E"))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Counts {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        let number_before = |word: &str| {
            let (before, _) = rest.split_once(word)?;
            before.trim().rsplit(' ').next()?.parse().ok()
        };
        self.passed += number_before(" passed").unwrap_or(0);
        self.failed += number_before(" failed").unwrap_or(0);
        self.skipped += number_before(" ignored").unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_test_binaries() {
        let mut counts = Counts::default();
        counts.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured");
        counts.add("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured");
        counts.add("test foo ... ok");
        assert_eq!(counts, Counts { passed: 5, failed: 1, skipped: 1 });
    }
}
