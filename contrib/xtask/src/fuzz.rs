//! `cargo xtask fuzz`: each target of `runtime/fuzz` and `image-service/fuzz` for a while. Coverage is compiled
//! in by stable flags, so that no other toolchain is needed than the one that builds berth.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use berth_test::programs::{cargo_command, target_dir, workspace};
use berth_test::tools;

/// The targets and the crates whose they are.
const TARGETS: [(&str, &[&str]); 2] = [
    ("runtime", &["config", "seccomp", "proc", "cgroup_path"]),
    (
        "image-service",
        &[
            "tar",
            "manifest",
            "image_config",
            "reference",
            "challenge",
            "policy",
            "signature",
            "registries_conf",
            "encryption",
        ],
    ),
];

/// What cargo-fuzz passes, without a sanitizer: the code under test has no `unsafe`.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Only this one is built with coverage; build scripts and macros are the host's.
const TARGET: &str = "x86_64-unknown-linux-gnu";

pub(crate) fn fuzz(args: &[&str]) -> Result<()> {
    let options = Options::read(args)?;
    tools::ensure_packages(&[("/usr/bin/c++", "g++")])?;
    let mut findings = Vec::new();
    for (folder, targets) in TARGETS {
        let wanted = |target: &&&str| options.only.as_deref().is_none_or(|only| only == **target);
        let targets: Vec<&str> = targets.iter().filter(wanted).copied().collect();
        if !targets.is_empty() {
            build(folder)?;
        }
        for target in targets {
            let outcome = run(folder, target, options.seconds)?;
            println!("fuzz {target}: {} s, {outcome}", options.seconds);
            findings.extend(outcome.found.then_some(target));
        }
    }
    ensure!(findings.is_empty(), "findings in {}: the inputs are in {}", findings.join(", "), artifacts());
    Ok(())
}

struct Options {
    seconds: u32,
    only: Option<String>,
}

impl Options {
    fn read(args: &[&str]) -> Result<Options> {
        let mut options = Options { seconds: 60, only: None };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match *word {
                "--seconds" => options.seconds = value()?.parse().context("--seconds")?,
                "--target" => options.only = Some((*value()?).to_owned()),
                other => bail!("fuzz has no option {other}"),
            }
        }
        Ok(options)
    }
}

fn build(folder: &str) -> Result<()> {
    let status = cargo_command()
        .args(["build", "--release", "--target", TARGET, "--manifest-path"])
        .arg(workspace().join(folder).join("fuzz/Cargo.toml"))
        .env("CARGO_TARGET_DIR", target_dir().join("fuzz"))
        .env("RUSTFLAGS", FLAGS)
        .status()
        .context("running cargo")?;
    ensure!(status.success(), "building the fuzz targets of {folder} failed");
    Ok(())
}

fn artifacts() -> String {
    target_dir().join("fuzz/artifacts").display().to_string()
}

/// What a target's run came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    found: bool,
    /// Of the code, how many places tell libFuzzer that they were reached; without any it would only throw dice.
    counters: u64,
    reached: u64,
    inputs: u64,
}

impl Outcome {
    /// libFuzzer's `INFO: Loaded 1 modules   (N inline 8-bit counters)`, `#N  DONE   cov: N ft: N …`.
    fn hear(&mut self, line: &str) {
        let number_before = |mark: &str| -> Option<u64> {
            line.split_once(mark)?.0.trim_end().rsplit(['(', ' ']).next()?.parse().ok()
        };
        if let Some(counters) = number_before("inline 8-bit counters)") {
            self.counters += counters;
        }
        let Some((before, after)) = line.split_once("DONE") else { return };
        self.inputs = before.trim().trim_start_matches('#').parse().unwrap_or(0);
        let reached = after.split_once("cov: ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        self.reached = reached.unwrap_or(0);
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.found { "a FINDING" } else { "no finding" };
        write!(f, "{} inputs, {} of {} places reached, {word}", self.inputs, self.reached, self.counters)
    }
}

/// One line for each input that reached something new; the rest is worth reading.
fn is_chatter(line: &str) -> bool {
    line.starts_with('#') && !line.contains("DONE") || line.starts_with("\tNEW_FUNC")
}

/// New inputs are kept beside the build; seeds come with the source.
fn run(folder: &str, target: &str, seconds: u32) -> Result<Outcome> {
    let source = workspace().join(folder).join("fuzz");
    let corpus = target_dir().join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(artifacts())?;
    let mut child = Command::new(target_dir().join("fuzz").join(TARGET).join("release").join(target))
        .arg(&corpus)
        .arg(source.join("seeds").join(target))
        .arg(format!("-dict={}", source.join("words.dict").display()))
        .arg(format!("-artifact_prefix={}/{target}-", artifacts()))
        .args([format!("-max_total_time={seconds}")])
        .args(["-max_len=16384", "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {target}"))?;
    let mut outcome = Outcome::default();
    for line in BufReader::new(child.stderr.take().context("the target's words")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        outcome.hear(&line);
        if !is_chatter(&line) {
            eprintln!("{line}");
        }
    }
    outcome.found = !child.wait()?.success();
    ensure!(outcome.counters > 0, "{target} was built without coverage: it does not fuzz");
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reached_is_read_from_libfuzzers_words() {
        let mut outcome = Outcome::default();
        for line in [
            "INFO: Loaded 1 modules   (21412 inline 8-bit counters): 21412 [0x5, 0x9), ",
            "#2\tINITED cov: 90 ft: 91 corp: 1/1b exec/s: 0 rss: 40Mb",
            "#4381\tDONE   cov: 1234 ft: 5012 corp: 77/12Kb lim: 4096 exec/s: 4381 rss: 60Mb",
        ] {
            outcome.hear(line);
        }
        assert_eq!(outcome, Outcome { found: false, counters: 21412, reached: 1234, inputs: 4381 });
        assert!(is_chatter("#2\tINITED cov: 90") && !is_chatter("==7== ERROR: libFuzzer: deadly signal"));
    }
}
