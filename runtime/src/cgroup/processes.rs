//! The processes of a cgroup and of those below it: listed, signalled, frozen, thawed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::io::Errno;

use super::{Error, files};

/// No container makes more cgroups below its own.
const MAX_DIRS: usize = 100_000;
const KILL: i32 = 9;
/// How often a cgroup without `cgroup.kill` is swept for processes born during the last sweep.
const SWEEPS: u32 = 100;
/// How often a freezer is asked whether it is done, a millisecond apart: the kernel freezes a running
/// container in one or two, one that waits for a dead network file system never.
const FREEZE_ASKS: u32 = 2_000;

/// The directory and those below it, each before its children. One that vanishes meanwhile is left out.
pub(super) fn tree(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut dirs = vec![dir.to_owned()];
    let mut next = 0;
    while next < dirs.len() && dirs.len() < MAX_DIRS {
        match children(&dirs[next]) {
            Ok(more) => dirs.extend(more),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Read { path: dirs.swap_remove(next), source }),
        }
        next += 1;
    }
    Ok(dirs)
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

pub(super) fn pids(dir: &Path) -> Result<Vec<i32>, Error> {
    let mut pids = Vec::new();
    for dir in tree(dir)? {
        match files::read(&dir, "cgroup.procs") {
            // The kernel writes 0 for a process that this PID namespace cannot name.
            Ok(text) => {
                pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0))
            }
            // Gone, or a threaded cgroup, whose processes its domain lists.
            Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => {}
            Err(source) => {
                return Err(Error::Kernel { doing: "reading", object: dir.join("cgroup.procs"), source });
            }
        }
    }
    Ok(pids)
}

/// One signal for each process there is now.
pub(super) fn signal(dir: &Path, signal: i32) -> Result<(), Error> {
    for pid in pids(dir)? {
        signal_one(pid, signal, dir)?;
    }
    Ok(())
}

/// Kills every process, also those born meanwhile: in one stroke where the kernel has `cgroup.kill` (5.14).
pub(super) fn kill(unified: Option<&Path>, listed: &Path) -> Result<(), Error> {
    match unified.map_or(Err(Errno::NOENT), |dir| files::write(dir, "cgroup.kill", "1")) {
        Ok(()) | Err(Errno::NODEV) => Ok(()),
        Err(Errno::NOENT) => sweep(listed),
        Err(source) => {
            let dir = unified.unwrap_or(listed);
            Err(Error::Kernel { doing: "writing", object: dir.join("cgroup.kill"), source })
        }
    }
}

fn sweep(dir: &Path) -> Result<(), Error> {
    for _ in 0..SWEEPS {
        let pids = pids(dir)?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            signal_one(pid, KILL, dir)?;
        }
        sleep(Duration::from_millis(1));
    }
    Err(Error::Busy { dir: dir.to_owned(), pids: pids(dir)? })
}

/// One that has ended meanwhile needs no signal.
fn signal_one(pid: i32, signal: i32, dir: &Path) -> Result<(), Error> {
    match kernel::kill(pid, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(source) => {
            Err(Error::Kernel { doing: "signalling the processes of", object: dir.to_owned(), source })
        }
    }
}

/// A freezer's word for a state, and where it says that it has been reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freezer {
    file: &'static str,
    words: [&'static str; 2],
    reached: [&'static str; 2],
    says: &'static str,
}

pub(super) const FREEZER_V1: Freezer = Freezer {
    file: "freezer.state",
    words: ["THAWED", "FROZEN"],
    reached: ["THAWED", "FROZEN"],
    says: "freezer.state",
};

pub(super) const FREEZER_V2: Freezer = Freezer {
    file: "cgroup.freeze",
    words: ["0", "1"],
    reached: ["frozen 0", "frozen 1"],
    says: "cgroup.events",
};

impl Freezer {
    pub(super) fn freeze(&self, dir: &Path) -> Result<(), Error> {
        let outcome = self.set(dir, 1);
        if outcome.is_err() {
            // Half frozen is worse than not: nobody would know to thaw it.
            let _ = self.set(dir, 0);
        }
        outcome
    }

    pub(super) fn thaw(&self, dir: &Path) -> Result<(), Error> {
        self.set(dir, 0)
    }

    /// v1 says FREEZING until the last of them has stopped.
    pub(super) fn is_frozen(&self, dir: &Path) -> Result<bool, Error> {
        match files::read_line(dir, self.says) {
            Ok(says) => Ok(says.lines().any(|line| line == self.reached[1] || line == "FREEZING")),
            Err(Errno::NOENT | Errno::NODEV) => Ok(false),
            Err(source) => Err(Error::Kernel { doing: "reading", object: dir.join(self.says), source }),
        }
    }

    /// Tells it to freeze, and does not wait for it.
    pub(super) fn begin(&self, dir: &Path) -> Result<(), Error> {
        files::write(dir, self.file, self.words[1]).map_err(|source| Error::Kernel {
            doing: "writing",
            object: dir.join(self.file),
            source,
        })
    }

    /// Tells it to thaw, and does not wait for it.
    pub(super) fn release(&self, dir: &Path) {
        // ENOENT: gone, and with it whatever was frozen.
        let _ = files::write(dir, self.file, self.words[0]);
    }

    fn set(&self, dir: &Path, state: usize) -> Result<(), Error> {
        let fail =
            |file: &'static str, doing| move |source| Error::Kernel { doing, object: dir.join(file), source };
        for _ in 0..FREEZE_ASKS {
            // v1 must be told again: a process forked meanwhile leaves it at FREEZING.
            files::write(dir, self.file, self.words[state]).map_err(fail(self.file, "writing"))?;
            let says = files::read(dir, self.says).map_err(fail(self.says, "reading"))?;
            if says.lines().any(|line| line == self.reached[state]) {
                return Ok(());
            }
            sleep(Duration::from_millis(1));
        }
        Err(Error::NotFrozen { dir: dir.to_owned() })
    }
}
