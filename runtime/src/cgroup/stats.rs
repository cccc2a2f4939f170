//! What a cgroup has used, in the shape that `runc events` gave to the world: engines parse these names.
//!
//! A number whose file this kernel lacks is 0; v2's are turned into v1's units and sums, as runc does.

mod v1;
mod v2;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::layout::Version;
use super::{Cgroup, Error, files};

/// Times in nanoseconds, sizes in bytes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stats {
    pub cpu: CpuStats,
    pub cpuset: CpusetStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    pub blkio: BlkioStats,
    /// By page size, such as `2MB`.
    pub hugetlb: BTreeMap<String, HugetlbStats>,
    /// Of resctrl, which cgroups know nothing of.
    pub intel_rdt: BTreeMap<String, u64>,
    /// Only interfaces that the runtime made itself would be here: none.
    pub network_interfaces: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct CpuStats {
    pub usage: CpuUsage,
    pub throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    pub kernel: u64,
    pub user: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct CpusetStats {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct MemoryStats {
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    pub usage: MemoryUsage,
    /// Memory and swap together, as v1 counts.
    pub swap: MemoryUsage,
    pub kernel: MemoryUsage,
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryUsage,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct MemoryUsage {
    pub limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    pub failcnt: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct PidsStats {
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// 0: none.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlkioStats {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BlkioEntry {
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct HugetlbStats {
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    pub failcnt: u64,
}

/// Documentation/accounting/psi.rst.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pressure {
    pub some: Stall,
    pub full: Stall,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Stall {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    /// Microseconds.
    pub total: u64,
}

// serde hands a reference.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Cgroup {
    /// What it has used so far.
    ///
    /// # Errors
    /// It is gone.
    pub fn stats(&self) -> Result<Stats, Error> {
        let mut stats = Stats::default();
        for hierarchy in &self.layout.hierarchies {
            let dir = self.dir(hierarchy);
            rustix::fs::access(&dir, rustix::fs::Access::EXISTS).map_err(|source| Error::Kernel {
                doing: "looking at",
                object: dir.clone(),
                source,
            })?;
            for controller in hierarchy.controllers() {
                match hierarchy.version {
                    Version::V1 => v1::add(&mut stats, controller, &dir),
                    Version::V2 => v2::add(&mut stats, controller, &dir),
                }
            }
        }
        Ok(stats)
    }
}

/// The file's number; "max" and what is missing as `absent`.
fn number(dir: &Path, file: &str, absent: u64) -> u64 {
    files::read_line(dir, file).ok().and_then(|line| line.parse().ok()).unwrap_or(absent)
}

/// A file of `KEY NUMBER` lines.
fn table(dir: &Path, file: &str) -> BTreeMap<String, u64> {
    let text = files::read(dir, file).unwrap_or_default();
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// A list such as `0-3,7`.
fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

fn pids(dir: &Path) -> PidsStats {
    PidsStats { current: number(dir, "pids.current", 0), limit: number(dir, "pids.max", 0) }
}

/// The sizes of huge pages that the directory has files for.
fn page_sizes(dir: &Path, end: &str) -> Vec<String> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let size = |name: std::ffi::OsString| {
        let name = name.into_string().ok()?;
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(end)?;
        (!size.contains('.')).then(|| size.to_owned())
    };
    names.filter_map(size).collect()
}

fn pressure(dir: &Path, file: &str) -> Option<Pressure> {
    let text = files::read(dir, file).ok()?;
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        let value = |key: &str| rest.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let average = |key: &str| value(key).and_then(|value| value.parse().ok()).unwrap_or(0.0);
        let stall = Stall {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total: value("total").and_then(|value| value.parse().ok()).unwrap_or(0),
        };
        match kind {
            "some" => pressure.some = stall,
            "full" => pressure.full = stall,
            _ => {}
        }
    }
    Some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn lists_are_counted_out() {
        assert_eq!(list("0-2,7"), [0, 1, 2, 7]);
        assert_eq!(list(""), Vec::<u16>::new());
    }

    #[test]
    fn v1_files_become_stats() {
        let dir = dir(&[
            ("cpuacct.usage", "300\n"),
            ("cpuacct.usage_percpu", "100 200 \n"),
            ("cpuacct.stat", "user 2\nsystem 3\n"),
            ("cpuacct.usage_all", "cpu user system\n0 60 40\n1 150 50\n"),
            ("memory.stat", "cache 4096\nrss 8192\n"),
            ("memory.usage_in_bytes", "12288\n"),
            ("memory.limit_in_bytes", "65536\n"),
            ("blkio.throttle.io_service_bytes_recursive", "8:16 Read 10\n8:16 Total 10\nTotal 10\n"),
            ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
            ("hugetlb.2MB.rsvd.usage_in_bytes", "0\n"),
        ]);
        let mut stats = Stats::default();
        for controller in ["cpuacct", "memory", "blkio", "hugetlb"] {
            v1::add(&mut stats, controller, dir.path());
        }
        let usage = &stats.cpu.usage;
        assert_eq!((usage.total, usage.percpu.as_slice()), (300, &[100, 200][..]));
        assert_eq!((usage.user, usage.kernel), (20_000_000, 30_000_000), "ticks of 10 ms");
        assert_eq!((&usage.percpu_user[..], &usage.percpu_kernel[..]), (&[60, 150][..], &[40, 50][..]));
        assert_eq!((stats.memory.cache, stats.memory.usage.limit), (4096, 65536));
        let total = BlkioEntry { major: 8, minor: 16, op: "Total".into(), value: 10 };
        assert_eq!(stats.blkio.io_service_bytes_recursive[1], total);
        assert_eq!(stats.blkio.io_service_bytes_recursive.len(), 2);
        assert_eq!(stats.hugetlb.keys().collect::<Vec<_>>(), ["2MB"]);
    }

    #[test]
    fn v2_files_become_the_same_stats() {
        let dir = dir(&[
            (
                "cpu.stat",
                "usage_usec 300\nuser_usec 200\nsystem_usec 100\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n",
            ),
            ("cpu.pressure", "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 total=3\n"),
            ("memory.current", "1000\n"),
            ("memory.max", "max\n"),
            ("memory.swap.current", "10\n"),
            ("memory.swap.max", "max\n"),
            ("memory.stat", "anon 1\nfile 4096\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
        ]);
        let mut stats = Stats::default();
        for controller in ["cpu", "memory", "io", "pids"] {
            v2::add(&mut stats, controller, dir.path());
        }
        assert_eq!((stats.cpu.usage.total, stats.cpu.throttling.throttled_time), (300_000, 7_000));
        let psi = stats.cpu.psi.unwrap();
        assert_eq!((psi.some.avg10, psi.some.total, psi.full.total), (1.5, 9, 3));
        assert_eq!((stats.memory.usage.limit, stats.memory.cache), (u64::MAX, 4096));
        assert_eq!((stats.memory.swap.usage, stats.memory.swap.limit), (1010, u64::MAX));
        assert_eq!(stats.blkio.io_serviced_recursive[1].op, "Write");
        assert_eq!((stats.pids.current, stats.pids.limit), (3, 0));
    }
}
