//! More of what a cgroup has used: what monitoring asks for and the stats calls have no word for.

use std::os::fd::OwnedFd;

use super::parse::{device_io, devices, keyed, number};
use super::read::{Hierarchies, find, list, open, text};
use super::{CgroupStats, Error, Reader};

/// Microseconds, as cgroup2 counts time.
const NS_PER_US: u64 = 1000;
/// Processes of one container that are listed; whoever has more is not listed to the end.
const PROCESSES_MAX: usize = 4096;

/// What the kernel does not tell stays `None` or empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detail {
    pub basic: CgroupStats,
    pub user_ns: Option<u64>,
    pub system_ns: Option<u64>,
    pub throttling: Option<Throttling>,
    pub memory: Option<MemoryDetail>,
    pub oom_kills: Option<u64>,
    pub devices: Vec<DeviceIo>,
    pub hugepages: Vec<Hugepages>,
    /// No limit is `None`.
    pub threads_max: Option<u64>,
    /// Of the cgroup itself, without those of cgroups below it.
    pub pids: Vec<i32>,
}

/// How often the CPU quota was used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryDetail {
    pub cache_bytes: u64,
    pub kernel_bytes: Option<u64>,
    pub mapped_file_bytes: u64,
    pub max_usage_bytes: Option<u64>,
    /// How often the limit was met.
    pub limit_hits: Option<u64>,
    pub active_anon_bytes: u64,
    pub inactive_anon_bytes: u64,
    /// Huge pages of each kind; only cgroup2 tells.
    pub huge: Option<Huge>,
    /// Page faults of the cgroup alone; those with the cgroups below it are in [`super::Memory`].
    pub own_page_faults: u64,
    pub own_major_page_faults: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Huge {
    pub anon_bytes: u64,
    pub shmem_bytes: u64,
    pub file_bytes: u64,
}

/// What went to and came from one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hugepages {
    /// As the interface names it: `2MB`.
    pub size: String,
    pub usage_bytes: u64,
    pub max_usage_bytes: Option<u64>,
}

impl Reader {
    /// Everything that [`Reader::read`] gives, how many processes there are, and more.
    ///
    /// # Errors
    /// When there is no such cgroup.
    pub fn read_detail(&mut self, cgroup_path: &str, at_ns: i64) -> Result<Detail, Error> {
        let mut basic = self.read(cgroup_path, at_ns)?;
        basic.processes = self.processes(cgroup_path, at_ns);
        let sizes = self.hugepage_sizes.clone();
        let buffer = &mut self.buffer;
        let mut detail = match &self.hierarchies {
            Hierarchies::V2(root) => v2(&open(root, cgroup_path)?, &sizes, buffer),
            Hierarchies::V1 { cpu, cpuacct, memory, pids, blkio, hugetlb, .. } => {
                let of = |root: &Option<OwnedFd>| find(root, cgroup_path).ok().flatten();
                let mut detail = Detail::default();
                v1_cpu(&mut detail, of(cpu).as_ref(), of(cpuacct).as_ref(), buffer);
                v1_memory(&mut detail, of(memory).as_ref(), buffer);
                detail.devices = of(blkio).map(|blkio| v1_devices(&blkio, buffer)).unwrap_or_default();
                detail.hugepages =
                    of(hugetlb).map(|hugetlb| v1_hugepages(&hugetlb, &sizes, buffer)).unwrap_or_default();
                let counted = of(pids);
                detail.threads_max = counted.as_ref().and_then(|pids| number(text(pids, "pids.max", buffer)));
                detail.pids =
                    counted.or_else(|| of(memory)).map(|own| processes(&own, buffer)).unwrap_or_default();
                detail
            }
        };
        detail.basic = basic;
        Ok(detail)
    }
}

fn processes(cgroup: &OwnedFd, buffer: &mut Vec<u8>) -> Vec<i32> {
    let listed = String::from_utf8_lossy(list(cgroup, "cgroup.procs", buffer));
    listed.lines().filter_map(|line| line.parse().ok()).take(PROCESSES_MAX).collect()
}

fn v2(cgroup: &OwnedFd, sizes: &[String], buffer: &mut Vec<u8>) -> Detail {
    let cpu = text(cgroup, "cpu.stat", buffer);
    let ns = |name: &str| keyed(cpu, name).map(|us| us.saturating_mul(NS_PER_US));
    let throttling = keyed(cpu, "nr_periods").map(|periods| Throttling {
        periods,
        throttled_periods: keyed(cpu, "nr_throttled").unwrap_or_default(),
        throttled_ns: ns("throttled_usec").unwrap_or_default(),
    });
    let (user_ns, system_ns) = (ns("user_usec"), ns("system_usec"));
    let events = text(cgroup, "memory.events", buffer);
    let (oom_kills, limit_hits) = (keyed(events, "oom_kill"), keyed(events, "max"));
    Detail {
        basic: CgroupStats::default(),
        user_ns,
        system_ns,
        throttling,
        memory: v2_memory(cgroup, limit_hits, buffer),
        oom_kills,
        devices: devices(text(cgroup, "io.stat", buffer)),
        hugepages: hugepages(cgroup, sizes, "current", None, buffer),
        threads_max: number(text(cgroup, "pids.max", buffer)),
        pids: processes(cgroup, buffer),
    }
}

fn v2_memory(cgroup: &OwnedFd, limit_hits: Option<u64>, buffer: &mut Vec<u8>) -> Option<MemoryDetail> {
    let max_usage_bytes = number(text(cgroup, "memory.peak", buffer));
    let stat = text(cgroup, "memory.stat", buffer);
    let of = |name: &str| keyed(stat, name).unwrap_or_default();
    Some(MemoryDetail {
        cache_bytes: keyed(stat, "file")?,
        // One number since Linux 5.18.
        kernel_bytes: keyed(stat, "kernel").or_else(|| Some(of("kernel_stack") + of("slab"))),
        mapped_file_bytes: of("file_mapped"),
        max_usage_bytes,
        limit_hits,
        active_anon_bytes: of("active_anon"),
        inactive_anon_bytes: of("inactive_anon"),
        huge: Some(Huge {
            anon_bytes: of("anon_thp"),
            shmem_bytes: of("shmem_thp"),
            file_bytes: of("file_thp"),
        }),
        own_page_faults: of("pgfault"),
        own_major_page_faults: of("pgmajfault"),
    })
}

fn v1_cpu(detail: &mut Detail, cpu: Option<&OwnedFd>, cpuacct: Option<&OwnedFd>, buffer: &mut Vec<u8>) {
    if let Some(cpuacct) = cpuacct {
        detail.user_ns = number(text(cpuacct, "cpuacct.usage_user", buffer));
        detail.system_ns = number(text(cpuacct, "cpuacct.usage_sys", buffer));
    }
    if let Some(cpu) = cpu {
        let stat = text(cpu, "cpu.stat", buffer);
        detail.throttling = keyed(stat, "nr_periods").map(|periods| Throttling {
            periods,
            throttled_periods: keyed(stat, "nr_throttled").unwrap_or_default(),
            throttled_ns: keyed(stat, "throttled_time").unwrap_or_default(),
        });
    }
}

fn v1_memory(detail: &mut Detail, memory: Option<&OwnedFd>, buffer: &mut Vec<u8>) {
    let Some(memory) = memory else { return };
    detail.oom_kills = keyed(text(memory, "memory.oom_control", buffer), "oom_kill");
    let kernel_bytes = number(text(memory, "memory.kmem.usage_in_bytes", buffer));
    let max_usage_bytes = number(text(memory, "memory.max_usage_in_bytes", buffer));
    let limit_hits = number(text(memory, "memory.failcnt", buffer));
    let stat = text(memory, "memory.stat", buffer);
    let of = |name: &str| keyed(stat, name).unwrap_or_default();
    detail.memory = keyed(stat, "total_cache").map(|cache_bytes| MemoryDetail {
        cache_bytes,
        kernel_bytes,
        mapped_file_bytes: of("total_mapped_file"),
        max_usage_bytes,
        limit_hits,
        active_anon_bytes: of("total_active_anon"),
        inactive_anon_bytes: of("total_inactive_anon"),
        huge: None,
        own_page_faults: of("pgfault"),
        own_major_page_faults: of("pgmajfault"),
    });
}

/// The throttling layer sees every request, whatever the scheduler of the device is.
fn v1_devices(blkio: &OwnedFd, buffer: &mut Vec<u8>) -> Vec<DeviceIo> {
    let mut found: Vec<DeviceIo> = Vec::new();
    let bytes = text(blkio, "blkio.throttle.io_service_bytes_recursive", buffer);
    device_io(bytes, &mut found, |device, read, write| {
        device.read_bytes = read.unwrap_or(device.read_bytes);
        device.written_bytes = write.unwrap_or(device.written_bytes);
    });
    let counts = text(blkio, "blkio.throttle.io_serviced_recursive", buffer);
    device_io(counts, &mut found, |device, read, write| {
        device.reads = read.unwrap_or(device.reads);
        device.writes = write.unwrap_or(device.writes);
    });
    found
}

fn v1_hugepages(hugetlb: &OwnedFd, sizes: &[String], buffer: &mut Vec<u8>) -> Vec<Hugepages> {
    hugepages(hugetlb, sizes, "usage_in_bytes", Some("max_usage_in_bytes"), buffer)
}

fn hugepages(
    cgroup: &OwnedFd,
    sizes: &[String],
    usage: &str,
    most: Option<&str>,
    buffer: &mut Vec<u8>,
) -> Vec<Hugepages> {
    let mut found = Vec::new();
    for size in sizes {
        let Some(usage_bytes) = number(text(cgroup, &format!("hugetlb.{size}.{usage}"), buffer)) else {
            continue;
        };
        let max_usage_bytes =
            most.and_then(|most| number(text(cgroup, &format!("hugetlb.{size}.{most}"), buffer)));
        found.push(Hugepages { size: size.clone(), usage_bytes, max_usage_bytes });
    }
    found
}
