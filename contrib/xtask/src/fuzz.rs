//! `cargo xtask fuzz`: each target of `runtime/fuzz` and `image-service/fuzz` for a while. Coverage is compiled
//! in by stable flags, so that no other toolchain is needed than the one that builds berth.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use berth_test::programs::{target_dir, workspace};
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
            let found = run(folder, target, options.seconds)?;
            println!(
                "fuzz {target}: {} s, {}",
                options.seconds,
                if found { "a FINDING" } else { "no finding" }
            );
            findings.extend(found.then_some(target));
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
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
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

/// True when it found something. New inputs are kept beside the build; seeds come with the source.
fn run(folder: &str, target: &str, seconds: u32) -> Result<bool> {
    let source = workspace().join(folder).join("fuzz");
    let corpus = target_dir().join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(artifacts())?;
    let status = Command::new(target_dir().join("fuzz").join(TARGET).join("release").join(target))
        .arg(&corpus)
        .arg(source.join("seeds").join(target))
        .arg(format!("-dict={}", source.join("words.dict").display()))
        .arg(format!("-artifact_prefix={}/{target}-", artifacts()))
        .args([format!("-max_total_time={seconds}")])
        .args(["-max_len=16384", "-timeout=10", "-rss_limit_mb=1024", "-verbosity=0", "-print_final_stats=1"])
        .status()
        .with_context(|| format!("running {target}"))?;
    Ok(!status.success())
}
