//! Re-runs this program as root in a network namespace of its own, so that
//! bridges, host ports and firewall rules of a test never touch the machine's.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use berth_test::node::PRIVATE_NETWORK;
use berth_test::tools::as_root;

/// Whether this process is the re-run one.
pub(crate) fn is_private() -> bool {
    std::env::var_os(PRIVATE_NETWORK).is_some()
}

/// Runs `cargo xtask ARGS` again inside a fresh network namespace and gives its outcome.
pub(crate) fn run_in_private(args: &[&str]) -> Result<()> {
    ensure!(!is_private(), "already in a private network namespace");
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = as_root("unshare");
    command.args(["--net", "--", "env"]);
    for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "CARGO_TARGET_DIR", "CARGO", "CI"] {
        if let Some(value) = std::env::var_os(name) {
            command.arg(format!("{name}={}", value.to_string_lossy()));
        }
    }
    command.arg(format!("{PRIVATE_NETWORK}=1")).arg(program).args(args);
    let status = command.status().context("running unshare --net (util-linux)")?;
    if !status.success() {
        bail!("{}", ended(status));
    }
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
