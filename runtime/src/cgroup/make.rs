//! Making a cgroup's directories and writing its limits, at first and later.

use std::path::Path;

use super::apply::{self, Made};
use super::before::Before;
use super::device_rules::changed_policy;
use super::devices::Policy;
use super::layout::Version;
use super::limits::{self, Write};
use super::{Cgroup, Error, files, processes};
use crate::spec::Resources;

impl Cgroup {
    /// Changes the limits that are given, and no others. What had been changed before one was refused is written back.
    ///
    /// # Errors
    /// A limit is not possible here, or the kernel's answer.
    pub fn update(&self, resources: &Resources) -> Result<(), Error> {
        self.change(resources).map(drop)
    }

    /// The same, answering with what brings the earlier limits back.
    pub(crate) fn change(&self, resources: &Resources) -> Result<Before, Error> {
        let writes = self.plan(resources)?;
        let policy = changed_policy(&resources.devices)?;
        self.refuse_less_than_used(resources)?;
        let before = self.before(&writes);
        self.scope
            .as_ref()
            .map_or(Ok(()), |scope| scope.update(&writes))
            .and_then(|()| self.write(&writes))
            .and_then(|()| policy.map_or(Ok(()), |policy| self.set_devices(&policy)))
            .inspect_err(|_| self.put_back(&before))?;
        Ok(before)
    }

    pub(super) fn make(&mut self, resources: &Resources, made: &mut Made) -> Result<(), Error> {
        let mut writes = self.plan_now(resources)?;
        let policy = Policy::read(&resources.devices)?;
        for hierarchy in &self.layout.hierarchies {
            let dir = made.make(&hierarchy.root, &self.path)?;
            if !made.is_new(&dir) {
                refuse_in_use(&dir)?;
            }
            if made.is_new(&dir) {
                writes.retain(|write| !(write.is_what_is() && hierarchy.has(&write.controller)));
            }
            if hierarchy.version == Version::V1 && hierarchy.has("cpuset") {
                apply::inherit_cpuset(&hierarchy.root, &dir, &self.written)?;
            }
        }
        self.pass_controllers_down_for(&writes)?;
        self.write(&writes)?;
        self.open_to_join()?;
        self.confine_to_devices(&policy, &resources.devices)
    }

    /// All but what would keep the container from being made; that is left for later.
    pub(super) fn plan_now(&mut self, resources: &Resources) -> Result<Vec<Write>, Error> {
        let (late, now) = self.plan(resources)?.into_iter().partition(Write::leaves_no_room);
        self.late = late;
        Ok(now)
    }

    /// Once the container is made, and before anything of its own runs.
    ///
    /// # Errors
    /// The kernel's answer, or systemd's.
    pub(crate) fn write_late(&self) -> Result<(), Error> {
        if self.late.is_empty() {
            return Ok(());
        }
        self.pass_controllers_down_for(&self.late)?;
        self.scope.as_ref().map_or(Ok(()), |scope| scope.update(&self.late))?;
        self.write(&self.late)
    }

    pub(super) fn plan(&self, resources: &Resources) -> Result<Vec<Write>, Error> {
        let version = |controller: &str| self.layout.serving(controller).map(|hierarchy| hierarchy.version);
        let mut writes = limits::plan(resources, &version)?;
        if self.layout.is_hybrid() {
            // A controller of cgroup2 beside v1 has to be switched on from the root down, and can then not be
            // mounted as v1: only for a limit that must be held, not for the kubelet's zeros.
            let needed: Vec<String> =
                writes.iter().filter(|w| w.must_hold()).map(|w| w.controller.clone()).collect();
            writes.retain(|w| version(&w.controller) != Some(Version::V2) || needed.contains(&w.controller));
        }
        Ok(writes)
    }

    /// On v2 alone every controller, so that usage is counted; beside v1, and where systemd decides what slices
    /// pass on, those that have something to write.
    pub(super) fn pass_controllers_down_for(&self, writes: &[Write]) -> Result<(), Error> {
        let Some(unified) = self.layout.unified() else { return Ok(()) };
        let is_v1 = |write: &Write| {
            self.layout.serving(&write.controller).is_some_and(|by| by.version == Version::V1)
        };
        if self.layout.is_hybrid() && writes.iter().all(is_v1) {
            return Ok(());
        }
        let asked = |controller: &str| writes.iter().any(|write| write.controller == controller);
        let all = !self.layout.is_hybrid() && self.scope.is_none();
        let wanted: Vec<&str> =
            unified.controllers().iter().map(String::as_str).filter(|c| all || asked(c)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let outcome = apply::pass_controllers_down(&unified.root, &self.path, &wanted);
        // One that is only for counting can be done without.
        let needed = writes.iter().any(|write| write.must_hold() && unified.has(&write.controller));
        if needed { outcome } else { Ok(()) }
    }

    pub(super) fn write(&self, writes: &[Write]) -> Result<(), Error> {
        for group in writes.chunk_by(|one, other| one.controller == other.controller) {
            let Some(hierarchy) = self.layout.serving(&group[0].controller) else { continue };
            apply::write_limits(&self.dir(hierarchy), &group.iter().collect::<Vec<_>>(), &self.written)?;
        }
        Ok(())
    }

    /// `memory.checkBeforeUpdate`: v2 takes a limit below what is used and kills to reach it.
    fn refuse_less_than_used(&self, resources: &Resources) -> Result<(), Error> {
        let Some(memory) =
            resources.memory.as_ref().filter(|memory| memory.check_before_update == Some(true))
        else {
            return Ok(());
        };
        let Some(v2) = self.layout.serving("memory").filter(|hierarchy| hierarchy.version == Version::V2)
        else {
            return Ok(());
        };
        let used =
            files::read(&self.dir(v2), "memory.current").ok().and_then(|used| used.parse::<i64>().ok());
        match (memory.limit, used) {
            (Some(limit @ 1..), Some(used)) if limit < used => {
                Err(Error::Invalid { field: "memory.limit", reason: "is less than the container uses now" })
            }
            _ => Ok(()),
        }
    }
}

/// A directory left behind by somebody may be taken over; one with processes may not: limits would hit them.
fn refuse_in_use(dir: &Path) -> Result<(), Error> {
    let pids = processes::pids(dir)?;
    if pids.is_empty() { Ok(()) } else { Err(Error::Busy { dir: dir.to_owned(), pids }) }
}
