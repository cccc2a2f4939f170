//! The files of cgroup v1.

use std::path::Path;

use super::super::files;
use super::{
    BlkioEntry, BlkioStats, CpuStats, CpusetStats, HugetlbStats, MemoryStats, MemoryUsage, Stats, list,
    number, page_sizes, pids, table,
};

/// USER_HZ, in which the kernel tells user and system time, is 100 on every architecture that it is built for here.
const TICK_NS: u64 = 10_000_000;

pub(super) fn add(stats: &mut Stats, controller: &str, dir: &Path) {
    match controller {
        "cpuacct" => usage(&mut stats.cpu, dir),
        "cpu" => throttling(&mut stats.cpu, dir),
        "cpuset" => stats.cpuset = cpuset(dir),
        "memory" => stats.memory = memory(dir),
        "pids" => stats.pids = pids(dir),
        "blkio" => stats.blkio = blkio(dir),
        "hugetlb" => {
            stats.hugetlb = page_sizes(dir, ".usage_in_bytes").into_iter().map(hugetlb(dir)).collect()
        }
        _ => {}
    }
}

fn usage(cpu: &mut CpuStats, dir: &Path) {
    let numbers = |line: &str| line.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<u64>>();
    let usage = &mut cpu.usage;
    usage.total = number(dir, "cpuacct.usage", 0);
    usage.percpu = numbers(&files::read(dir, "cpuacct.usage_percpu").unwrap_or_default());
    let stat = table(dir, "cpuacct.stat");
    usage.user = stat.get("user").copied().unwrap_or(0) * TICK_NS;
    usage.kernel = stat.get("system").copied().unwrap_or(0) * TICK_NS;
    // CPU USER SYSTEM, after a line of headings.
    for line in files::read(dir, "cpuacct.usage_all").unwrap_or_default().lines().skip(1) {
        if let [_, user, kernel] = numbers(line)[..] {
            usage.percpu_user.push(user);
            usage.percpu_kernel.push(kernel);
        }
    }
}

fn throttling(cpu: &mut CpuStats, dir: &Path) {
    let stat = table(dir, "cpu.stat");
    let get = |key: &str| stat.get(key).copied().unwrap_or(0);
    cpu.throttling.periods = get("nr_periods");
    cpu.throttling.throttled_periods = get("nr_throttled");
    cpu.throttling.throttled_time = get("throttled_time");
}

fn cpuset(dir: &Path) -> CpusetStats {
    let flag = |name: &str| number(dir, &format!("cpuset.{name}"), 0);
    let ids = |name: &str| list(&files::read(dir, &format!("cpuset.{name}")).unwrap_or_default());
    let level = files::read_line(dir, "cpuset.sched_relax_domain_level").unwrap_or_default();
    CpusetStats {
        cpus: ids("cpus"),
        cpu_exclusive: flag("cpu_exclusive"),
        mems: ids("mems"),
        mem_hardwall: flag("mem_hardwall"),
        mem_exclusive: flag("mem_exclusive"),
        memory_migrate: flag("memory_migrate"),
        memory_spread_page: flag("memory_spread_page"),
        memory_spread_slab: flag("memory_spread_slab"),
        memory_pressure: flag("memory_pressure"),
        sched_load_balance: flag("sched_load_balance"),
        sched_relax_domain_level: level.parse().unwrap_or(0),
    }
}

fn memory(dir: &Path) -> MemoryStats {
    let usage = |name: &str| {
        let file = |what: &str| format!("memory.{name}{what}");
        MemoryUsage {
            limit: number(dir, &file("limit_in_bytes"), 0),
            usage: number(dir, &file("usage_in_bytes"), 0),
            max: number(dir, &file("max_usage_in_bytes"), 0),
            failcnt: number(dir, &file("failcnt"), 0),
        }
    };
    let raw = table(dir, "memory.stat");
    MemoryStats {
        cache: raw.get("cache").copied().unwrap_or(0),
        usage: usage(""),
        swap: usage("memsw."),
        kernel: usage("kmem."),
        kernel_tcp: usage("kmem.tcp."),
        raw,
        psi: None,
    }
}

/// The I/O scheduler's files where it has any, else the throttle's.
fn blkio(dir: &Path) -> BlkioStats {
    let entries = |name: &str| {
        let files = [format!("blkio.bfq.{name}_recursive"), format!("blkio.throttle.{name}_recursive")];
        let found = files.iter().map(|file| blkio_entries(dir, file)).find(|entries| !entries.is_empty());
        found.unwrap_or_default()
    };
    BlkioStats {
        io_service_bytes_recursive: entries("io_service_bytes"),
        io_serviced_recursive: entries("io_serviced"),
        io_queued_recursive: entries("io_queued"),
        io_service_time_recursive: entries("io_service_time"),
        io_wait_time_recursive: entries("io_wait_time"),
        io_merged_recursive: entries("io_merged"),
        io_time_recursive: entries("time"),
        sectors_recursive: entries("sectors"),
        psi: None,
    }
}

/// `MAJOR:MINOR OP VALUE`, or without OP; a last line with the sum of all devices is left out.
fn blkio_entries(dir: &Path, file: &str) -> Vec<BlkioEntry> {
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (device, op, value) = match words[..] {
            [device, op, value] => (device, op, value),
            [device, value] => (device, "", value),
            _ => return None,
        };
        let (major, minor) = device.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        Some(BlkioEntry { major, minor, op: op.to_owned(), value: value.parse().ok()? })
    };
    files::read(dir, file).unwrap_or_default().lines().filter_map(entry).collect()
}

fn hugetlb(dir: &Path) -> impl Fn(String) -> (String, HugetlbStats) {
    move |size| {
        let value = |what: &str| number(dir, &format!("hugetlb.{size}.{what}"), 0);
        let (usage, max, failcnt) = (value("usage_in_bytes"), value("max_usage_in_bytes"), value("failcnt"));
        (size, HugetlbStats { usage, max, failcnt })
    }
}
