//! What a process took: CPU time and the most memory it ever held, from /proc.

use std::time::Duration;

use anyhow::{Context, Result};

/// The kernel's clock tick as /proc shows it, 100 a second on every Linux (`USER_HZ`).
const TICKS: f64 = 100.0;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) wall: Duration,
    /// User and system time, of ended children too.
    pub(super) cpu: Duration,
    pub(super) peak_rss_bytes: u64,
}

/// User and system time of a process and of its children that were waited for (proc_pid_stat(5)).
pub(super) fn cpu(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = text.rsplit_once(") ").context("stat has a name")?.1;
    let ticks: u64 =
        after_name.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS))
}

pub(super) fn peak_rss_bytes(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).context("a process has a VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).context("VmHWM has a number")?.parse()?;
    Ok(kib << 10)
}

/// From now on the peak counts anew (proc_pid_clear_refs(5)).
pub(super) fn forget_peak(pid: u32) -> Result<()> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("resetting the peak of memory")
}
