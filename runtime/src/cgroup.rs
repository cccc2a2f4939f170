//! A container's cgroup, in every hierarchy that the node has.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::spec;

/// Why a cgroup could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
#[error("not made yet")]
pub struct Error;

/// One cgroup path in all hierarchies.
#[derive(Debug)]
pub struct Cgroup {}

impl Cgroup {
    /// Makes the directories and writes the limits; undone wholly on failure. Ready to be joined.
    pub fn create(_path: &str, _resources: &spec::Resources) -> Result<Cgroup, Error> {
        todo!()
    }

    /// An existing cgroup, opened to be joined (exec).
    pub fn open(_path: &str) -> Result<Cgroup, Error> {
        todo!()
    }

    /// An existing cgroup that nobody will join through this value (kill, delete, pids): opens nothing.
    pub fn at(_path: &str) -> Result<Cgroup, Error> {
        todo!()
    }

    /// The cgroup2 directory, for clone3(CLONE_INTO_CGROUP).
    pub fn unified_dir(&self) -> Option<BorrowedFd<'_>> {
        todo!()
    }

    /// The open `tasks` files of v1: the single-threaded child writes "0" to each.
    pub fn task_files(&self) -> &[OwnedFd] {
        todo!()
    }

    pub fn update(&self, _resources: &spec::Resources) -> Result<(), Error> {
        todo!()
    }

    /// Signals every process in it and below. SIGKILL thaws a frozen one.
    pub fn kill_all(&self, _signal: i32) -> Result<(), Error> {
        todo!()
    }

    /// Every process in it and below, as this PID namespace numbers them.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        todo!()
    }

    pub fn freeze(&self) -> Result<(), Error> {
        todo!()
    }

    pub fn thaw(&self) -> Result<(), Error> {
        todo!()
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        todo!()
    }

    /// Gone when it answers Ok; gone already is Ok.
    pub fn remove(&self) -> Result<(), Error> {
        todo!()
    }
}
