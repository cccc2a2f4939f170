//! Intel RDT (and AMD QoS): the container's processes in a class of service of the resctrl file system
//! (Documentation/filesystems/resctrl.rst; config-linux.md, "IntelRdt").
//!
//! A class is a directory, made and joined like a cgroup. One that bears the container's id is its own and goes
//! with it; a named one is shared and stays. Without `intelRdt` in the configuration nothing here is called.

mod change;
mod schemata;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::mountinfo;
use crate::plan::{Class, RdtPlan};

const FIELD: &str = "linux.intelRdt";

/// The container's directories in resctrl: what its record keeps, for exec and delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Groups {
    class: PathBuf,
    monitor: Option<PathBuf>,
    /// `class` goes with the container.
    own: bool,
    /// `monitor` was there before the container, and does not go with it.
    #[serde(default)]
    found_monitor: bool,
}

/// Where resctrl is mounted: the first such line of the mount table.
pub(crate) fn root() -> Result<PathBuf, Error> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| Error::step("reading", "/proc/self/mountinfo", e))?;
    mounted(&mounts)
        .ok_or_else(|| Error::unsupported(FIELD, "no resctrl file system is mounted on this node"))
}

fn mounted(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        back.starts_with("resctrl ")
            .then(|| front.split(' ').nth(4).map(|place| mountinfo::path(place.as_bytes())))?
    })
}

impl Groups {
    /// Only the names; nothing is made. What is there already was somebody else's before, and stays theirs: also when
    /// the container can't be made because of it.
    pub(crate) fn of(root: &Path, id: &str, plan: &RdtPlan) -> Groups {
        let class = match &plan.class {
            Class::Default => root.to_owned(),
            Class::Named(name) => root.join(name),
            Class::Own => root.join(id),
        };
        let monitor = plan.monitoring.then(|| class.join("mon_groups").join(id));
        let own = plan.class == Class::Own && !class.exists();
        let found_monitor = monitor.as_ref().is_some_and(|dir| dir.exists());
        Groups { class, monitor, own, found_monitor }
    }

    /// Makes what is missing and writes the schemata; undone wholly on failure.
    pub(crate) fn make(&self, plan: &RdtPlan) -> Result<(), Error> {
        let is_new = self.make_class(plan)?;
        let made = self.fill(plan, is_new).and_then(|()| self.make_monitor());
        if made.is_err() && is_new {
            let _ = fs::remove_dir(&self.class);
        }
        made
    }

    /// Whether the class was made. One that is there and only named may be joined; one that nobody has set up may
    /// not, unless the configuration says how.
    fn make_class(&self, plan: &RdtPlan) -> Result<bool, Error> {
        let names_only = plan.schemas.is_empty() && plan.schemata.is_empty();
        if plan.class == Class::Default {
            return Ok(false);
        }
        if names_only && matches!(plan.class, Class::Named(_)) {
            let there = self.class.is_dir();
            let refusal = || {
                let reason =
                    format!("{} does not exist, and no schema says how to make it", self.class.display());
                Error::invalid("linux.intelRdt.closID", reason)
            };
            return if there { Ok(false) } else { Err(refusal()) };
        }
        match fs::create_dir(&self.class) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(step("making the class", &self.class, error)),
        }
    }

    fn fill(&self, plan: &RdtPlan, is_new: bool) -> Result<(), Error> {
        let file = self.class.join("schemata");
        if !is_new && plan.class != Class::Default {
            let there = fs::read_to_string(&file).map_err(|e| step("reading", &file, e))?;
            let wanted = plan.schemas.iter().chain(&plan.schemata);
            return match wanted.into_iter().find(|line| !schemata::holds(&there, line)) {
                None => Ok(()),
                Some(line) => Err(Error::invalid(
                    FIELD,
                    format!("{} exists already, and its schemata are not {line:?}", self.class.display()),
                )),
            };
        }
        for lines in [&plan.schemas, &plan.schemata] {
            if !lines.is_empty() {
                self.write(&file, &(lines.join("\n") + "\n"))?;
            }
        }
        Ok(())
    }

    /// One that is there will do; it was somebody's before, and stays.
    fn make_monitor(&self) -> Result<(), Error> {
        let Some(dir) = &self.monitor else { return Ok(()) };
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(|e| step("making the monitoring group", dir, e)),
        }
    }

    /// Puts a process into its class, and then its monitoring group, which takes only those of its class.
    pub(crate) fn join(&self, pid: i32) -> Result<(), Error> {
        for dir in [Some(&self.class), self.monitor.as_ref()].into_iter().flatten() {
            self.write(&dir.join("tasks"), &pid.to_string())?;
        }
        Ok(())
    }

    /// What is gone already is gone.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let own = self.own.then_some(&self.class);
        let monitor = self.monitor.as_ref().filter(|_| !self.found_monitor);
        for dir in [monitor, own].into_iter().flatten() {
            match fs::remove_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|e| step("removing", dir, e))?,
            }
        }
        Ok(())
    }

    /// The kernel takes a value in one write, and says in a file of its own what was wrong with it.
    fn write(&self, file: &Path, text: &str) -> Result<(), Error> {
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(file)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| {
            let root = self.class.ancestors().find(|dir| dir.join("info").is_dir());
            let why = root.and_then(|root| fs::read_to_string(root.join("info/last_cmd_status")).ok());
            match why.as_deref().map(str::trim).filter(|why| !matches!(*why, "" | "ok")) {
                Some(why) => Error::invalid(FIELD, format!("writing {text:?} to {}: {why}", file.display())),
                None => step("writing", file, error),
            }
        })
    }
}

fn step(step: &'static str, path: &Path, error: io::Error) -> Error {
    Error::step(step, format!("{} ({FIELD})", path.display()), error)
}

#[cfg(test)]
mod tests;
