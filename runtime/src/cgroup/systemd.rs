//! The systemd driver: a container is a transient scope, which systemd makes and takes away when asked.
//!
//! Below its scope (`Delegate=yes`) a container has a cgroup of its own, `container`, made and limited by us as
//! with the cgroupfs driver: the scope's own files are systemd's to write, and what a container sees in
//! /sys/fs/cgroup are its limits. Limits that systemd has a property for are the scope's too.
//!
//! The client is our own, some 400 lines: what there is for D-Bus is asynchronous or links libdbus, and would be
//! larger than the rest of the runtime. `name`, `property` and `variant` decide; `wire` is bytes; `bus` talks.

mod annotation;
mod bus;
mod in_scope;
mod keeper;
mod name;
mod near;
mod property;
mod variant;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::limits::Write;
use super::{Error, files};
use annotation::annotated;
use bus::{Bus, Manager};
pub(super) use keeper::Keeper;
use property::Property;
use wire::Value;

/// The container's own cgroup in its scope; crun's name for it, which monitoring agents know.
const SUB_CGROUP: &str = "container";

/// Who makes a container's cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// The runtime, with directories.
    #[default]
    Cgroupfs,
    /// systemd, asked over D-Bus: the system's, or, without root's rights on the host, the caller's own.
    Systemd,
}

/// Why systemd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("connecting to {}; does systemd run here, and its message bus?", socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    #[error("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR says where the user's message bus is")]
    NoUserBus,
    #[error("talking over D-Bus")]
    Io(#[from] io::Error),
    #[error("{name}: {text}")]
    Refused { name: String, text: String },
    #[error("its job ended as {result}")]
    Job { result: String },
    #[error("a D-Bus message {0}")]
    Malformed(&'static str),
    #[error("systemd counts processes in another PID namespace: process {pid} is in {cgroup:?}")]
    Elsewhere { pid: u32, cgroup: String },
}

impl Failure {
    const CUT: Failure = Failure::Malformed("is cut off");

    /// Whether there is no such unit.
    fn is_absence(&self) -> bool {
        matches!(self, Failure::Refused { name, .. } if name == "org.freedesktop.systemd1.NoSuchUnit")
    }

    fn is_presence(&self) -> bool {
        matches!(self, Failure::Refused { name, .. } if name == "org.freedesktop.systemd1.UnitExists")
    }
}

/// A scope by its name, and whose manager has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    pub(crate) unit: String,
    /// The caller's own manager has it, not the system's.
    #[serde(default)]
    pub(crate) user: bool,
}

/// A scope to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct ScopePlan {
    pub(crate) scope: Scope,
    slice: String,
    description: String,
    /// Of annotations.
    properties: Vec<Property>,
}

impl ScopePlan {
    /// # Errors
    /// The path has not the form `SLICE:PREFIX:NAME`, or an annotation is no property.
    pub fn of(
        cgroups_path: Option<&str>,
        id: &str,
        annotations: &BTreeMap<String, String>,
    ) -> Result<ScopePlan, Error> {
        let user = !is_root_of_the_host();
        let default_slice = if user { "user.slice" } else { "system.slice" };
        let (slice, unit) = name::read(cgroups_path, id, default_slice)?;
        let properties = annotated(annotations)?;
        Ok(ScopePlan {
            scope: Scope { unit, user },
            slice,
            description: format!("Container {id}"),
            properties,
        })
    }

    /// Where the container's own cgroup will be, in the system's manager. Another's is found when it is made.
    #[must_use]
    pub fn cgroup_path(&self) -> String {
        format!("{}/{SUB_CGROUP}", self.scope_path())
    }

    /// Where the scope itself will be.
    #[must_use]
    pub fn scope_path(&self) -> String {
        format!("/{}", name::cgroup_path(&self.slice, &self.scope.unit))
    }

    /// The same plan, with other words for who looks at the units of the node.
    #[must_use]
    pub fn described(self, description: String) -> ScopePlan {
        ScopePlan { description, ..self }
    }

    /// Makes the scope with the caller in it, without limits; systemd takes it away when it is empty. Answers its cgroup,
    /// below the root of cgroups.
    ///
    /// # Errors
    /// systemd can't be asked, or refuses.
    pub fn enter(&self) -> Result<String, Error> {
        self.start(std::process::id(), &[])
    }

    fn properties(&self, pid: u32, writes: &[Write]) -> Result<Vec<Property>, Error> {
        let own = |name: &str, value: Value| (name.to_owned(), value);
        let mut all = vec![
            own("Description", Value::text(&self.description)),
            own("Slice", Value::text(&self.slice)),
            own("Delegate", Value::Bool(true)),
            // Otherwise systemd would end containers at the begin of a shutdown, before their engine can.
            own("DefaultDependencies", Value::Bool(false)),
            own("PIDs", Value::Array("u".into(), vec![Value::U32(pid)])),
        ];
        all.extend(property::properties(writes)?);
        all.extend(self.properties.iter().cloned());
        Ok(all)
    }

    /// Makes the scope with a process that keeps it, and answers its cgroup below the root of cgroups.
    fn start(&self, pid: u32, writes: &[Write]) -> Result<String, Error> {
        let unit = &self.scope.unit;
        let properties = self.properties(pid, writes)?;
        let arguments = [
            Value::text(unit),
            Value::text("fail"),
            pairs(properties),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        let mut bus = self.scope.connect()?;
        let mut made = bus.ask("StartTransientUnit", &arguments);
        if made.as_ref().is_err_and(Failure::is_presence) {
            // One that failed and that nobody has taken note of keeps its name.
            bus.tell("ResetFailedUnit", &[Value::text(unit)]).map_err(|e| self.scope.failed("making", e))?;
            made = bus.ask("StartTransientUnit", &arguments);
        }
        made.and_then(|()| bus.wait_for_job(unit)).map_err(|e| self.scope.failed("making", e))?;
        self.scope.cgroup_of(pid)
    }
}

impl Scope {
    /// Changes the properties that stand for these writes.
    pub(super) fn update(&self, writes: &[Write]) -> Result<(), Error> {
        let properties = property::properties(writes)?;
        if properties.is_empty() {
            return Ok(());
        }
        // Until the next boot, as the scope itself.
        let arguments = [Value::text(&self.unit), Value::Bool(true), pairs(properties)];
        let asked = self.connect()?.ask("SetUnitProperties", &arguments);
        asked.map_err(|e| self.failed("changing", e))
    }

    /// Takes it away with all that is in it; gone already is Ok.
    pub(super) fn stop(&self) -> Result<(), Error> {
        let unit = Value::text(&self.unit);
        let mut bus = self.connect()?;
        let stopped = match bus.ask("StopUnit", &[unit.clone(), Value::text("replace")]) {
            Ok(()) => bus.wait_for_job(&self.unit),
            Err(failure) if failure.is_absence() => return Ok(()),
            Err(failure) => Err(failure),
        };
        // One that has failed, as when the kernel killed a process of it, would stay known by its name.
        let forgotten = bus.tell("ResetFailedUnit", &[unit]);
        stopped.and(forgotten).map_err(|e| self.failed("stopping", e))
    }

    fn connect(&self) -> Result<Bus, Error> {
        let manager = if self.user { Manager::User } else { Manager::System };
        Bus::connect(manager, &self.unit).map_err(|e| self.failed("asking systemd for", e))
    }

    /// The cgroup that systemd has put the process into, which no name tells in a user's manager.
    fn cgroup_of(&self, pid: u32) -> Result<String, Error> {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let lines = files::read(&dir, "cgroup").map_err(|source| Error::Kernel {
            doing: "reading",
            object: dir.join("cgroup"),
            source,
        })?;
        let path = lines.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        if path.rsplit('/').next() == Some(&self.unit) {
            return Ok(path.to_owned());
        }
        Err(self.failed("making", Failure::Elsewhere { pid, cgroup: path.to_owned() }))
    }

    fn failed(&self, doing: &'static str, source: Failure) -> Error {
        Error::Systemd { doing, unit: self.unit.clone(), source }
    }
}

/// Whose user namespace maps every id onto itself. Anybody else has a manager of their own to ask.
fn is_root_of_the_host() -> bool {
    let whole = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
    rustix::process::geteuid().is_root() && std::fs::read_to_string("/proc/self/uid_map").is_ok_and(whole)
}

fn pairs(properties: Vec<Property>) -> Value {
    let pair =
        |(name, value): Property| Value::Struct(vec![Value::Text(name), Value::Variant(Box::new(value))]);
    Value::Array("(sv)".into(), properties.into_iter().map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_manager_puts_a_container_below_its_scope() {
        let plan = ScopePlan::of(Some("a-b.slice:p:x"), "c1", &BTreeMap::new()).unwrap();
        assert_eq!(plan.cgroup_path(), "/a.slice/a-b.slice/p-x.scope/container");
    }
}
