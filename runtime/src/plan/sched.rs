//! Words of the scheduler, the I/O scheduler, personality and memory policy, as the kernel's numbers.

use kernel::SchedAttr;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::spec;

/// set_mempolicy(2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MemoryPolicy {
    pub(crate) mode: u32,
    pub(crate) nodes: Vec<u64>,
}

/// Words of `process.scheduler.policy`: linux/sched.h.
const POLICIES: &[(&str, u32)] = &[
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

const SCHED_FLAGS: &[(&str, u64)] = &[
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

const IO_CLASSES: &[(&str, u16)] =
    &[("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

/// Words of `linux.memoryPolicy.mode`: linux/mempolicy.h.
pub const MEMORY_MODES: &[(&str, u32)] = &[
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

pub const MEMORY_FLAGS: &[(&str, u32)] = &[
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

fn word<T: Copy>(field: &str, table: &[(&str, T)], word: &str) -> Result<T, Error> {
    let found = table.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let known: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        Error::invalid(field, format!("{word:?} is none of {}", known.join(", ")))
    })
}

/// Which policy takes which numbers: sched_setattr(2). The kernel would ignore some of those that do not fit.
pub(super) fn scheduler(scheduler: &spec::Scheduler) -> Result<SchedAttr, Error> {
    let at = |part: &str| format!("process.scheduler.{part}");
    let policy = word(&at("policy"), POLICIES, &scheduler.policy)?;
    let mut flags = 0;
    for (i, name) in scheduler.flags.iter().enumerate() {
        flags |= word(&at(&format!("flags[{i}]")), SCHED_FLAGS, name)?;
    }
    let priority =
        u32::try_from(scheduler.priority).map_err(|_| Error::invalid(at("priority"), "is negative"))?;
    let is = |names: &[&str]| names.contains(&scheduler.policy.as_str());
    let refuse = |part: &str, reason: &str| Err(Error::invalid(at(part), reason));
    if !(-20..=19).contains(&scheduler.nice) {
        return refuse("nice", "is not within -20 and 19");
    }
    if scheduler.nice != 0 && !is(&["SCHED_OTHER", "SCHED_BATCH"]) {
        return refuse("nice", "is only for SCHED_OTHER and SCHED_BATCH");
    }
    if priority != 0 && !is(&["SCHED_FIFO", "SCHED_RR"]) {
        return refuse("priority", "is only for SCHED_FIFO and SCHED_RR");
    }
    let (runtime, deadline, period) = (scheduler.runtime, scheduler.deadline, scheduler.period);
    if (runtime, deadline, period) != (0, 0, 0) && !is(&["SCHED_DEADLINE"]) {
        return refuse("runtime", "and deadline and period are only for SCHED_DEADLINE");
    }
    Ok(SchedAttr {
        policy,
        flags,
        nice: scheduler.nice,
        priority,
        runtime,
        deadline,
        period,
        ..SchedAttr::default()
    })
}

/// Class and priority of ioprio_set(2).
pub(super) fn io_priority(io: &spec::IoPriority) -> Result<(u16, u16), Error> {
    let class = word("process.ioPriority.class", IO_CLASSES, &io.class)?;
    match u16::try_from(io.priority) {
        Ok(priority @ 0..=7) => Ok((class, priority)),
        _ => Err(Error::invalid("process.ioPriority.priority", "must be 0 to 7")),
    }
}

pub(super) fn personality(personality: &spec::Personality) -> Result<u32, Error> {
    if !personality.flags.is_empty() {
        return Err(Error::unsupported("linux.personality.flags", "the specification defines none"));
    }
    word("linux.personality.domain", &[("LINUX", 0), ("LINUX32", 8)], &personality.domain)
}

pub(super) fn memory_policy(policy: &spec::MemoryPolicy) -> Result<MemoryPolicy, Error> {
    let mut mode = word("linux.memoryPolicy.mode", MEMORY_MODES, &policy.mode)?;
    for (i, name) in policy.flags.iter().enumerate() {
        mode |= word(&format!("linux.memoryPolicy.flags[{i}]"), MEMORY_FLAGS, name)?;
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
        if first > last {
            return Err(Error::invalid(field, format!("{range:?} ends before it begins")));
        }
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
        assert!(list("x", "3-1").is_err());
        assert!(list("x", "99999").is_err());
    }

    #[test]
    fn a_policy_takes_only_its_own_numbers() {
        let check = |json: &str| scheduler(&serde_json::from_str(json).unwrap()).map_err(|e| e.to_string());
        let refused = |json: &str, place: &str| {
            let error = check(json).unwrap_err();
            assert!(error.starts_with(place), "{error}");
        };
        for (name, number) in POLICIES {
            assert_eq!(check(&format!(r#"{{"policy": "{name}"}}"#)).unwrap().policy, *number);
        }
        let deadline = r#"{"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3, "flags": ["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"]}"#;
        assert_eq!(check(deadline).unwrap().flags, 6);
        refused(r#"{"policy": "SCHED_NOSUCH"}"#, "process.scheduler.policy: ");
        refused(r#"{"policy": "SCHED_OTHER", "nice": 20}"#, "process.scheduler.nice: ");
        refused(r#"{"policy": "SCHED_FIFO", "nice": 1}"#, "process.scheduler.nice: ");
        refused(r#"{"policy": "SCHED_OTHER", "priority": 1}"#, "process.scheduler.priority: ");
        refused(r#"{"policy": "SCHED_RR", "priority": -1}"#, "process.scheduler.priority: ");
        refused(r#"{"policy": "SCHED_RR", "period": 1}"#, "process.scheduler.runtime: ");
        refused(
            r#"{"policy": "SCHED_RR", "flags": ["SCHED_FLAG_RECLAIM", "X"]}"#,
            "process.scheduler.flags[1]: ",
        );
    }

    #[test]
    fn memory_policies_have_their_words() {
        let check = |json: &str| memory_policy(&serde_json::from_str(json).unwrap());
        let policy =
            check(r#"{"mode": "MPOL_INTERLEAVE", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]}"#)
                .unwrap();
        assert_eq!((policy.mode, policy.nodes), (3 | 1 << 15, vec![3]));
        assert!(check(r#"{"mode": "MPOL_NOSUCH"}"#).is_err());
        assert!(check(r#"{"mode": "MPOL_BIND", "nodes": "x"}"#).is_err());
        assert!(check(r#"{"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NOSUCH"]}"#).is_err());
    }
}
