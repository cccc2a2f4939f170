//! Directories are made and limits written.

use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;

use super::Error;
use super::files::{self, Held};
use super::limits::{Absent, Write};

/// How often a parent is made again when others remove it: two that race want to be one too many.
const TRIES: u32 = 8;

/// Directories made, in the order of their making, to be taken back if the rest fails.
#[derive(Debug, Default)]
pub(super) struct Made(Vec<PathBuf>);

impl Made {
    /// Makes `root/path` and what it needs above it, which another's removal may take away again meanwhile.
    pub(super) fn make(&mut self, root: &Path, path: &str) -> Result<PathBuf, Error> {
        let dir = root.join(path);
        let mut outcome = self.make_one(&dir);
        for _ in 0..TRIES {
            let parent = path.rsplit_once('/').map(|(parent, _)| parent);
            let Some(parent) = parent.filter(|_| outcome == Err(Errno::NOENT)) else { break };
            self.make(root, parent)?;
            outcome = self.make_one(&dir);
        }
        match outcome {
            Ok(()) => Ok(dir),
            Err(source) => Err(Error::Unreachable { dir, source }),
        }
    }

    fn make_one(&mut self, dir: &Path) -> Result<(), Errno> {
        match rustix::fs::mkdir(dir, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => Ok(()),
            Ok(()) => {
                self.0.push(dir.to_owned());
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    pub(super) fn is_new(&self, dir: &Path) -> bool {
        self.0.iter().any(|made| made == dir)
    }

    /// Takes back what was made. One that somebody else has begun to use stays: it is theirs now.
    pub(super) fn undo(self) {
        for dir in self.0.iter().rev() {
            let _ = rustix::fs::rmdir(dir);
        }
    }
}

/// v1: a new cpuset is empty, and nothing can run in it until it has been given CPUs and memory nodes: those
/// of the directory above, which may wait for its own.
pub(super) fn inherit_cpuset(root: &Path, dir: &Path, held: &Held) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let Some(parent) = dir.parent().filter(|_| dir != root) else { continue };
        let list = cpuset(root, parent, file, held)?;
        held.write(dir, file, &list).map_err(|source| cpuset_error("writing", dir, file, source))?;
    }
    Ok(())
}

/// The directory's own list, taken from the nearest one above that has any.
fn cpuset(root: &Path, dir: &Path, file: &str, held: &Held) -> Result<String, Error> {
    let own = held.read_line(dir, file).map_err(|source| cpuset_error("reading", dir, file, source))?;
    let Some(parent) = dir.parent().filter(|_| own.is_empty() && dir != root) else { return Ok(own) };
    let list = cpuset(root, parent, file, held)?;
    held.write(dir, file, &list).map_err(|source| cpuset_error("writing", dir, file, source))?;
    Ok(list)
}

fn cpuset_error(doing: &'static str, dir: &Path, file: &str, source: Errno) -> Error {
    Error::Kernel { doing, object: dir.join(file), source }
}

/// v2: a controller has files in a directory only when every directory above passes it on.
pub(super) fn pass_controllers_down(root: &Path, path: &str, wanted: &[&str]) -> Result<(), Error> {
    let dir = root.join(path);
    let there = files::read_line(&dir, "cgroup.controllers").map_err(|source| Error::Kernel {
        doing: "reading",
        object: dir.join("cgroup.controllers"),
        source,
    })?;
    let missing: Vec<String> = wanted
        .iter()
        .filter(|one| !there.split(' ').any(|own| own == **one))
        .map(|one| format!("+{one}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut above = root.to_owned();
    let mut outcome = pass_on(&above, &missing);
    for part in path.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev() {
        above.push(part);
        outcome = outcome.and(pass_on(&above, &missing));
    }
    outcome
}

/// v2: the directory passes on whatever it has itself.
pub(super) fn pass_own_controllers_down(dir: &Path) -> Result<(), Error> {
    let own = files::read_line(dir, "cgroup.controllers").map_err(|source| Error::Kernel {
        doing: "reading",
        object: dir.join("cgroup.controllers"),
        source,
    })?;
    let all: Vec<String> = own.split_whitespace().map(|one| format!("+{one}")).collect();
    pass_on(dir, &all)
}

/// All at once, or, where the kernel refuses one of them, each that it takes.
fn pass_on(dir: &Path, controllers: &[String]) -> Result<(), Error> {
    let file = "cgroup.subtree_control";
    if files::write(dir, file, &controllers.join(" ")).is_ok() {
        return Ok(());
    }
    let mut outcome = Ok(());
    for one in controllers {
        let written = files::write(dir, file, one);
        outcome = outcome.and(written.map_err(|source| Error::Kernel {
            doing: "writing",
            object: dir.join(file),
            source,
        }));
    }
    outcome
}

/// Writes the limits of one controller. Some depend on each other (memory and memory with swap; quota, period
/// and burst) and which must come first depends on what was there before: one that is refused is tried again
/// after the others, as long as that helps.
pub(super) fn write_limits(dir: &Path, writes: &[&Write], held: &Held) -> Result<(), Error> {
    let mut waiting: Vec<&Write> = writes.to_vec();
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut refused = None;
        let mut again = Vec::new();
        for write in waiting {
            match write_limit(dir, write, held) {
                Err(source @ (Errno::INVAL | Errno::BUSY)) => {
                    again.push(write);
                    refused.get_or_insert(limit_error(dir, write, source));
                }
                other => other.map_err(|source| limit_error(dir, write, source))?,
            }
        }
        match refused {
            Some(error) if again.len() == before => return Err(error),
            _ => waiting = again,
        }
    }
    Ok(())
}

fn write_limit(dir: &Path, write: &Write, held: &Held) -> Result<(), Errno> {
    match (held.write(dir, &write.file, &write.value), &write.absent) {
        (Err(Errno::NOENT), Absent::Skip) => Ok(()),
        (Err(Errno::NOENT), Absent::Instead(file, value)) => held.write(dir, file, value),
        (other, _) => other,
    }
}

fn limit_error(dir: &Path, write: &Write, source: Errno) -> Error {
    Error::Limit { field: write.field, value: write.value.clone(), file: dir.join(&write.file), source }
}
