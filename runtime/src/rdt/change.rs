//! `update` of what a container has of caches and memory bandwidth.

use std::collections::BTreeSet;
use std::fs;

use super::Groups;
use crate::freeze::{cgroup_of, in_cgroup};
use crate::later::Later;
use crate::plan::{Class, RdtPlan};
use crate::spec::IntelRdt;
use crate::state::{Record, StateDir};
use crate::{Error, Runtime};

impl Runtime {
    /// What can be said of the change without making it.
    pub(crate) fn check_rdt(&self, record: &Record, change: &IntelRdt) -> Result<(), Error> {
        crate::plan::rdt(change)?;
        match &record.rdt {
            Some(groups) => groups.refuse_shared(),
            None => super::root().map(drop),
        }
    }

    /// Other lines for the schemata of a container's own class of service (`l3CacheSchema`, `memBwSchema` of
    /// config-linux.md, "IntelRdt"). One that has no class gets its own, with all its processes.
    ///
    /// # Errors
    /// `NotFound`, no resctrl is mounted, the class is shared with others, or the kernel refuses the lines.
    pub fn update_rdt(&self, id: &str, change: &IntelRdt) -> Result<(), Error> {
        let plan = crate::plan::rdt(change)?;
        let dir = StateDir::of(&self.root, id)?;
        let mut record = dir.read()?;
        if let Some(groups) = &record.rdt {
            return groups.change(&plan);
        }
        let groups = Groups::of(&super::root()?, id, &plan);
        record.rdt = Some(groups.clone());
        // Before it is there, so that whoever deletes the container finds it.
        dir.write(&record, &Later::default())?;
        let cgroup = cgroup_of(&record)?;
        let made = groups.make_around(&plan, || cgroup.pids().map_err(|e| in_cgroup(id, e)));
        if made.is_err() {
            // An exec would look for it.
            record.rdt = None;
            dir.write(&record, &Later::default())?;
        }
        made
    }
}

impl Groups {
    fn refuse_shared(&self) -> Result<(), Error> {
        if self.own {
            return Ok(());
        }
        let reason = format!(
            "{} is not this container's alone: change its schemata there, for all who are in it",
            self.class.display()
        );
        Err(Error::invalid("linux.intelRdt.closID", reason))
    }

    pub(super) fn change(&self, plan: &RdtPlan) -> Result<(), Error> {
        self.refuse_shared()?;
        self.fill(&RdtPlan { class: Class::Own, ..plan.clone() }, true)
    }

    /// Makes the class and takes these processes into it; undone wholly on failure.
    pub(super) fn make_around(
        &self,
        plan: &RdtPlan,
        processes: impl Fn() -> Result<Vec<i32>, Error>,
    ) -> Result<(), Error> {
        self.make(plan)?;
        self.join_all(processes).inspect_err(|_| {
            // Its processes go back to where they were; the first error says more than a second.
            let _ = self.remove();
        })
    }

    /// Thread by thread, as the kernel takes them, until a look at the processes finds no new one.
    pub(super) fn join_all(&self, processes: impl Fn() -> Result<Vec<i32>, Error>) -> Result<(), Error> {
        let mut joined = BTreeSet::new();
        loop {
            let threads: Vec<i32> = processes()?.into_iter().flat_map(threads_of).collect();
            let new: Vec<i32> = threads.into_iter().filter(|thread| !joined.contains(thread)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for thread in new {
                match self.join(thread) {
                    // It ended meanwhile.
                    Err(_) if !fs::exists(format!("/proc/{thread}")).unwrap_or(true) => {}
                    other => other?,
                }
                joined.insert(thread);
            }
        }
    }
}

/// None, of a process that has ended.
pub(super) fn threads_of(pid: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
