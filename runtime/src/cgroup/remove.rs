//! Directories are removed, from any state, as often as one likes.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::io::Errno;

use super::{Error, processes};

/// Waits of 1, 2, 4 … 256 ms, half a second in all: what a killed process takes to leave.
const TRIES: u32 = 9;

/// Removes each directory with those below it.
pub(super) fn remove(dirs: &[PathBuf]) -> Result<(), Error> {
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
