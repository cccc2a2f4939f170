//! Directories are removed, from any state, as often as one likes.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::io::Errno;

use super::systemd::Scope;
use super::{Cgroup, Error, processes};

/// Waits of 1, 2, 4 … 256 ms, half a second in all: what a killed process takes to leave.
const TRIES: u32 = 9;

impl Cgroup {
    /// Gone when it answers Ok; gone already is Ok. Its processes must have ended: they get half a second.
    ///
    /// # Errors
    /// Processes are left, or the kernel's answer.
    pub fn remove(&self) -> Result<(), Error> {
        let dirs: Vec<PathBuf> =
            self.layout.hierarchies.iter().map(|hierarchy| self.dir(hierarchy)).collect();
        remove(&dirs)?;
        self.prune();
        self.scope.as_ref().map_or(Ok(()), Scope::stop)
    }

    /// Removes it if nothing is in it and nothing below; false, and for `remove` to go on with, when something is.
    #[must_use]
    pub fn remove_empty(&self) -> bool {
        let gone =
            self.layout.hierarchies.iter().all(|hierarchy| {
                matches!(rustix::fs::rmdir(self.dir(hierarchy)), Ok(()) | Err(Errno::NOENT))
            });
        if gone && self.scope.is_none() {
            self.prune();
        }
        gone && self.scope.is_none()
    }

    /// Removes it where it is empty, without a word where it is not: for one that may be another's, and for a
    /// parent whose children are gone.
    pub fn remove_if_empty(&self) {
        for hierarchy in &self.layout.hierarchies {
            // ENOENT, EBUSY and ENOTEMPTY all mean that there is nothing to do.
            let _ = rustix::fs::rmdir(self.dir(hierarchy));
        }
        self.prune();
    }

    /// Beside v1 the kubelet makes and removes no directories in cgroup2: those above ours are of our making.
    fn prune(&self) {
        if let Some(unified) = self.layout.unified().filter(|_| self.layout.is_hybrid()) {
            self.dir(unified).parent().into_iter().for_each(|parent| prune(&unified.root, parent));
        }
    }
}

/// Removes each directory with those below it.
fn remove(dirs: &[PathBuf]) -> Result<(), Error> {
    let mut left: Vec<&PathBuf> = dirs.iter().collect();
    for attempt in 0..TRIES {
        let mut busy = Vec::new();
        for dir in left {
            match remove_tree(dir) {
                Ok(()) => {}
                Err(Errno::BUSY) => busy.push(dir),
                Err(source) => return Err(Error::Kernel { doing: "removing", object: dir.clone(), source }),
            }
        }
        if busy.is_empty() {
            return Ok(());
        }
        left = busy;
        sleep(Duration::from_millis(1 << attempt));
    }
    let dir = left[0].clone();
    let pids = processes::pids(&dir).unwrap_or_default();
    Err(Error::Busy { dir, pids })
}

fn remove_tree(dir: &Path) -> Result<(), Errno> {
    // Most have nothing below them.
    if remove_one(dir).is_ok() {
        return Ok(());
    }
    let tree = processes::tree(dir).map_err(|_| Errno::BUSY)?;
    tree.iter().rev().try_for_each(|dir| remove_one(dir))
}

fn remove_one(dir: &Path) -> Result<(), Errno> {
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // A child that came meanwhile: the next attempt finds it.
        Err(Errno::NOTEMPTY) => Err(Errno::BUSY),
        Err(other) => Err(other),
    }
}

/// Removes directories upwards from `dir` as long as nobody uses them, `root` staying.
pub(super) fn prune(root: &Path, dir: &Path) {
    let mut next = Some(dir);
    while let Some(dir) = next.filter(|dir| *dir != root && dir.starts_with(root)) {
        if rustix::fs::rmdir(dir).is_err() {
            return;
        }
        next = dir.parent();
    }
}
