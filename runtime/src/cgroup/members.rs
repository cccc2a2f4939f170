//! The processes in a cgroup: listed, signalled, stopped, counted.

use std::path::PathBuf;

use rustix::io::Errno;

use super::layout::Version;
use super::processes::{self, FREEZER_V1, FREEZER_V2, Freezer};
use super::{Cgroup, Error, files};

const KILL: i32 = 9;

impl Cgroup {
    /// Signals every process in it and below. SIGKILL reaches those born meanwhile too, and thaws a frozen
    /// cgroup, as no frozen process of v1 dies. One that is gone has nobody to signal.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn kill_all(&self, signal: i32) -> Result<(), Error> {
        if self.is_none() {
            return Ok(());
        }
        let listed = self.listing_dir();
        if signal != KILL {
            return processes::signal(&listed, signal);
        }
        let unified = self.layout.unified().map(|hierarchy| self.dir(hierarchy));
        let outcome = processes::kill(unified.as_deref(), &listed);
        self.release();
        outcome
    }

    /// Thaws it, if it is frozen, for processes that have been killed: to wait until it has thawed would be to wait
    /// until they are dead.
    pub fn release(&self) {
        let _ = self.freezer().map(|(freezer, dir)| freezer.release(&dir));
    }

    /// Every process in it and below, as this PID namespace numbers them.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        if self.is_none() { Ok(Vec::new()) } else { processes::pids(&self.listing_dir()) }
    }

    /// Stops every process in it and below, and answers when they have stopped.
    ///
    /// # Errors
    /// They did not stop in time (and run again), or the kernel's answer.
    pub fn freeze(&self) -> Result<(), Error> {
        let (freezer, dir) = self.freezer()?;
        freezer.freeze(&dir)
    }

    /// Lets them run again. One that is gone needs no thaw.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn thaw(&self) -> Result<(), Error> {
        let Ok((freezer, dir)) = self.freezer() else { return Ok(()) };
        match freezer.thaw(&dir) {
            Err(Error::Kernel { source: Errno::NOENT | Errno::NODEV, .. }) => Ok(()),
            other => other,
        }
    }

    /// Whether its processes are stopped, or about to be, by `freeze` or by whoever froze a cgroup above it.
    ///
    /// # Errors
    /// The kernel's answer; one that is gone, and a node that cannot freeze, has nothing frozen.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        let Ok((freezer, dir)) = self.freezer() else { return Ok(false) };
        freezer.is_frozen(&dir)
    }

    /// How many of its processes the kernel has killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        self.known_oom_kills().unwrap_or(0)
    }

    /// The same, and none where the cgroup is gone and nobody can tell any more.
    #[must_use]
    pub fn known_oom_kills(&self) -> Option<u64> {
        let hierarchy = self.layout.serving("memory")?;
        let file = match hierarchy.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = files::read(&self.dir(hierarchy), file).ok()?;
        files::keyed(&text, "oom_kill")
    }

    /// Any hierarchy lists the processes; cgroup2 is the one that nobody leaves unnoticed.
    pub(super) fn listing_dir(&self) -> PathBuf {
        let listing = self.layout.unified().or_else(|| self.layout.serving("pids"));
        self.dir(listing.unwrap_or(&self.layout.hierarchies[0]))
    }

    pub(super) fn freezer(&self) -> Result<(Freezer, PathBuf), Error> {
        if let Some(v1) = self.layout.serving("freezer") {
            return Ok((FREEZER_V1, self.dir(v1)));
        }
        let unified = self.layout.unified().map(|unified| (FREEZER_V2, self.dir(unified)));
        unified.ok_or(Error::MissingController { field: "(freezer)", controller: "freezer".to_owned() })
    }
}
