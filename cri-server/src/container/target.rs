//! The container that an ephemeral one asks to see: its PID namespace is found by the number of its first process, which
//! must be that process until the namespace was joined.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::make::Order;
use crate::error::{Error, Noun};
use crate::node::Node;

const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

#[derive(Debug)]
pub(super) struct Target {
    pub(super) pid: i32,
    pidfd: OwnedFd,
    id: String,
}

impl Target {
    /// One of another pod is none, and neither is one that does not run.
    pub(super) fn find(node: &Node, order: &Order) -> Option<Target> {
        let security = order.config.linux.as_ref()?.security_context.as_ref()?;
        let id = &security.namespace_options.as_ref()?.target_id;
        let target = node.world.now().container(id).ok()?;
        let ours = target.facts.sandbox_id == order.sandbox.id && target.life.is_running();
        let pid = target.life.pid().filter(|_| ours)?;
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let id = target.facts.id.to_string();
        is_in(pid, &target.facts.made.plan.cgroup_path).then_some(Target { pid, pidfd, id })
    }

    /// As long as it runs its number is no other's, so what was found by it is its own.
    ///
    /// # Errors
    /// When it has ended: what was joined may be anybody's.
    pub(super) fn must_run(&self) -> Result<(), Error> {
        let has_ended = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&NO_TIME)) != Ok(0);
        if has_ended {
            let why = "ended as its processes were to be shown to another";
            return Err(Error::State { noun: Noun::Container, id: self.id.clone(), why });
        }
        Ok(())
    }
}

/// Whether the process is in the container's cgroup, or below it. Its number may have become another's meanwhile.
fn is_in(pid: i32, cgroup: &str) -> bool {
    // HIERARCHY:CONTROLLERS:PATH
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| holds(path, cgroup))
}

/// Whether the path has these names, whole ones and in their order; a node that is a container itself sees more above.
fn holds(path: &str, cgroup: &str) -> bool {
    let names = cgroup.trim_matches('/');
    !names.is_empty() && format!("{path}/").contains(&format!("/{names}/"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_target_that_has_ended_is_none() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().cast_signed();
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        let target = Target { pid, pidfd, id: "c1".into() };
        target.must_run().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(target.must_run().unwrap_err().to_string().contains("c1"));
    }

    #[test]
    fn a_process_of_another_cgroup_is_not_the_containers() {
        let pid = std::process::id().cast_signed();
        assert!(!is_in(pid, "/berth/6b1e0c2d"));
        assert!(!is_in(pid, ""));
        assert!(!is_in(i32::MAX, "/"));
        assert!(holds("/pods/batch/web", "pods/batch/web"));
        assert!(holds("/outer/pods/batch/web/init", "pods/batch/web"));
        assert!(!holds("/pods/batch/webserver", "pods/batch/web"));
        assert!(!holds("/morepods/batch/web", "pods/batch/web"));
    }
}
