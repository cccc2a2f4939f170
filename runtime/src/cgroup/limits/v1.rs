//! The files of cgroup v1 (Documentation/admin-guide/cgroup-v1).

use crate::spec::{BlockIo, Resources};

use super::super::Error;
use super::{Write, given, memory, throttles};

pub(super) fn writes(controller: &str, resources: &Resources) -> Result<Vec<Write>, Error> {
    Ok(match controller {
        "cpuset" => cpuset(resources),
        "cpu" => cpu(resources),
        "memory" => self::memory_writes(resources),
        "pids" => pids(resources),
        "blkio" => resources.block_io.as_ref().map(blkio).unwrap_or_default(),
        "hugetlb" => hugetlb(resources),
        "net_cls" => net_cls(resources),
        "net_prio" => net_prio(resources),
        "rdma" => rdma(resources),
        _ => Vec::new(),
    })
}

pub(super) fn cpuset(resources: &Resources) -> Vec<Write> {
    let Some(cpu) = &resources.cpu else { return Vec::new() };
    let list = |field, file, list: &Option<String>| {
        list.as_deref().filter(|list| !list.is_empty()).map(|list| Write::new(field, file, list))
    };
    list("cpu.cpus", "cpuset.cpus", &cpu.cpus)
        .into_iter()
        .chain(list("cpu.mems", "cpuset.mems", &cpu.mems))
        .collect()
}

fn cpu(resources: &Resources) -> Vec<Write> {
    let Some(cpu) = &resources.cpu else { return Vec::new() };
    let mut writes = Vec::new();
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        writes.push(Write::new("cpu.shares", "cpu.shares", shares));
    }
    if let Some(idle) = cpu.idle {
        writes.push(Write::new("cpu.idle", "cpu.idle", idle));
    }
    if let Some(period) = cpu.period.filter(|period| *period != 0) {
        writes.push(Write::new("cpu.period", "cpu.cfs_period_us", period));
    }
    if let Some(quota) = given(cpu.quota) {
        writes.push(Write::new("cpu.quota", "cpu.cfs_quota_us", quota.max(-1)));
    }
    if let Some(burst) = cpu.burst {
        writes.push(Write::new("cpu.burst", "cpu.cfs_burst_us", burst).or_skip_if(burst == 0));
    }
    if let Some(period) = cpu.realtime_period.filter(|period| *period != 0) {
        writes.push(Write::new("cpu.realtimePeriod", "cpu.rt_period_us", period));
    }
    if let Some(runtime) = given(cpu.realtime_runtime) {
        writes.push(Write::new("cpu.realtimeRuntime", "cpu.rt_runtime_us", runtime));
    }
    writes
}

/// memsw counts memory and swap together, and may never be below the limit of memory: `apply` finds the order.
/// The limit of kernel memory is not written: the kernel has ignored it since 5.16 and the specification
/// calls it not recommended.
fn memory_writes(resources: &Resources) -> Vec<Write> {
    let memory = memory(resources);
    let mut writes = Vec::new();
    if let Some(limit) = given(memory.limit) {
        writes.push(Write::new("memory.limit", "memory.limit_in_bytes", limit));
    }
    match (given(memory.limit), given(memory.swap)) {
        // Without accounting of swap, no swap beyond memory is what a node without swap gives anyway.
        (limit, Some(swap)) => {
            let harmless = swap == -1 || limit == Some(swap);
            let write = Write::new("memory.swap", "memory.memsw.limit_in_bytes", swap);
            writes.push(write.or_skip_if(harmless));
        }
        // Memory without a limit cannot be had under a limit of memory and swap.
        (Some(-1), None) => {
            writes.push(Write::new("memory.limit", "memory.memsw.limit_in_bytes", -1).or_skip())
        }
        _ => {}
    }
    if let Some(reservation) = given(memory.reservation) {
        writes.push(Write::new("memory.reservation", "memory.soft_limit_in_bytes", reservation));
    }
    if let Some(tcp) = given(memory.kernel_tcp) {
        writes.push(Write::new("memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", tcp));
    }
    if let Some(swappiness) = memory.swappiness {
        writes.push(Write::new("memory.swappiness", "memory.swappiness", swappiness));
    }
    if let Some(disable) = memory.disable_oom_killer {
        let write = Write::new("memory.disableOOMKiller", "memory.oom_control", u8::from(disable));
        writes.push(write.or_skip_if(!disable));
    }
    if let Some(hierarchy) = memory.use_hierarchy {
        // Since Linux 5.11 there is nothing else, and a 0 is refused.
        writes.push(Write::new("memory.useHierarchy", "memory.use_hierarchy", u8::from(hierarchy)));
    }
    writes
}

/// v1 and v2 agree on this one. Zero is a limit like any other (config-linux.md, PIDs): nobody may fork.
pub(super) fn pids(resources: &Resources) -> Vec<Write> {
    let limit = resources.pids.as_ref().and_then(|pids| pids.limit);
    // As many as the kernel can have, PID_MAX_LIMIT, are never had; it refuses to be told more.
    let limit = limit.map(|limit| if limit > 4 << 20 { -1 } else { limit });
    limit.map(|limit| Write::new("pids.limit", "pids.max", super::or_max(limit))).into_iter().collect()
}

fn blkio(io: &BlockIo) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        writes.push(weight_write("blockIO.weight", "weight", &weight.to_string()));
    }
    if let Some(weight) = io.leaf_weight.filter(|weight| *weight != 0) {
        writes.push(Write::new("blockIO.leafWeight", "blkio.leaf_weight", weight));
    }
    for device in &io.weight_device {
        let (major, minor) = (device.major, device.minor);
        if let Some(weight) = device.weight {
            writes.push(weight_write(
                "blockIO.weightDevice",
                "weight_device",
                &format!("{major}:{minor} {weight}"),
            ));
        }
        if let Some(weight) = device.leaf_weight {
            let value = format!("{major}:{minor} {weight}");
            writes.push(Write::new("blockIO.weightDevice", "blkio.leaf_weight_device", value));
        }
    }
    for (field, file, _, devices) in throttles(io) {
        for device in devices {
            writes.push(Write::new(
                field,
                file,
                format!("{}:{} {}", device.major, device.minor, device.rate),
            ));
        }
    }
    writes
}

/// The file belongs to the I/O scheduler: CFQ of old, BFQ of today.
fn weight_write(field: &'static str, file: &str, value: &str) -> Write {
    Write::new(field, format!("blkio.{file}"), value).or_instead(format!("blkio.bfq.{file}"), value)
}

/// The kubelet sends a limit of 0 for every page size, controller or not.
fn hugetlb(resources: &Resources) -> Vec<Write> {
    let write = |size: &str, kind: &str, limit: u64| {
        Write::new("hugepageLimits", format!("hugetlb.{size}.{kind}limit_in_bytes"), limit)
    };
    let both = resources.hugepage_limits.iter().map(|huge| {
        let limit = write(&huge.page_size, "", huge.limit).or_skip_if(huge.limit == 0);
        [limit, write(&huge.page_size, "rsvd.", huge.limit).or_skip()]
    });
    both.flatten().collect()
}

fn net_cls(resources: &Resources) -> Vec<Write> {
    let class = resources.network.as_ref().and_then(|network| network.class_id);
    let write = |id| Write::new("network.classID", "net_cls.classid", id).or_skip_if(id == 0);
    class.map(write).into_iter().collect()
}

fn net_prio(resources: &Resources) -> Vec<Write> {
    let priorities = resources.network.iter().flat_map(|network| &network.priorities);
    priorities
        .map(|one| {
            Write::new("network.priorities", "net_prio.ifpriomap", format!("{} {}", one.name, one.priority))
        })
        .collect()
}

pub(super) fn rdma(resources: &Resources) -> Vec<Write> {
    let value = |name: &String, limit: &crate::spec::Rdma| {
        let part =
            |key: &str, value: Option<u32>| value.map(|value| format!(" {key}={value}")).unwrap_or_default();
        name.clone() + &part("hca_handle", limit.hca_handles) + &part("hca_object", limit.hca_objects)
    };
    resources.rdma.iter().map(|(name, limit)| Write::new("rdma", "rdma.max", value(name, limit))).collect()
}
