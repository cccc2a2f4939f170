//! What criu wants to know of a container's cgroup.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::layout::{Hierarchy, Version};
use super::{Cgroup, Error, files};

impl Cgroup {
    /// The directory by which its processes are frozen.
    #[must_use]
    pub fn freezer_dir(&self) -> Option<PathBuf> {
        self.freezer().ok().map(|(_, dir)| dir)
    }

    /// Takes a process and its children, which are in it as visitors, to where we are ourselves, as far as freezing
    /// goes: on v2 that is altogether.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn let_out(&self, pid: i32) -> Result<(), Error> {
        let v1 = self.layout.serving("freezer").map(|hierarchy| (hierarchy, "freezer"));
        let Some((hierarchy, controller)) = v1.or_else(|| self.layout.unified().map(|unified| (unified, "")))
        else {
            return Ok(());
        };
        let own = own_path(controller).unwrap_or_default();
        let dir = hierarchy.root.join(own.trim_start_matches('/'));
        for pid in [pid].into_iter().chain(children(pid)) {
            move_to(&dir, pid)?;
        }
        Ok(())
    }

    /// Tells it to freeze, and does not wait until its processes have stopped: some may be held by a tracer.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn begin_to_freeze(&self) -> Result<(), Error> {
        let (freezer, dir) = self.freezer()?;
        freezer.begin(&dir)
    }

    /// The root of the container's tree by controller, as /proc/PID/cgroup names them: cgroup2 has no name there.
    #[must_use]
    pub fn roots(&self) -> Vec<(String, String)> {
        self.layout.hierarchies.iter().flat_map(names).map(|name| (name, self.path())).collect()
    }
}

/// A named hierarchy has no controller, and is mounted under its name.
fn names(hierarchy: &Hierarchy) -> Vec<String> {
    if hierarchy.version == Version::V2 {
        return vec![String::new()];
    }
    if !hierarchy.controllers().is_empty() {
        return hierarchy.controllers().to_vec();
    }
    let name = hierarchy.root.file_name().map(|name| format!("name={}", name.to_string_lossy()));
    name.into_iter().collect()
}

fn move_to(dir: &Path, pid: i32) -> Result<(), Error> {
    const FILE: &str = "cgroup.procs";
    match files::write(dir, FILE, &pid.to_string()) {
        // It has ended.
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(source) => Err(Error::Kernel { doing: "writing", object: dir.join(FILE), source }),
    }
}

/// Where we are in the hierarchy that serves a controller; cgroup2 has none to its name.
fn own_path(controller: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let paths = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let mut found = paths.filter(|(names, _)| names.split(',').any(|name| name == controller));
    found.next().map(|(_, path)| path.to_owned())
}

fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
