//! What a change of limits comes to: the limits as they are and those asked for in, the new ones and what has to
//! be told to the kernel out.

use oci_spec::runtime::LinuxResources;
use proto::v1::LinuxContainerResources;

use super::gather::Machine;
use super::{Invalid, resources};

/// A change, decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// All limits, once it is done.
    pub after: LinuxContainerResources,
    /// What the runtime is to change, and nothing else; `None` when nothing changes.
    pub change: Option<LinuxResources>,
}

/// Zero and empty are the interface's words for "as it is". Limits that the kernel takes together (a quota and
/// its period, memory and swap) are told together.
///
/// # Errors
/// Names the field that cannot be honoured.
pub fn update(
    before: &LinuxContainerResources,
    asked: &LinuxContainerResources,
    machine: &Machine,
) -> Result<Update, Invalid> {
    let after = merged(before, asked);
    let quota_changes = asked.cpu_quota != 0 || asked.cpu_period != 0;
    let memory_changes = asked.memory_limit_in_bytes != 0 || asked.memory_swap_limit_in_bytes != 0;
    let cpu = resources::cpu(&LinuxContainerResources {
        cpu_quota: if quota_changes { after.cpu_quota } else { 0 },
        cpu_period: if quota_changes { after.cpu_period } else { 0 },
        ..asked.clone()
    })?;
    let memory = if memory_changes { resources::memory(&after, machine)? } else { None };
    let memory = memory.map(|mut memory| {
        // A limit below what is used would kill: it is refused, and the kubelet tries again.
        memory.set_check_before_update(Some(true));
        memory
    });
    let mut change = LinuxResources::default();
    change
        .set_devices(None)
        .set_cpu(cpu)
        .set_memory(memory)
        .set_hugepage_limits(resources::hugepages(asked, machine)?)
        .set_unified(resources::unified(asked, machine)?);
    let mut nothing = LinuxResources::default();
    nothing.set_devices(None);
    Ok(Update { after, change: Some(change).filter(|change| *change != nothing) })
}

/// A process's OOM score is given to it at its birth and is no limit: it stays.
fn merged(before: &LinuxContainerResources, asked: &LinuxContainerResources) -> LinuxContainerResources {
    let number = |before: i64, asked: i64| if asked == 0 { before } else { asked };
    let text = |before: &String, asked: &String| if asked.is_empty() { before } else { asked }.clone();
    let mut hugepage_limits = before.hugepage_limits.clone();
    for limit in &asked.hugepage_limits {
        match hugepage_limits.iter_mut().find(|known| known.page_size == limit.page_size) {
            Some(known) => known.limit = limit.limit,
            None => hugepage_limits.push(limit.clone()),
        }
    }
    let mut unified = before.unified.clone();
    unified.extend(asked.unified.clone());
    LinuxContainerResources {
        cpu_period: number(before.cpu_period, asked.cpu_period),
        cpu_quota: number(before.cpu_quota, asked.cpu_quota),
        cpu_shares: number(before.cpu_shares, asked.cpu_shares),
        memory_limit_in_bytes: number(before.memory_limit_in_bytes, asked.memory_limit_in_bytes),
        memory_swap_limit_in_bytes: swap(before, asked),
        oom_score_adj: before.oom_score_adj,
        cpuset_cpus: text(&before.cpuset_cpus, &asked.cpuset_cpus),
        cpuset_mems: text(&before.cpuset_mems, &asked.cpuset_mems),
        hugepage_limits,
        unified,
    }
}

/// The limit of memory and swap together moves with the limit of memory, so that as much swap is left as before.
fn swap(before: &LinuxContainerResources, asked: &LinuxContainerResources) -> i64 {
    let (memory, both) = (before.memory_limit_in_bytes, before.memory_swap_limit_in_bytes);
    match (asked.memory_swap_limit_in_bytes, asked.memory_limit_in_bytes) {
        (0, 0) => both,
        (0, new) if both > 0 && memory > 0 && new > 0 => new.saturating_add(both.saturating_sub(memory)),
        (0, new) if both > 0 && new == -1 => -1,
        (0, _) => both,
        (asked, _) => asked,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::gather::CgroupVersion;
    use super::*;
    use proto::v1::HugepageLimit;

    fn machine() -> Machine {
        Machine {
            cgroup: CgroupVersion::V2,
            capabilities: vec![],
            oom_score_adj_floor: -1000,
            apparmor: false,
            selinux: false,
            hugepage_sizes: BTreeSet::from(["2MB".to_owned()]),
            swap_accounting: true,
        }
    }

    fn before() -> LinuxContainerResources {
        LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 100,
            memory_swap_limit_in_bytes: 130,
            oom_score_adj: 5,
            cpuset_cpus: "0".into(),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }],
            ..Default::default()
        }
    }

    /// The OCI words of the change, and whether the limits afterwards are as `after` makes them.
    #[track_caller]
    fn check(
        asked: LinuxContainerResources,
        change: serde_json::Value,
        after: impl Fn(&mut LinuxContainerResources),
    ) {
        let update = update(&before(), &asked, &machine()).unwrap();
        let mut expected = before();
        after(&mut expected);
        assert_eq!(update.after, expected);
        assert_eq!(serde_json::to_value(&update.change).unwrap(), change);
    }

    fn nothing() -> LinuxContainerResources {
        LinuxContainerResources::default()
    }

    #[test]
    fn what_is_asked_changes_and_what_is_not_stays() {
        check(nothing(), serde_json::Value::Null, |_| {});
        check(
            LinuxContainerResources { cpuset_cpus: "1-2".into(), oom_score_adj: 9, ..nothing() },
            serde_json::json!({"cpu": {"cpus": "1-2"}}),
            |after| after.cpuset_cpus = "1-2".into(),
        );
        check(
            LinuxContainerResources { cpu_quota: -1, ..nothing() },
            serde_json::json!({"cpu": {"quota": -1, "period": 100_000}}),
            |after| after.cpu_quota = -1,
        );
        check(
            LinuxContainerResources { memory_limit_in_bytes: 200, ..nothing() },
            serde_json::json!({"memory": {"limit": 200, "swap": 230, "checkBeforeUpdate": true}}),
            |after| (after.memory_limit_in_bytes, after.memory_swap_limit_in_bytes) = (200, 230),
        );
        check(
            LinuxContainerResources {
                memory_limit_in_bytes: 90,
                memory_swap_limit_in_bytes: 90,
                ..nothing()
            },
            serde_json::json!({"memory": {"limit": 90, "swap": 90, "checkBeforeUpdate": true}}),
            |after| (after.memory_limit_in_bytes, after.memory_swap_limit_in_bytes) = (90, 90),
        );
        let huge = HugepageLimit { page_size: "2MB".into(), limit: 4 };
        check(
            LinuxContainerResources { hugepage_limits: vec![huge.clone()], ..nothing() },
            serde_json::json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]}),
            |after| after.hugepage_limits = vec![huge.clone()],
        );
        check(
            LinuxContainerResources {
                unified: [("memory.high".to_owned(), "9".to_owned())].into(),
                ..nothing()
            },
            serde_json::json!({"unified": {"memory.high": "9"}}),
            |after| after.unified = [("memory.high".to_owned(), "9".to_owned())].into(),
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |asked: LinuxContainerResources, field: &str| {
            let error = update(&before(), &asked, &machine()).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        };
        refused(LinuxContainerResources { cpu_quota: 5, ..nothing() }, "resources.cpu_quota");
        refused(
            LinuxContainerResources { memory_swap_limit_in_bytes: 50, ..nothing() },
            "resources.memory_swap_limit_in_bytes",
        );
        let huge = HugepageLimit { page_size: "1GB".into(), limit: 4 };
        refused(LinuxContainerResources { hugepage_limits: vec![huge], ..nothing() }, "hugepage_limits");
    }
}
