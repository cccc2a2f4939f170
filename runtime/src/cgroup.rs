//! A container's cgroup, in every hierarchy that the node has.
//!
//! On a node with cgroup v1 the container joins each hierarchy by writing to its `tasks` file from inside,
//! and cgroup2, where it is mounted beside v1 or alone, by being born there (CLONE_INTO_CGROUP). Neither
//! takes the kernel's lock over all threads, whose first taking after a quiet spell waits 8 to 14 ms for an
//! RCU grace period; nothing here writes to `cgroup.procs`.
//!
//! `path`, `limits` and `devices` decide what to write; `make`, `apply`, `before`, `device_rules`, `members`, `processes` and
//! `remove` perform.

mod apply;
mod before;
mod beside;
mod delegate;
mod device_rules;
mod devices;
mod error;
mod files;
mod images;
mod lacking;
mod layout;
mod limits;
mod make;
mod members;
mod oom;
mod path;
mod processes;
mod remove;
pub mod stats;
mod systemd;

#[cfg(feature = "fuzzing")]
pub(crate) use layout::read_tables;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

pub use beside::SubCgroup;
pub use error::Error;
pub use oom::OomWatch;
pub use systemd::{Driver, Failure, Scope, ScopePlan};

use crate::spec::Resources;
use apply::Made;
use files::Held;
pub(crate) use lacking::has_limits;
use layout::{Hierarchy, Layout, Version};
use limits::Write;
pub(crate) use path::check_path;
use path::checked;
use systemd::Keeper;

/// One cgroup path in all hierarchies.
#[derive(Debug)]
pub struct Cgroup {
    layout: &'static Layout,
    /// Without the slash in front, so that it can be joined to a root.
    path: String,
    unified: Option<OwnedFd>,
    tasks: Vec<OwnedFd>,
    /// systemd's unit that it is in.
    scope: Option<Scope>,
    /// Holds a scope until the container is in it.
    keeper: Option<Keeper>,
    /// Files that have been written, to be closed with the others.
    written: Held,
    /// Limits that wait until the container is made: `write_late`.
    late: Vec<Write>,
}

/// Where a cgroup is in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The mount point, such as `/sys/fs/cgroup/memory`.
    pub root: PathBuf,
    pub dir: PathBuf,
    /// A cgroup2 hierarchy.
    pub unified: bool,
}

impl Cgroup {
    /// Makes the directories and writes the limits; undone wholly on failure. Ready to be joined.
    ///
    /// # Errors
    /// The path or a limit is not possible here, the cgroup is in use, or the kernel's answer.
    pub fn create(path: &str, resources: &Resources) -> Result<Cgroup, Error> {
        let written = Held::default();
        let presumed = Layout::presumed(&written)?;
        let error = match Cgroup::create_in(presumed, path, resources, written) {
            Ok(cgroup) => {
                presumed.prove();
                return Ok(cgroup);
            }
            Err(error) => error,
        };
        match Layout::of_node()? {
            known if known == presumed => Err(error),
            // The hierarchies are elsewhere.
            known => Cgroup::create_in(known, path, resources, Held::default()),
        }
    }

    fn create_in(
        layout: &'static Layout,
        path: &str,
        resources: &Resources,
        written: Held,
    ) -> Result<Cgroup, Error> {
        let mut cgroup = Cgroup { written, ..Cgroup::of(layout, path)? };
        let mut made = Made::default();
        match cgroup.make(resources, &mut made) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                made.undo();
                Err(error)
            }
        }
    }

    /// An existing cgroup, opened to be joined (exec).
    ///
    /// # Errors
    /// It does not exist, or the kernel's answer.
    pub fn open(path: &str) -> Result<Cgroup, Error> {
        let mut cgroup = Cgroup::at(path)?;
        cgroup.open_to_join()?;
        Ok(cgroup)
    }

    /// An existing cgroup that nobody will join through this value (kill, delete, pids): opens nothing.
    ///
    /// # Errors
    /// The path is none, or the node has no cgroups.
    pub fn at(path: &str) -> Result<Cgroup, Error> {
        if path.is_empty() {
            return Ok(Cgroup::none());
        }
        Cgroup::of(Layout::of_node()?, path)
    }

    fn of(layout: &'static Layout, path: &str) -> Result<Cgroup, Error> {
        Ok(Cgroup::new(layout, checked(path)?))
    }

    fn new(layout: &'static Layout, path: String) -> Cgroup {
        let written = Held::default();
        let (tasks, late) = (Vec::new(), Vec::new());
        Cgroup { layout, path, unified: None, tasks, scope: None, keeper: None, written, late }
    }

    /// From the root of each hierarchy, with a slash in front.
    #[must_use]
    pub fn path(&self) -> String {
        if self.is_none() { String::new() } else { format!("/{}", self.path) }
    }

    /// Gives it to a user of the host, on a node with cgroup2 alone: v1 cannot be delegated safely.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn give_to(&self, uid: u32) -> Result<(), Error> {
        match self.layout.unified().filter(|_| !self.layout.is_hybrid()) {
            Some(unified) => delegate::give(&self.dir(unified), uid),
            None => Ok(()),
        }
    }

    /// The cgroup2 directory, for clone3(CLONE_INTO_CGROUP).
    #[must_use]
    pub fn unified_dir(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(OwnedFd::as_fd)
    }

    /// The cgroup2 directory that a process of the container is in by now. A systemd in a container moves
    /// everything below its own cgroup, and the kernel then lets nobody into the container's (EBUSY).
    ///
    /// # Errors
    /// The process is not in this cgroup or below it, or the kernel's answer.
    pub fn unified_dir_of(&self, pid: i32) -> Result<OwnedFd, Error> {
        let unified = self.layout.unified().ok_or(Error::NoCgroups)?;
        let proc_dir = PathBuf::from(format!("/proc/{pid}"));
        let lines = files::read(&proc_dir, "cgroup").map_err(|source| Error::Kernel {
            doing: "reading",
            object: proc_dir.join("cgroup"),
            source,
        })?;
        let path = lines.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        if !Path::new(path).starts_with(&self.path) || path.contains("/../") {
            return Err(Error::Path {
                path: self.path.clone(),
                reason: "is not where the container's process is",
            });
        }
        open(&unified.root.join(path), OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The open `tasks` files of v1: the single-threaded child writes "0" to each.
    #[must_use]
    pub fn task_files(&self) -> &[OwnedFd] {
        &self.tasks
    }

    /// Its directory in each hierarchy, for a container that mounts cgroups.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let place = |hierarchy: &Hierarchy| Place {
            root: hierarchy.root.clone(),
            dir: self.dir(hierarchy),
            unified: hierarchy.version == Version::V2,
        };
        self.layout.hierarchies.iter().map(place).collect()
    }

    /// All that it holds open.
    pub(crate) fn into_fds(self) -> impl Iterator<Item = OwnedFd> {
        self.tasks.into_iter().chain(self.unified).chain(self.written.into_fds())
    }

    fn open_to_join(&mut self) -> Result<(), Error> {
        for hierarchy in &self.layout.hierarchies {
            let dir = self.dir(hierarchy);
            match hierarchy.version {
                Version::V1 => self.tasks.push(open(&dir.join("tasks"), OFlags::WRONLY)?),
                Version::V2 => self.unified = Some(open(&dir, OFlags::RDONLY | OFlags::DIRECTORY)?),
            }
        }
        Ok(())
    }

    fn dir(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.root.join(&self.path)
    }
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|source| Error::Kernel {
        doing: "opening",
        object: path.to_owned(),
        source,
    })
}
