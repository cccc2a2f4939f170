//! The limits of the container's cgroup.

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources};
use proto::v1::{ContainerConfig, LinuxContainerResources};

use super::devices::Devices;
use super::gather::{CgroupVersion, Machine};
use super::invalid::require;
use super::{Inputs, Invalid};

const SHARES_MIN: i64 = 2;
const SHARES_MAX: i64 = 262_144;
/// The kernel's bounds of a CFS period and the least quota (kernel/sched/core.c).
const PERIOD_US: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
const QUOTA_MIN_US: i64 = 1_000;

pub(super) fn asked(config: &ContainerConfig) -> LinuxContainerResources {
    config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default()
}

/// The same limits for a new container and for one that is updated.
pub(super) fn resources(
    inputs: &Inputs<'_>,
    asked: &LinuxContainerResources,
    devices: &Devices,
) -> Result<LinuxResources, Invalid> {
    let machine = &inputs.host.machine;
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(devices.rules.clone()))
        .set_cpu(cpu(asked)?)
        .set_memory(memory(asked, machine)?)
        .set_hugepage_limits(hugepages(asked, machine)?)
        .set_pids(pids(inputs.settings.pids_limit))
        .set_unified(unified(asked, machine)?)
        .set_block_io(inputs.host.block_io.clone());
    Ok(resources)
}

/// Zero is the interface's word for "as it is".
fn stated(number: i64) -> Option<i64> {
    (number != 0).then_some(number)
}

pub(super) fn cpu(asked: &LinuxContainerResources) -> Result<Option<LinuxCpu>, Invalid> {
    let (shares, quota, period) =
        (stated(asked.cpu_shares), stated(asked.cpu_quota), stated(asked.cpu_period));
    let positive = shares.is_none_or(|shares| shares > 0);
    require(positive, "resources.cpu_shares", || format!("{} is negative", asked.cpu_shares))?;
    let period_fits = period.is_none_or(|period| PERIOD_US.contains(&period));
    require(period_fits, "resources.cpu_period", || {
        format!("{} is not from 1000 to 1000000", asked.cpu_period)
    })?;
    let quota_fits = quota.is_none_or(|quota| quota == -1 || quota >= QUOTA_MIN_US);
    require(quota_fits, "resources.cpu_quota", || {
        format!("{} is neither -1 nor 1000 or more", asked.cpu_quota)
    })?;
    let mut cpu = LinuxCpu::default();
    let shares = shares.map(|shares| shares.clamp(SHARES_MIN, SHARES_MAX).unsigned_abs());
    cpu.set_shares(shares)
        .set_quota(quota)
        .set_period(period.map(i64::unsigned_abs))
        .set_cpus(cpu_list("resources.cpuset_cpus", &asked.cpuset_cpus)?)
        .set_mems(cpu_list("resources.cpuset_mems", &asked.cpuset_mems)?);
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

/// cpuset(7), list format: `0-3,8`.
fn cpu_list(field: &str, list: &str) -> Result<Option<String>, Invalid> {
    let fits = list.bytes().all(|byte| byte.is_ascii_digit() || b",-".contains(&byte));
    require(fits, field, || format!("{list:?} is not a list such as 0-3,8"))?;
    Ok((!list.is_empty()).then(|| list.to_owned()))
}

/// Without a word about swap, a limited container gets none: that is what limits are for.
pub(super) fn memory(
    asked: &LinuxContainerResources,
    machine: &Machine,
) -> Result<Option<LinuxMemory>, Invalid> {
    let (limit, swap) = (stated(asked.memory_limit_in_bytes), stated(asked.memory_swap_limit_in_bytes));
    let unlimited_or_more = |bytes: i64| bytes == -1 || bytes > 0;
    require(limit.is_none_or(unlimited_or_more), "resources.memory_limit_in_bytes", || {
        format!("{} is negative", asked.memory_limit_in_bytes)
    })?;
    let swap_fits = match (limit, swap) {
        (_, None | Some(-1)) => true,
        (None | Some(-1), Some(_)) => false,
        (Some(limit), Some(swap)) => swap >= limit,
    };
    require(swap_fits, "resources.memory_swap_limit_in_bytes", || {
        "the limit of memory and swap together is below the limit of memory".to_owned()
    })?;
    if limit.is_none() && swap.is_none() {
        return Ok(None);
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit).set_swap(swap.or(limit).filter(|_| machine.swap_accounting));
    Ok(Some(memory))
}

/// The kubelet always sends a limit of 0 for each page size it knows, even where nothing can limit them.
pub(super) fn hugepages(
    asked: &LinuxContainerResources,
    machine: &Machine,
) -> Result<Option<Vec<LinuxHugepageLimit>>, Invalid> {
    let mut limits = Vec::new();
    for limit in &asked.hugepage_limits {
        if machine.hugepage_sizes.contains(&limit.page_size) {
            let bytes = i64::try_from(limit.limit).unwrap_or(i64::MAX);
            let mut entry = LinuxHugepageLimit::default();
            entry.set_page_size(limit.page_size.clone()).set_limit(bytes);
            limits.push(entry);
        } else {
            require(limit.limit == 0, "resources.hugepage_limits", || {
                format!("this machine cannot limit huge pages of {}", limit.page_size)
            })?;
        }
    }
    Ok((!limits.is_empty()).then_some(limits))
}

fn pids(limit: i64) -> Option<LinuxPids> {
    (limit > 0).then(|| {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        pids
    })
}

/// Names of cgroup2 files, never paths.
pub(super) fn unified(
    asked: &LinuxContainerResources,
    machine: &Machine,
) -> Result<Option<std::collections::HashMap<String, String>>, Invalid> {
    let field = "resources.unified";
    if asked.unified.is_empty() {
        return Ok(None);
    }
    require(machine.cgroup == CgroupVersion::V2, field, || {
        "this machine has no unified cgroup hierarchy".to_owned()
    })?;
    for name in asked.unified.keys() {
        let fits = name.contains('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte));
        require(fits, field, || format!("{name:?} is not a file of the cgroup2 interface"))?;
    }
    Ok(Some(asked.unified.clone()))
}

/// A daemon that may not lower the score gives the lowest it may; `berth doctor` says so once.
pub(super) fn oom_score_adj(asked: &LinuxContainerResources, machine: &Machine) -> Result<i32, Invalid> {
    let score = asked.oom_score_adj;
    let fits = (-1000..=1000).contains(&score);
    require(fits, "resources.oom_score_adj", || format!("{score} is not from -1000 to 1000"))?;
    Ok(i32::try_from(score).expect("checked above").max(machine.oom_score_adj_floor))
}
