//! `cargo xtask oci`: the OCI validation suite, in namespaces where nothing that it does can reach the machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use berth_test::oci::{self, Options};
use berth_test::programs::Programs;
use berth_test::tools::{self, as_root};

/// Set in the process that has namespaces of its own.
const PRIVATE: &str = "BERTH_PRIVATE_MOUNTS";

/// crun refuses a hybrid host whose cgroup2 has a controller.
const CONTROLLERS: &str = "/sys/fs/cgroup/unified/cgroup.controllers";

pub(crate) fn oci(args: &[&str]) -> Result<()> {
    let options = options(args)?;
    if std::env::var_os(PRIVATE).is_some() {
        hide_controllers()?;
        return oci::run(&options);
    }
    if options.runtimes.is_empty() || options.probe.is_none() {
        tools::ensure_packages(tools::OCI_PACKAGES)?;
        Programs::build_static()?;
    }
    let status = as_root("unshare")
        .args(["--mount", "--net", "--uts", "--ipc", "--propagation", "private", "--", "env"])
        .arg(format!("{PRIVATE}=1"))
        .args(
            std::env::var_os("CARGO_TARGET_DIR")
                .map(|dir| format!("CARGO_TARGET_DIR={}", dir.to_string_lossy())),
        )
        .arg(std::env::current_exe().context("finding this program")?)
        .arg("oci")
        .args(args)
        .status()
        .context("running unshare (util-linux)")?;
    ensure!(status.success(), "the suite {status}; its own words are above");
    Ok(())
}

fn options(args: &[&str]) -> Result<Options> {
    let mut options = Options::default();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().copied().with_context(|| format!("{word} needs a value"));
        match *word {
            "--runtime" => options.runtimes.push(value()?.into()),
            "--probe" => options.probe = Some(value()?.into()),
            "--focus" => options.focus = Some(value()?.to_owned()),
            "--systemd-cgroup" => options.systemd_cgroup = true,
            "--alone" => options.alone = true,
            other => bail!("oci has no option {other}"),
        }
    }
    Ok(options)
}

/// Only in this mount namespace.
fn hide_controllers() -> Result<()> {
    if !Path::new(CONTROLLERS).exists() {
        return Ok(());
    }
    let status =
        Command::new("mount").args(["--bind", "/dev/null", CONTROLLERS]).status().context("running mount")?;
    ensure!(status.success(), "mount --bind /dev/null {CONTROLLERS} failed");
    Ok(())
}
