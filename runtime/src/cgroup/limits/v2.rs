//! The files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst). The specification speaks v1; what it says
//! is translated as runc and crun do.

use crate::spec::{BlockIo, Cpu, Resources};

use super::super::Error;
use super::super::layout::Version;
use super::{Absent, Write, given, invalid, memory, or_max, throttles, v1};

pub(super) fn writes(controller: &str, resources: &Resources) -> Result<Vec<Write>, Error> {
    Ok(match controller {
        "cpuset" => v1::cpuset(resources),
        "cpu" => resources.cpu.as_ref().map(cpu).transpose()?.unwrap_or_default(),
        "memory" => memory_writes(resources)?,
        "pids" => v1::pids(resources),
        "io" => resources.block_io.as_ref().map(io).transpose()?.unwrap_or_default(),
        "hugetlb" => hugetlb(resources),
        "rdma" => v1::rdma(resources),
        _ => Vec::new(),
    })
}

/// Files of the core that move, kill, freeze or divide; the limits among the core's files are anybody's
/// (config-linux.md, Unified: what a runtime does not know MUST still be written).
const RUNTIMES_OWN: [&str; 6] = [
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.kill",
    "cgroup.freeze",
    "cgroup.subtree_control",
    "cgroup.type",
];

/// `unified` names files of v2 as they are.
pub(super) fn unified(
    resources: &Resources,
    version: &dyn Fn(&str) -> Option<Version>,
) -> Result<Vec<Write>, Error> {
    let plain = |file: &str| {
        !file.is_empty()
            && file.contains('.')
            && !file.contains(['/', '\0', '\n'])
            && !file.starts_with(['.', ' '])
    };
    let mut writes = Vec::new();
    for (file, value) in &resources.unified {
        if !plain(file) {
            return Err(invalid("unified", "has a key that is no file of a controller"));
        }
        let controller = file.split('.').next().unwrap_or_default();
        if RUNTIMES_OWN.contains(&file.as_str()) {
            return Err(invalid("unified", "names a file of the cgroup core that is the runtime's own"));
        }
        if version(controller) != Some(Version::V2) {
            return Err(Error::MissingController { field: "unified", controller: controller.to_owned() });
        }
        // One line a write, as the kernel reads them: `io.max` has one for each device.
        writes.extend(value.lines().map(|line| Write::new("unified", file, line)));
    }
    Ok(writes)
}

fn cpu(cpu: &Cpu) -> Result<Vec<Write>, Error> {
    if given(cpu.realtime_runtime).is_some() || cpu.realtime_period.is_some_and(|period| period != 0) {
        return Err(invalid("cpu.realtimeRuntime", "cannot be had with cgroup v2"));
    }
    let mut writes = Vec::new();
    if let Some(idle) = cpu.idle {
        writes.push(Write::new("cpu.idle", "cpu.idle", idle));
    }
    // A cgroup that runs only when others idle has no weight: the kernel refuses to set one.
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0 && cpu.idle != Some(1)) {
        writes.push(Write::new("cpu.shares", "cpu.weight", weight_of_shares(shares)));
    }
    let (quota, period) = (given(cpu.quota), cpu.period.filter(|period| *period != 0));
    if quota.is_some() || period.is_some() {
        let quota = quota.map_or("max".to_owned(), or_max);
        let value = period.map_or(quota.clone(), |period| format!("{quota} {period}"));
        writes.push(Write::new("cpu.quota", "cpu.max", value));
    }
    if let Some(burst) = cpu.burst {
        writes.push(Write::new("cpu.burst", "cpu.max.burst", burst).or_skip_if(burst == 0));
    }
    Ok(writes)
}

/// From 2…262144 with 1024 in the middle to 1…10000 with 100 in the middle, along the curve that runc, crun
/// and the kubelet agreed on in 2025; the straight line before it gave 1024 a weight of 39.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = log.mul_add(log, 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

fn memory_writes(resources: &Resources) -> Result<Vec<Write>, Error> {
    let memory = memory(resources);
    if memory.disable_oom_killer == Some(true) {
        return Err(invalid("memory.disableOOMKiller", "cannot be had with cgroup v2"));
    }
    if memory.swappiness.is_some() {
        return Err(invalid("memory.swappiness", "cannot be had with cgroup v2"));
    }
    if memory.use_hierarchy == Some(false) {
        return Err(invalid("memory.useHierarchy", "cannot be false with cgroup v2"));
    }
    if memory.kernel_tcp.is_some_and(|limit| limit > 0) {
        return Err(invalid("memory.kernelTCP", "cannot be had with cgroup v2"));
    }
    let mut writes = Vec::new();
    if let Some(swap) = swap(given(memory.limit), given(memory.swap))? {
        let write = Write::new("memory.swap", "memory.swap.max", or_max(swap));
        writes.push(write.or_skip_if(swap <= 0));
    }
    if let Some(limit) = given(memory.limit) {
        writes.push(Write::new("memory.limit", "memory.max", or_max(limit)));
    }
    if let Some(reservation) = given(memory.reservation) {
        writes.push(Write::new("memory.reservation", "memory.low", or_max(reservation)));
    }
    Ok(writes)
}

/// v1 counts memory and swap together, v2 swap alone.
fn swap(limit: Option<i64>, together: Option<i64>) -> Result<Option<i64>, Error> {
    match (limit, together) {
        (Some(-1), None) | (_, Some(-1)) => Ok(Some(-1)),
        (_, None) => Ok(None),
        (Some(limit @ 1..), Some(together)) => Ok(Some(together - limit)),
        (_, Some(_)) => Err(invalid("memory.swap", "needs memory.limit")),
    }
}

fn io(io: &BlockIo) -> Result<Vec<Write>, Error> {
    if io.leaf_weight.is_some_and(|weight| weight != 0) {
        return Err(invalid("blockIO.leafWeight", "cannot be had with cgroup v2"));
    }
    let mut writes = Vec::new();
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        let write = Write::new("blockIO.weight", "io.bfq.weight", weight);
        writes.push(write.or_instead("io.weight", format!("default {}", io_weight(weight))));
    }
    for device in &io.weight_device {
        if device.leaf_weight.is_some_and(|weight| weight != 0) {
            return Err(invalid(
                "blockIO.weightDevice",
                "has a leafWeight, which cannot be had with cgroup v2",
            ));
        }
        let Some(weight) = device.weight else { continue };
        let value = |weight: u64| format!("{}:{} {weight}", device.major, device.minor);
        let write = Write::new("blockIO.weightDevice", "io.bfq.weight", value(weight.into()));
        writes.push(write.or_instead("io.weight", value(io_weight(weight))));
    }
    for (field, _, key, devices) in throttles(io) {
        for device in devices {
            let (major, minor) = (device.major, device.minor);
            // v1 takes a 0 for none; here it is a number that nothing could be done at.
            let rate = if device.rate == 0 { "max".to_owned() } else { device.rate.to_string() };
            writes.push(Write::new(field, "io.max", format!("{major}:{minor} {key}={rate}")));
        }
    }
    Ok(writes)
}

/// From 10…1000 to 1…10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).max(10) - 10) * 9_999 / 990
}

fn hugetlb(resources: &Resources) -> Vec<Write> {
    let write = |size: &str, kind: &str, limit: u64| {
        Write::new("hugepageLimits", format!("hugetlb.{size}.{kind}max"), limit)
    };
    let both = resources.hugepage_limits.iter().map(|huge| {
        let limit = write(&huge.page_size, "", huge.limit).or_skip_if(huge.limit == 0);
        [limit, Write { absent: Absent::Skip, ..write(&huge.page_size, "rsvd.", huge.limit) }]
    });
    both.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_along_the_agreed_curve() {
        for (shares, weight) in
            [(1, 1), (2, 1), (1024, 100), (2048, 174), (262_144, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn io_weights_keep_their_ends() {
        assert_eq!([10, 500, 1000].map(io_weight), [1, 4950, 10_000]);
    }
}
