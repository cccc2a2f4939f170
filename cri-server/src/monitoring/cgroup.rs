//! What a container's cgroup has used.

use super::descriptors as names;
use super::series::Series;
use crate::stats::detail::{DeviceIo, MemoryDetail};
use crate::stats::{Detail, Memory, Pressure};

pub(super) fn add(series: &mut Series, detail: &Detail) {
    cpu(series, detail);
    if let Some(used) = detail.basic.memory {
        memory(series, &used, detail);
    }
    if let Some(more) = &detail.memory {
        memory_detail(series, more);
    }
    series.add_known(&names::OOM_EVENTS, detail.oom_kills);
    for device in &detail.devices {
        device_io(series, device);
    }
    for pages in &detail.hugepages {
        series.add_of(&names::HUGETLB_USAGE, &[&pages.size], pages.usage_bytes);
        series.add_of(&names::HUGETLB_MAX_USAGE, &[&pages.size], pages.max_usage_bytes.unwrap_or_default());
    }
    pressures(series, detail);
}

fn cpu(series: &mut Series, detail: &Detail) {
    if let Some(used) = detail.basic.cpu {
        series.add_of(&names::CPU_USAGE, &["total"], used.usage_ns / super::series::NS_PER_S);
    }
    if let (Some(user_ns), Some(system_ns)) = (detail.user_ns, detail.system_ns) {
        series.add_seconds(&names::CPU_USER, user_ns);
        series.add_seconds(&names::CPU_SYSTEM, system_ns);
    }
    if let Some(throttling) = detail.throttling {
        series.add(&names::CPU_PERIODS, throttling.periods);
        series.add(&names::CPU_THROTTLED_PERIODS, throttling.throttled_periods);
        series.add_seconds(&names::CPU_THROTTLED, throttling.throttled_ns);
    }
}

fn memory(series: &mut Series, used: &Memory, detail: &Detail) {
    series.add(&names::MEMORY_USAGE, used.usage_bytes);
    series.add(&names::MEMORY_WORKING_SET, used.working_set_bytes);
    series.add(&names::MEMORY_RSS, used.rss_bytes);
    series.add(&names::MEMORY_SWAP, detail.basic.swap.map(|swap| swap.usage_bytes).unwrap_or_default());
    let own = detail.memory.unwrap_or_default();
    for (kind, own, all) in [
        ("pgfault", own.own_page_faults, used.page_faults),
        ("pgmajfault", own.own_major_page_faults, used.major_page_faults),
    ] {
        series.add_of(&names::MEMORY_FAILURES, &[kind, "container"], own);
        series.add_of(&names::MEMORY_FAILURES, &[kind, "hierarchy"], all);
    }
}

fn memory_detail(series: &mut Series, more: &MemoryDetail) {
    series.add(&names::MEMORY_CACHE, more.cache_bytes);
    series.add_known(&names::MEMORY_KERNEL, more.kernel_bytes);
    series.add(&names::MEMORY_MAPPED_FILE, more.mapped_file_bytes);
    series.add_known(&names::MEMORY_MAX_USAGE, more.max_usage_bytes);
    series.add_known(&names::MEMORY_FAILCNT, more.limit_hits);
    series.add(&names::MEMORY_ACTIVE_ANON, more.active_anon_bytes);
    series.add(&names::MEMORY_INACTIVE_ANON, more.inactive_anon_bytes);
    let huge = more.huge.unwrap_or_default();
    series.add(&names::MEMORY_ANON_THP, huge.anon_bytes);
    series.add(&names::MEMORY_SHMEM_THP, huge.shmem_bytes);
    series.add(&names::MEMORY_FILE_THP, huge.file_bytes);
}

/// A device is named by its numbers; its node's name is the host's affair.
fn device_io(series: &mut Series, device: &DeviceIo) {
    let (major, minor) = (device.major.to_string(), device.minor.to_string());
    let name = format!("{major}:{minor}");
    series.add_of(&names::FS_READS_BYTES, &[&name], device.read_bytes);
    series.add_of(&names::FS_READS, &[&name], device.reads);
    series.add_of(&names::FS_WRITES_BYTES, &[&name], device.written_bytes);
    series.add_of(&names::FS_WRITES, &[&name], device.writes);
    for (operation, bytes) in [("read", device.read_bytes), ("write", device.written_bytes)] {
        series.add_of(&names::BLKIO_USAGE, &[&name, &major, &minor, operation], bytes);
    }
}

fn pressures(series: &mut Series, detail: &Detail) {
    let basic = &detail.basic;
    let cpu = basic.cpu.and_then(|cpu| cpu.pressure);
    pressure(series, cpu, &names::PRESSURE_CPU_STALLED, &names::PRESSURE_CPU_WAITING);
    let memory = basic.memory.and_then(|memory| memory.pressure);
    pressure(series, memory, &names::PRESSURE_MEMORY_STALLED, &names::PRESSURE_MEMORY_WAITING);
    let io = basic.io.map(|io| io.pressure);
    pressure(series, io, &names::PRESSURE_IO_STALLED, &names::PRESSURE_IO_WAITING);
}

/// Nobody went on, and somebody waited.
fn pressure(
    series: &mut Series,
    pressure: Option<Pressure>,
    stalled: &names::Described,
    waiting: &names::Described,
) {
    if let Some(pressure) = pressure {
        series.add_seconds(stalled, pressure.full.total_ns);
        series.add_seconds(waiting, pressure.some.total_ns);
    }
}
