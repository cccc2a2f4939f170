//! Resources become writes to files of controllers: decided here, performed by `apply`.
//!
//! Zero means unset where the specification's users mean it so (the kubelet sends zeros for what it does not
//! limit); a limit that this node cannot hold is an error naming the field and the controller.

mod v1;
mod v2;

use crate::spec::{BlockIo, Cpu, HugepageLimit, Memory, Resources, ThrottleDevice};

use super::Error;
use super::layout::Version;

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// Where it comes from in config.json, below `linux.resources`.
    pub(super) field: &'static str,
    pub(super) controller: String,
    pub(super) file: String,
    pub(super) value: String,
    pub(super) absent: Absent,
}

/// What to do where the kernel has no such file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Absent {
    Refuse,
    /// Nothing is lost.
    Skip,
    /// Another kernel's name for the same, with the value it wants.
    Instead(String, String),
}

impl Write {
    fn new(field: &'static str, file: impl Into<String>, value: impl ToString) -> Write {
        let file = file.into();
        let controller = file.split('.').next().unwrap_or_default().to_owned();
        Write { field, controller, file, value: value.to_string(), absent: Absent::Refuse }
    }

    /// Whether to be without it would break a promise.
    pub(super) fn must_hold(&self) -> bool {
        self.absent != Absent::Skip
    }

    /// Whether a new cgroup has this value by itself.
    pub(super) fn is_what_is(&self) -> bool {
        self.file == "cpu.cfs_period_us" && self.value == "100000"
    }

    /// A limit that those would exceed who make the container, or hinder them: one that keeps a scope, a first child
    /// that joins namespaces, and the init.
    pub(super) fn leaves_no_room(&self) -> bool {
        const MAKERS: u64 = 3;
        self.file == "pids.max" && self.value.parse::<u64>().is_ok_and(|limit| limit < MAKERS)
    }

    fn or_skip(self) -> Write {
        Write { absent: Absent::Skip, ..self }
    }

    fn or_skip_if(self, harmless: bool) -> Write {
        if harmless { self.or_skip() } else { self }
    }

    fn or_instead(self, file: impl Into<String>, value: impl ToString) -> Write {
        Write { absent: Absent::Instead(file.into(), value.to_string()), ..self }
    }
}

/// All writes, those of one controller side by side. `version` says which kind of hierarchy serves a
/// controller, if any does.
pub(super) fn plan(
    resources: &Resources,
    version: &dyn Fn(&str) -> Option<Version>,
) -> Result<Vec<Write>, Error> {
    check(resources)?;
    let mut writes = Vec::new();
    for controller in
        ["cpuset", "cpu", "memory", "pids", "blkio", "io", "hugetlb", "net_cls", "net_prio", "rdma"]
    {
        if wants_nothing(controller, resources) {
            continue;
        }
        match version(controller) {
            Some(Version::V1) => writes.extend(v1::writes(controller, resources)?),
            Some(Version::V2) => writes.extend(v2::writes(controller, resources)?),
            None => refuse_absent(controller, resources, version)?,
        }
    }
    writes.extend(v2::unified(resources, version)?);
    Ok(writes)
}

/// Then nobody need be asked who serves it.
fn wants_nothing(controller: &str, resources: &Resources) -> bool {
    let none = |writes: Result<Vec<Write>, Error>| writes.is_ok_and(|writes| writes.is_empty());
    none(v1::writes(controller, resources)) && none(v2::writes(controller, resources))
}

/// A limit whose controller the node lacks.
fn refuse_absent(
    controller: &str,
    resources: &Resources,
    version: &dyn Fn(&str) -> Option<Version>,
) -> Result<(), Error> {
    // The same thing under the other version's name.
    if matches!(controller, "blkio" | "io") && (version("blkio").is_some() || version("io").is_some()) {
        return Ok(());
    }
    let wanted = v1::writes(controller, resources)?;
    match wanted.iter().find(|write| write.must_hold()) {
        None => Ok(()),
        Some(write) => {
            Err(Error::MissingController { field: write.field, controller: controller.to_owned() })
        }
    }
}

fn check(resources: &Resources) -> Result<(), Error> {
    let memory = resources.memory.clone().unwrap_or_default();
    for (field, value) in [
        ("memory.limit", memory.limit),
        ("memory.reservation", memory.reservation),
        ("memory.swap", memory.swap),
        ("memory.kernelTCP", memory.kernel_tcp),
    ] {
        if value.is_some_and(|value| value < -1) {
            return Err(invalid(field, "is less than -1, which means no limit"));
        }
    }
    if let (Some(limit @ 1..), Some(swap @ 1..)) = (memory.limit, memory.swap)
        && swap < limit
    {
        return Err(invalid(
            "memory.swap",
            "counts memory and swap together, so it cannot be less than memory.limit",
        ));
    }
    if memory.swappiness.is_some_and(|swappiness| swappiness > 100) {
        return Err(invalid("memory.swappiness", "is more than 100"));
    }
    check_cpu_list("cpu.cpus", resources.cpu.as_ref().and_then(|cpu| cpu.cpus.as_deref()))?;
    check_cpu_list("cpu.mems", resources.cpu.as_ref().and_then(|cpu| cpu.mems.as_deref()))?;
    if resources.rdma.values().any(|limit| limit.hca_handles.is_none() && limit.hca_objects.is_none()) {
        return Err(invalid("rdma", "has an entry with neither hcaHandles nor hcaObjects"));
    }
    resources.block_io.as_ref().map_or(Ok(()), check_block_io)?;
    resources.cpu.as_ref().map_or(Ok(()), check_cpu)?;
    resources.hugepage_limits.iter().try_for_each(check_page_size)
}

/// 0 is unset; others are what the kernel's schedulers take.
fn check_block_io(io: &BlockIo) -> Result<(), Error> {
    let good = |weight: Option<u16>| weight.is_none_or(|weight| matches!(weight, 0 | 10..=1000));
    if !good(io.weight) || !good(io.leaf_weight) {
        return Err(invalid("blockIO.weight", "is not within 10 and 1000"));
    }
    for device in &io.weight_device {
        if device.weight.is_none() && device.leaf_weight.is_none() {
            return Err(invalid("blockIO.weightDevice", "has an entry with neither weight nor leafWeight"));
        }
        if !good(device.weight) || !good(device.leaf_weight) {
            return Err(invalid("blockIO.weightDevice", "has a weight that is not within 10 and 1000"));
        }
    }
    Ok(())
}

fn check_cpu(cpu: &Cpu) -> Result<(), Error> {
    if !matches!(cpu.idle, None | Some(0 | 1)) {
        return Err(invalid("cpu.idle", "is neither 0 nor 1"));
    }
    match (cpu.quota, cpu.burst) {
        (Some(quota @ 1..), Some(burst)) if burst > quota.unsigned_abs() => {
            Err(invalid("cpu.burst", "is larger than cpu.quota"))
        }
        _ => Ok(()),
    }
}

fn check_cpu_list(field: &'static str, list: Option<&str>) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_digit() || matches!(c, ',' | '-' | ' ' | ':' | '/');
    match list {
        Some(list) if !list.chars().all(plain) => Err(invalid(field, "is no list such as 0-3,7")),
        _ => Ok(()),
    }
}

/// The page size becomes part of a file's name.
fn check_page_size(limit: &HugepageLimit) -> Result<(), Error> {
    let digits = limit.page_size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &limit.page_size[digits.len()..];
    let plain = !digits.is_empty() && digits.len() < 8 && digits.chars().all(|c| c.is_ascii_digit());
    if plain && matches!(unit, "B" | "KB" | "MB" | "GB") {
        return Ok(());
    }
    Err(invalid("hugepageLimits.pageSize", "is no size such as 2MB"))
}

fn invalid(field: &'static str, reason: &'static str) -> Error {
    Error::Invalid { field, reason }
}

/// `-1` is v1's word for no limit, `max` is v2's.
fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn memory(resources: &Resources) -> Memory {
    resources.memory.clone().unwrap_or_default()
}

/// Set and not zero.
fn given(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

/// The four throttles, with v1's file and v2's key.
fn throttles(io: &BlockIo) -> [(&'static str, &'static str, &'static str, &[ThrottleDevice]); 4] {
    [
        (
            "blockIO.throttleReadBpsDevice",
            "blkio.throttle.read_bps_device",
            "rbps",
            &io.throttle_read_bps_device,
        ),
        (
            "blockIO.throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            "wbps",
            &io.throttle_write_bps_device,
        ),
        (
            "blockIO.throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            "riops",
            &io.throttle_read_iops_device,
        ),
        (
            "blockIO.throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            "wiops",
            &io.throttle_write_iops_device,
        ),
    ]
}

#[cfg(test)]
mod tests;
