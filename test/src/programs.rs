//! Where the programs under test are, and building them.
//!
//! berthd and berth are ordinary release builds. The monitor, the runtime and
//! the stand-ins' programs are static: one process per pod, so size is memory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// rustup ships this target with every installation here, so nothing is downloaded.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The finished programs.
#[derive(Debug, Clone)]
pub struct Programs {
    pub berthd: PathBuf,
    pub berth: PathBuf,
    pub conmon: PathBuf,
    pub runtime: PathBuf,
    /// The program of the stand-in images; see `test/programs`.
    pub stand_in: PathBuf,
    /// The program of test bundles.
    pub probe: PathBuf,
    /// What a container costs the kernel, for the benchmark of the runtime.
    pub floor: PathBuf,
    /// The least that a pull can cost, for the benchmark of pulls.
    pub pull_floor: PathBuf,
    /// Times a command and measures its memory.
    pub launch: PathBuf,
    /// `berthd` with fail points.
    pub berthd_failpoints: PathBuf,
}

/// The workspace's own folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the test crate is in the workspace")
}

/// cargo's output folder.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

impl Programs {
    /// Where [`Programs::build`] puts them.
    pub fn built() -> Programs {
        let static_dir = target_dir().join(TARGET).join("monitor");
        let release_dir = target_dir().join("release");
        Programs {
            berthd: release_dir.join("berthd"),
            berth: release_dir.join("berth"),
            conmon: static_dir.join("berth-conmon"),
            runtime: static_dir.join("berth-runtime"),
            stand_in: static_dir.join("stand-in"),
            floor: static_dir.join("floor"),
            pull_floor: release_dir.join("pull-floor"),
            launch: static_dir.join("launch"),
            probe: static_dir.join("probe"),
            berthd_failpoints: target_dir().join("failpoints/berthd"),
        }
    }

    /// Builds all but the fail-point daemon.
    pub fn build() -> Result<Programs> {
        println!("building berthd and berth");
        cargo(&["build", "--release", "-p", "cri-server"], &[])?;
        Programs::build_static()?;
        Ok(Programs::built())
    }

    /// The floor of pulls, optimised like berthd.
    pub fn build_pull_floor() -> Result<()> {
        println!("building the floor of pulls");
        cargo(&["build", "--release", "-p", "pull-floor"], &[])
    }

    /// The static ones alone.
    pub fn build_static() -> Result<()> {
        println!("building berth-conmon, berth-runtime and the test programs, static");
        let flags = "-C target-feature=+crt-static -C relocation-model=static";
        let packages = ["-p", "conmon", "-p", "runtime", "-p", "test-programs"];
        let mut args = vec!["build", "--profile", "monitor", "--target", TARGET, "--bins"];
        args.extend(packages);
        cargo(&args, &[("RUSTFLAGS", flags)])
    }

    /// Builds the daemon that can be killed at a named step: unoptimised, from what tests build anyway.
    pub fn build_failpoints() -> Result<()> {
        println!("building berthd with fail points");
        cargo(&["build", "-p", "cri-server", "--bin", "berthd", "--features", "failpoints"], &[])?;
        let kept = Programs::built().berthd_failpoints;
        std::fs::create_dir_all(kept.parent().context("a program is in a folder")?)?;
        std::fs::copy(target_dir().join("debug/berthd"), kept)?;
        Ok(())
    }
}

/// The cargo that runs us. What it says of our own package it must not hear again: build scripts that look at that
/// (ring's) would run anew whenever somebody calls cargo by hand, and all that depends on them be built again.
pub fn cargo_command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
        command.env_remove(name);
    }
    command
}

/// Runs cargo in the workspace, its output shown.
pub fn cargo(args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    let status = cargo_command()
        .args(args)
        .envs(env.iter().copied())
        .current_dir(workspace())
        .status()
        .context("running cargo")?;
    ensure!(status.success(), "cargo {} failed: {status}", args.join(" "));
    Ok(())
}
