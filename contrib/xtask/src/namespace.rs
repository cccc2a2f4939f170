//! Re-runs this program as root in a network namespace of its own, so that
//! bridges, host ports and firewall rules of a test never touch the machine's.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use berth_test::node::PRIVATE_NETWORK;
use berth_test::programs::target_dir;
use berth_test::tools::as_root;

/// Whether this process is the re-run one.
pub(crate) fn is_private() -> bool {
    std::env::var_os(PRIVATE_NETWORK).is_some()
}

/// Runs `cargo xtask ARGS` again inside a fresh network namespace and gives its outcome.
pub(crate) fn run_in_private(args: &[&str]) -> Result<()> {
    run_in(&["--net"], args)
}

/// The same, in a fresh mount namespace besides.
pub(crate) fn run_in_private_mounts(args: &[&str]) -> Result<()> {
    run_in(&["--net", "--mount"], args)
}

fn run_in(namespaces: &[&str], args: &[&str]) -> Result<()> {
    ensure!(!is_private(), "already in a private network namespace");
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = as_root("unshare");
    command.args(namespaces).args(["--", "env"]);
    // An ordinary user's lacks what only root runs: iptables, useradd.
    command.arg(format!("PATH={}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    for name in ["HOME", "CARGO_HOME", "RUSTUP_HOME", "CARGO_TARGET_DIR", "CARGO", "CI", "BERTH_SOAK"] {
        if let Some(value) = std::env::var_os(name) {
            command.arg(format!("{name}={}", value.to_string_lossy()));
        }
    }
    command.arg(format!("{PRIVATE_NETWORK}=1")).arg(program).args(args);
    let status = command.status().context("running unshare --net (util-linux)")?;
    give_back_target_dir()?;
    if !status.success() {
        bail!("{}", ended(status));
    }
    Ok(())
}

/// What root wrote into the target folder is given back to the user who builds there.
pub(crate) fn give_back_target_dir() -> Result<()> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if user.is_root() || !target_dir().exists() {
        return Ok(());
    }
    let owner = format!("{}:{}", user.as_raw(), group.as_raw());
    let status = as_root("chown").arg("-R").arg(owner).arg(target_dir()).status().context("running chown")?;
    ensure!(status.success(), "giving {} back to its user failed", target_dir().display());
    Ok(())
}

fn ended(status: std::process::ExitStatus) -> String {
    format!("the task {status}; its own words are above")
}

/// Brings loopback up; the namespace has nothing else.
pub(crate) fn bring_loopback_up() -> Result<()> {
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .stdout(Stdio::null())
        .status()
        .context("running ip (package iproute2)")?;
    ensure!(status.success(), "ip link set lo up failed");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("allowing forwarding in the namespace")?;
    Ok(())
}
