//! Our numbers in the interface's words.

use network::counters::Counters;
use proto::v1;

use super::{CgroupStats, Cpu, Io, Memory, Pressure, Processes, Stall, Swap};

pub fn container_stats(
    attributes: v1::ContainerAttributes,
    stats: &CgroupStats,
    writable_layer: Option<v1::FilesystemUsage>,
) -> v1::ContainerStats {
    v1::ContainerStats {
        attributes: Some(attributes),
        cpu: stats.cpu.map(cpu),
        memory: stats.memory.map(memory),
        writable_layer,
        swap: stats.swap.map(swap),
        io: stats.io.map(io),
    }
}

/// The pod's own cgroup, and each of its containers.
pub fn sandbox_stats(
    attributes: v1::PodSandboxAttributes,
    stats: &CgroupStats,
    network: Option<v1::NetworkUsage>,
    containers: Vec<v1::ContainerStats>,
) -> v1::PodSandboxStats {
    let linux = v1::LinuxPodSandboxStats {
        cpu: stats.cpu.map(cpu),
        memory: stats.memory.map(memory),
        network,
        process: stats.processes.map(processes),
        containers,
        io: stats.io.map(io),
    };
    v1::PodSandboxStats { attributes: Some(attributes), linux: Some(linux), windows: None }
}

/// What went through a pod's interfaces. `None` where there are none that are the pod's alone.
pub fn network_usage(at_ns: i64, interfaces: &[Counters], default: &str) -> Option<v1::NetworkUsage> {
    let all: Vec<v1::NetworkInterfaceUsage> = interfaces.iter().map(interface).collect();
    let is_default = |usage: &&v1::NetworkInterfaceUsage| usage.name == default;
    let default_interface = all.iter().find(is_default).or(all.first()).cloned();
    let interfaces = all.into_iter().filter(|usage| Some(usage) != default_interface.as_ref()).collect();
    default_interface.is_some().then_some(v1::NetworkUsage {
        timestamp: at_ns,
        default_interface,
        interfaces,
    })
}

fn interface(counters: &Counters) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: counters.interface.clone(),
        rx_bytes: value(counters.received.bytes),
        rx_errors: value(counters.received.errors),
        tx_bytes: value(counters.sent.bytes),
        tx_errors: value(counters.sent.errors),
    }
}

/// A directory's use of the file system it lies on.
pub fn filesystem_usage(at_ns: i64, directory: &str, bytes: u64, inodes: u64) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: at_ns,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: directory.to_owned() }),
        used_bytes: value(bytes),
        inodes_used: value(inodes),
    }
}

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn cpu(cpu: Cpu) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: cpu.at_ns,
        usage_core_nano_seconds: value(cpu.usage_ns),
        usage_nano_cores: cpu.rate_nanocores.and_then(value),
        psi: cpu.pressure.map(psi),
    }
}

fn memory(memory: Memory) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp: memory.at_ns,
        working_set_bytes: value(memory.working_set_bytes),
        available_bytes: memory.available_bytes.and_then(value),
        usage_bytes: value(memory.usage_bytes),
        rss_bytes: value(memory.rss_bytes),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: memory.pressure.map(psi),
    }
}

fn swap(swap: Swap) -> v1::SwapUsage {
    v1::SwapUsage {
        timestamp: swap.at_ns,
        swap_available_bytes: swap.available_bytes.and_then(value),
        swap_usage_bytes: value(swap.usage_bytes),
    }
}

fn processes(processes: Processes) -> v1::ProcessUsage {
    v1::ProcessUsage { timestamp: processes.at_ns, process_count: value(processes.count) }
}

fn io(io: Io) -> v1::IoUsage {
    v1::IoUsage { timestamp: io.at_ns, psi: Some(psi(io.pressure)) }
}

fn psi(pressure: Pressure) -> v1::PsiStats {
    v1::PsiStats { full: Some(stall(pressure.full)), some: Some(stall(pressure.some)) }
}

fn stall(stall: Stall) -> v1::PsiData {
    v1::PsiData {
        total: stall.total_ns,
        avg10: stall.average_10s,
        avg60: stall.average_60s,
        avg300: stall.average_300s,
    }
}
