//! The systemd driver: a container is a transient scope, which systemd makes and takes away when asked.
//!
//! Below its scope (`Delegate=yes`) a container has a cgroup of its own, `container`, made and limited by us as
//! with the cgroupfs driver: the scope's own files are systemd's to write, and what a container sees in
//! /sys/fs/cgroup are its limits. Limits that systemd has a property for are the scope's too.
//!
//! The client is our own, some 400 lines: what there is for D-Bus is asynchronous or links libdbus, and would be
//! larger than the rest of the runtime. `name`, `property` and `variant` decide; `wire` is bytes; `bus` talks.

mod bus;
mod keeper;
mod name;
mod near;
mod property;
mod variant;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::apply::{self, Made};
use super::device_rules::policy;
use super::limits::Write;
use super::{Cgroup, Error, files};
use crate::spec::Resources;
use bus::{Bus, Manager};
pub(super) use keeper::Keeper;
use property::Property;
use wire::Value;

/// The container's own cgroup in its scope; crun's name for it, which monitoring agents know.
const SUB_CGROUP: &str = "container";
/// Annotations that are properties of the scope, with their values as GVariant text.
const ANNOTATION: &str = "org.systemd.property.";
/// A container without one of these would be no container of ours.
const OURS: [&str; 3] = ["PIDs", "Slice", "Delegate"];
const SECOND_US: f64 = 1_000_000.0;

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

    fn properties(&self, keeper: &Keeper, writes: &[Write]) -> Result<Vec<Property>, Error> {
        let own = |name: &str, value: Value| (name.to_owned(), value);
        let mut all = vec![
            own("Description", Value::text(&self.description)),
            own("Slice", Value::text(&self.slice)),
            own("Delegate", Value::Bool(true)),
            // Otherwise systemd would end containers at the begin of a shutdown, before their engine can.
            own("DefaultDependencies", Value::Bool(false)),
            own("PIDs", Value::Array("u".into(), vec![Value::U32(keeper.pid())])),
        ];
        all.extend(property::properties(writes)?);
        all.extend(self.properties.iter().cloned());
        Ok(all)
    }

    /// Makes the scope with a process that keeps it, and answers its cgroup below the root of cgroups.
    fn start(&self, keeper: &Keeper, writes: &[Write]) -> Result<String, Error> {
        let unit = &self.scope.unit;
        let properties = self.properties(keeper, writes)?;
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
        self.scope.cgroup_of(keeper)
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
    fn cgroup_of(&self, keeper: &Keeper) -> Result<String, Error> {
        let pid = keeper.pid();
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

impl Cgroup {
    /// The same as `create` in a scope that systemd makes for it.
    ///
    /// # Errors
    /// cgroup2 is not alone on this node, systemd refuses, or as `create`.
    pub fn create_in_scope(plan: &ScopePlan, resources: &Resources) -> Result<Cgroup, Error> {
        let mut cgroup = Cgroup::at(&plan.cgroup_path())?.in_scope(Some(plan.scope.clone()));
        if cgroup.layout.is_hybrid() || cgroup.layout.unified().is_none() {
            return Err(Error::NotUnified);
        }
        let writes = cgroup.plan_now(resources)?;
        let policy = policy(&resources.devices)?;
        let keeper = cgroup.keeper(None)?;
        let scope_path = plan.start(&keeper, &writes)?;
        if let Err(error) = plan.scope.come_near(&scope_path) {
            let _ = plan.scope.stop();
            return Err(error);
        }
        cgroup.path = format!("{scope_path}/{SUB_CGROUP}");
        let mut made = Made::default();
        let settled = cgroup
            .settle(&scope_path, keeper, &writes, &mut made)
            .and_then(|()| policy.map_or(Ok(()), |policy| cgroup.set_devices(&policy)));
        match settled {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                cgroup.release_keeper();
                made.undo();
                // Why it failed is what the caller wants to hear; without processes it goes by itself, too.
                let _ = plan.scope.stop();
                Err(error)
            }
        }
    }

    /// One keeper after another, as no cgroup may have both processes and controllers for those below it.
    fn settle(
        &mut self,
        scope_path: &str,
        first: Keeper,
        writes: &[Write],
        made: &mut Made,
    ) -> Result<(), Error> {
        let root = self.layout.unified().ok_or(Error::NotUnified)?.root.clone();
        made.make(&root, &self.path)?;
        self.open_to_join()?;
        self.keeper = Some(self.keeper(self.unified_dir())?);
        drop(first);
        // A limit that needs one which is refused here will say so at its own file.
        let _ = apply::pass_own_controllers_down(&root.join(scope_path));
        self.pass_controllers_down_for(writes)?;
        self.write(writes)
    }

    /// The container is in it: nobody else need be.
    pub(crate) fn release_keeper(&mut self) {
        drop(self.keeper.take());
    }

    fn keeper(&self, cgroup: Option<std::os::fd::BorrowedFd<'_>>) -> Result<Keeper, Error> {
        let at = |source: Errno| Error::Kernel {
            doing: "cloning a process to keep",
            object: self.path.clone().into(),
            source,
        };
        Keeper::new(cgroup).map_err(at)
    }

    /// A cgroup that is in a scope, if it is in one.
    #[must_use]
    pub fn in_scope(mut self, scope: Option<Scope>) -> Cgroup {
        self.scope = scope;
        self
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

fn annotated(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>, Error> {
    let named = annotations.iter().filter_map(|(key, text)| Some((key.strip_prefix(ANNOTATION)?, text)));
    named.map(|(name, text)| annotated_one(name, text)).collect()
}

fn annotated_one(name: &str, text: &str) -> Result<Property, Error> {
    let refuse = |reason| Error::Annotation { key: format!("{ANNOTATION}{name}"), reason };
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_plain || !name.starts_with(|first: char| first.is_ascii_uppercase()) {
        return Err(refuse("names no property of a unit"));
    }
    if OURS.contains(&name) {
        return Err(refuse("is the runtime's own property"));
    }
    let value = variant::parse(text).ok_or_else(|| refuse("has no value in GVariant's text format"))?;
    match name.strip_suffix("Sec") {
        // Unit files have seconds; the properties behind them are in microseconds.
        Some(stem) if !name.ends_with("USec") => {
            let value = microseconds(&value).ok_or_else(|| refuse("is no number of seconds"))?;
            Ok((format!("{stem}USec"), Value::U64(value)))
        }
        _ => Ok((name.to_owned(), value)),
    }
}

fn microseconds(value: &Value) -> Option<u64> {
    let seconds = match value {
        Value::Double(seconds) => *seconds,
        Value::I32(seconds) => f64::from(*seconds),
        Value::U32(seconds) => f64::from(*seconds),
        Value::I64(seconds) => *seconds as f64,
        Value::U64(seconds) => *seconds as f64,
        _ => return None,
    };
    (seconds >= 0.0).then_some((seconds * SECOND_US) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotation(key: &str, value: &str) -> Result<Vec<Property>, Error> {
        annotated(&[(key.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn annotations_are_properties() {
        let check = |key: &str, text: &str, name: &str, value: Value| {
            assert_eq!(annotation(key, text).unwrap(), [(name.to_owned(), value)]);
        };
        check(
            "org.systemd.property.CollectMode",
            "'inactive-or-failed'",
            "CollectMode",
            Value::text("inactive-or-failed"),
        );
        check(
            "org.systemd.property.TimeoutStopUSec",
            "uint64 5000000",
            "TimeoutStopUSec",
            Value::U64(5_000_000),
        );
        check("org.systemd.property.TimeoutStopSec", "1.5", "TimeoutStopUSec", Value::U64(1_500_000));
        assert_eq!(annotation("org.systemd.propertyX", "1").unwrap(), []);
    }

    #[test]
    fn an_annotation_that_is_no_property_is_refused() {
        for (key, value) in [
            ("org.systemd.property.", "1"),
            ("org.systemd.property.A-b", "1"),
            ("org.systemd.property.Slice", "'x.slice'"),
            ("org.systemd.property.PIDs", "@au [1]"),
            ("org.systemd.property.Wants", "x.service"),
            ("org.systemd.property.TimeoutStopSec", "'soon'"),
            ("org.systemd.property.TimeoutStopSec", "-1"),
        ] {
            let error = annotation(key, value).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn the_systems_manager_puts_a_container_below_its_scope() {
        let plan = ScopePlan::of(Some("a-b.slice:p:x"), "c1", &BTreeMap::new()).unwrap();
        assert_eq!(plan.cgroup_path(), "/a.slice/a-b.slice/p-x.scope/container");
    }
}
