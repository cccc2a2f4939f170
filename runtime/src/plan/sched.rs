//! Words of the scheduler, the I/O scheduler, personality and memory policy, as the kernel's numbers.

use kernel::SchedAttr;

use crate::Error;
use crate::spec;

/// set_mempolicy(2).
#[derive(Debug)]
pub(crate) struct MemoryPolicy {
    pub(crate) mode: u32,
    pub(crate) nodes: Vec<u64>,
}

pub(super) fn scheduler(scheduler: &spec::Scheduler) -> Result<SchedAttr, Error> {
    let policy = match scheduler.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => 6,
        other => return Err(Error::invalid("process.scheduler.policy", format!("{other:?} is no policy"))),
    };
    let mut flags = 0;
    for word in &scheduler.flags {
        flags |= match word.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => return Err(Error::invalid("process.scheduler.flags", format!("{other:?} is no flag"))),
        };
    }
    let priority = u32::try_from(scheduler.priority)
        .map_err(|_| Error::invalid("process.scheduler.priority", "is negative"))?;
    let (nice, runtime, deadline, period) =
        (scheduler.nice, scheduler.runtime, scheduler.deadline, scheduler.period);
    Ok(SchedAttr { policy, flags, nice, priority, runtime, deadline, period, ..SchedAttr::default() })
}

/// Class and priority of ioprio_set(2).
pub(super) fn io_priority(io: &spec::IoPriority) -> Result<(u16, u16), Error> {
    let class = match io.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return Err(Error::invalid("process.ioPriority.class", format!("{other:?} is no class"))),
    };
    match u16::try_from(io.priority) {
        Ok(priority @ 0..=7) => Ok((class, priority)),
        _ => Err(Error::invalid("process.ioPriority.priority", "must be 0 to 7")),
    }
}

pub(super) fn personality(personality: &spec::Personality) -> Result<u32, Error> {
    if !personality.flags.is_empty() {
        return Err(Error::unsupported("linux.personality.flags", "the specification defines none"));
    }
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::invalid("linux.personality.domain", format!("{other:?} is no domain"))),
    }
}

pub(super) fn memory_policy(policy: &spec::MemoryPolicy) -> Result<MemoryPolicy, Error> {
    let mut mode = match policy.mode.as_str() {
        "MPOL_DEFAULT" => 0,
        "MPOL_PREFERRED" => 1,
        "MPOL_BIND" => 2,
        "MPOL_INTERLEAVE" => 3,
        "MPOL_LOCAL" => 4,
        "MPOL_PREFERRED_MANY" => 5,
        "MPOL_WEIGHTED_INTERLEAVE" => 6,
        other => return Err(Error::invalid("linux.memoryPolicy.mode", format!("{other:?} is no mode"))),
    };
    for word in &policy.flags {
        mode |= match word.as_str() {
            "MPOL_F_NUMA_BALANCING" => 1 << 13,
            "MPOL_F_RELATIVE_NODES" => 1 << 14,
            "MPOL_F_STATIC_NODES" => 1 << 15,
            other => return Err(Error::invalid("linux.memoryPolicy.flags", format!("{other:?} is no flag"))),
        };
    }
    Ok(MemoryPolicy { mode, nodes: list("linux.memoryPolicy.nodes", &policy.nodes)? })
}

/// `0-3,7` as bits. 4096 is more than any kernel is built for.
pub(super) fn list(field: &str, list: &str) -> Result<Vec<u64>, Error> {
    let mut bits = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let parse = |text: &str| text.parse::<usize>().ok().filter(|&number| number < 4096);
        let (Some(first), Some(last)) = (parse(first), parse(last)) else {
            return Err(Error::invalid(field, format!("{range:?} is no range")));
        };
        for number in first..=last {
            bits.resize(bits.len().max(number / 64 + 1), 0);
            bits[number / 64] |= 1_u64 << (number % 64);
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_bits() {
        assert_eq!(list("x", "0-2,65").unwrap(), [0b111, 0b10]);
        assert!(list("x", "").unwrap().is_empty());
        assert!(list("x", "1-").is_err());
        assert!(list("x", "99999").is_err());
    }
}
