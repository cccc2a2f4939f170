//! The files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst).

use std::path::Path;

use super::super::files;
use super::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, HugetlbStats, MemoryStats, MemoryUsage, Stats, Throttling,
    list, number, page_sizes, pids, pressure, table,
};

pub(super) fn add(stats: &mut Stats, controller: &str, dir: &Path) {
    match controller {
        "cpu" => stats.cpu = cpu(dir),
        "cpuset" => {
            let ids = |file: &str| list(&files::read(dir, file).unwrap_or_default());
            stats.cpuset.cpus = ids("cpuset.cpus");
            stats.cpuset.mems = ids("cpuset.mems");
        }
        "memory" => stats.memory = memory(dir),
        "pids" => stats.pids = pids(dir),
        "io" => stats.blkio = io(dir),
        "hugetlb" => stats.hugetlb = page_sizes(dir, ".current").into_iter().map(hugetlb(dir)).collect(),
        _ => {}
    }
}

fn cpu(dir: &Path) -> CpuStats {
    let stat = table(dir, "cpu.stat");
    let get = |key: &str| stat.get(key).copied().unwrap_or(0);
    let nanoseconds = |key: &str| get(key) * 1000;
    CpuStats {
        usage: CpuUsage {
            total: nanoseconds("usage_usec"),
            kernel: nanoseconds("system_usec"),
            user: nanoseconds("user_usec"),
            ..CpuUsage::default()
        },
        throttling: Throttling {
            periods: get("nr_periods"),
            throttled_periods: get("nr_throttled"),
            throttled_time: nanoseconds("throttled_usec"),
        },
        psi: pressure(dir, "cpu.pressure"),
    }
}

fn memory(dir: &Path) -> MemoryStats {
    let part = |name: &str| MemoryUsage {
        limit: number(dir, &format!("{name}.max"), u64::MAX),
        usage: number(dir, &format!("{name}.current"), 0),
        max: number(dir, &format!("{name}.peak"), 0),
        failcnt: 0,
    };
    let (usage, swap) = (part("memory"), part("memory.swap"));
    let raw = table(dir, "memory.stat");
    MemoryStats {
        cache: raw.get("file").copied().unwrap_or(0),
        // v1's memsw counts both; a peak of the sum nobody keeps.
        swap: MemoryUsage {
            limit: swap.limit.saturating_add(usage.limit),
            usage: swap.usage + usage.usage,
            max: 0,
            failcnt: 0,
        },
        usage: MemoryUsage { failcnt: table(dir, "memory.events").get("max").copied().unwrap_or(0), ..usage },
        kernel: MemoryUsage::default(),
        kernel_tcp: MemoryUsage::default(),
        raw,
        psi: pressure(dir, "memory.pressure"),
    }
}

/// `MAJOR:MINOR rbytes=… wbytes=… rios=… wios=… dbytes=… dios=…`.
fn io(dir: &Path) -> BlkioStats {
    let mut stats = BlkioStats { psi: pressure(dir, "io.pressure"), ..BlkioStats::default() };
    for line in files::read(dir, "io.stat").unwrap_or_default().lines() {
        let mut words = line.split(' ');
        let device = words.next().and_then(|word| word.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (entries, op) = match key {
                "rbytes" => (&mut stats.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut stats.io_service_bytes_recursive, "Write"),
                "rios" => (&mut stats.io_serviced_recursive, "Read"),
                "wios" => (&mut stats.io_serviced_recursive, "Write"),
                _ => continue,
            };
            let value = value.parse().unwrap_or(0);
            entries.push(BlkioEntry { major, minor, op: op.to_owned(), value });
        }
    }
    stats
}

fn hugetlb(dir: &Path) -> impl Fn(String) -> (String, HugetlbStats) {
    move |size| {
        let usage = number(dir, &format!("hugetlb.{size}.current"), 0);
        let max = number(dir, &format!("hugetlb.{size}.max"), 0);
        let events = table(dir, &format!("hugetlb.{size}.events"));
        (size, HugetlbStats { usage, max, failcnt: events.get("max").copied().unwrap_or(0) })
    }
}
