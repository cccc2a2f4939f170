//! Whether a container that has ended had run out of memory, when its cgroup may be gone already.
//!
//! systemd takes a scope away as soon as nobody is in it, which may be before we hear that the last process ended, and
//! with the cgroup goes its count. Then two others are asked: what its watch had seen, and the pod's own cgroup, which
//! counts for all below it and stays. What that has counted since the container was made, and no other container of the
//! pod accounts for, was this one's. Where that cannot be said for certain, the container was not out of memory.

use crate::container::Container;
use crate::handler;
use crate::life::Life;

/// What a shell says of a process that SIGKILL ended, which is how the kernel makes room.
const KILLED: i32 = 128 + 9;

/// How many of its processes the kernel killed for want of memory.
pub(crate) fn kills<'a>(container: &Container, code: i32, all: impl Iterator<Item = &'a Container>) -> u64 {
    let cgroup = container.record.cgroup.as_deref();
    if let Some(kills) = handler::oom_kills(cgroup) {
        return kills;
    }
    let seen = container.oom.as_ref().map_or(0, |watch| watch.seen());
    let Some(pod_now) = cgroup.and_then(pod_kills).filter(|_| seen == 0 && code == KILLED) else {
        return seen;
    };
    let others: Option<u64> = all.filter(|other| other.key != container.key).map(of_another).sum();
    others.map_or(0, |others| unexplained(container.pod_oom_kills, pod_now, others))
}

/// What another container of the pod accounts for; `None` when that is not known any more.
fn of_another(other: &Container) -> Option<u64> {
    match handler::oom_kills(other.record.cgroup.as_deref()) {
        Some(kills) => Some(kills),
        None => match other.life {
            Life::Exited(exit) if exit.oom_killed => None,
            _ => Some(0),
        },
    }
}

fn unexplained(pod_before: u64, pod_now: u64, others: u64) -> u64 {
    pod_now.saturating_sub(pod_before).saturating_sub(others)
}

/// What the cgroup around a scope has counted, when that is a pod's own: the kubelet's names say so.
pub(crate) fn pod_kills(cgroup: &str) -> Option<u64> {
    handler::oom_kills(Some(pod_slice(cgroup)?))
}

fn pod_slice(cgroup: &str) -> Option<&str> {
    let (slice, scope) = cgroup.rsplit_once('/')?;
    let name = slice.rsplit('/').next()?.strip_suffix(".slice")?;
    let is_pods = name.rsplit('-').next().is_some_and(|last| last.len() > 3 && last.starts_with("pod"));
    (scope.ends_with(".scope") && is_pods).then_some(slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pods_own_slice_tells_of_its_containers() {
        let own = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod12_ab.slice";
        assert_eq!(pod_slice(&format!("{own}/cri-berth-1.scope")), Some(own));
        for shared in [
            "/system.slice/cri-berth-1.scope",
            "/kubepods.slice/cri-berth-1.scope",
            "/kubepods.slice/kubepods-pod1.slice/berth-1",
            "/kubepods/pod1/berth-1",
            "x",
        ] {
            assert_eq!(pod_slice(shared), None, "{shared}");
        }
    }

    #[test]
    fn kills_that_another_container_accounts_for_are_not_this_ones() {
        let check = |before, now, others, own| assert_eq!(unexplained(before, now, others), own);
        check(0, 0, 0, 0);
        check(0, 1, 0, 1);
        check(2, 3, 0, 1);
        check(0, 1, 1, 0);
        // Another's from before the watch began: less is said then, never more.
        check(1, 2, 1, 0);
    }
}
