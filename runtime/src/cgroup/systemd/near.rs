//! How an ordinary user's runtime gets near the scopes of the user's manager. The kernel lets nobody put a process into
//! a cgroup unless the cgroup that this one and the process's own have in common is theirs too (cgroup-v2.rst, Delegation
//! Containment). A login's session is not the user's, so who comes from there first has itself moved below the manager.

use super::super::{Error, files};
use super::bus::{Bus, Manager};
use super::property::Property;
use super::wire::Value;
use super::{Failure, Scope, pairs};
use std::path::Path;

impl Scope {
    /// To be called before a process is born in the scope's cgroup, which is `path`. Moves this process into a scope of its
    /// own where it must; that scope ends with it.
    pub(crate) fn come_near(&self, path: &str) -> Result<(), Error> {
        if !self.user || is_near(&own_cgroup(), path) {
            return Ok(());
        }
        let pid = std::process::id();
        let near = Scope { unit: format!("berth-runtime-{pid}.scope"), user: true };
        near.start_with(pid).map_err(|e| near.failed("moving this process into", e))
    }

    fn start_with(&self, pid: u32) -> Result<(), Failure> {
        let properties: Vec<Property> = vec![
            ("Description".into(), Value::text("berth-runtime")),
            ("CollectMode".into(), Value::text("inactive-or-failed")),
            ("PIDs".into(), Value::Array("u".into(), vec![Value::U32(pid)])),
        ];
        let none = Value::Array("(sa(sv))".into(), Vec::new());
        let arguments = [Value::text(&self.unit), Value::text("fail"), pairs(properties), none];
        let mut bus = Bus::connect(Manager::User, &self.unit)?;
        bus.ask("StartTransientUnit", &arguments)?;
        bus.wait_for_job(&self.unit)
    }
}

/// Empty where it can't be told: then it is not near.
fn own_cgroup() -> String {
    let lines = files::read(Path::new("/proc/self"), "cgroup").unwrap_or_default();
    lines.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned()
}

/// Whether both are below the same user's manager. A path that shows none is from inside a cgroup namespace or of a
/// manager that is nobody's login's, and there is nothing to come near to.
fn is_near(own: &str, path: &str) -> bool {
    manager_of(path).is_none_or(|manager| manager_of(own) == Some(manager))
}

/// `user.slice/user-7.slice/user@7.service` of what is below it.
fn manager_of(path: &str) -> Option<&str> {
    let path = path.trim_start_matches('/');
    let start = path.find("user@")?;
    let end = start + path[start..].find(".service/")? + ".service".len();
    Some(&path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_who_is_below_the_same_manager() {
        let scope = "user.slice/user-7.slice/user@7.service/user.slice/berth-x.scope";
        let check = |own: &str, near: bool| assert_eq!(is_near(own, scope), near, "{own}");
        check("user.slice/user-7.slice/user@7.service/app.slice/run-1.scope", true);
        check("user.slice/user-7.slice/session-3.scope", false);
        check("user.slice/user-8.slice/user@8.service/app.slice/run-1.scope", false);
        check("system.slice/ssh.service", false);
        check("", false);
        assert!(is_near("system.slice/x.service", "user.slice/berth-x.scope"));
    }
}
