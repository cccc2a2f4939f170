//! The OCI runtime as a library: a bundle becomes a container, and goes away again.
//!
//! `spec` is read, `plan` decides, `make` and `child` perform on the two sides of a clone, and `unmake` is
//! their one inverse. The caller must have a single thread: it forks.

pub mod cgroup;
pub mod seccomp;
pub mod spec;
pub mod state;

mod binary;
mod child;
mod error;
mod exec;
mod hooks;
mod make;
mod plan;
mod report;
mod sources;
mod unmake;
mod userns;

pub use binary::run_from_readonly_mount;
pub use error::{Error, chain};
pub use plan::{CAPABILITY_NAMES, MEMORY_FLAGS, MEMORY_MODES, MOUNT_OPTION_NAMES};

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use spec::Spec;
use state::{Init, State, StateDir, Status};

/// The containers under one directory.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// One directory a container: its record and its start FIFO.
    pub root: PathBuf,
    /// Where compiled seccomp filters are kept between containers; none: compiled each time.
    pub seccomp_cache: Option<PathBuf>,
    pub keyring: Keyring,
    /// Who makes the cgroups of new containers.
    pub cgroup_driver: cgroup::Driver,
}

/// The session keyring of what runs in containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyring {
    /// A new one for each process that is made, so that ours is not theirs to read.
    New,
    /// Ours.
    Inherit,
}

/// Where the container's file system comes from.
#[derive(Debug, Clone)]
pub enum Rootfs {
    /// `root.path` of the configuration.
    Bundle,
    /// Made detached and attached only inside the container's mount namespace. Topmost lower layer first.
    Overlay { lower: Vec<PathBuf>, upper: PathBuf, work: PathBuf },
}

/// What the container's descriptors 0, 1 and 2 are.
#[derive(Debug)]
pub enum Stdio {
    Inherit,
    Fds {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A terminal of the container's own devpts; its master is handed back.
    Terminal,
}

#[derive(Debug)]
pub struct CreateRequest<'a> {
    pub id: &'a str,
    pub bundle: &'a Path,
    pub spec: Spec,
    pub rootfs: Rootfs,
    pub stdio: Stdio,
    /// Descriptors 3 and up that the container keeps (`--preserve-fds`).
    pub preserve_fds: u32,
}

/// A process in a container that we are the parent of.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The master of its terminal.
    pub console: Option<OwnedFd>,
    /// What was asked and could only be done in part, for the log.
    pub warnings: Vec<String>,
}

const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Init,
    All,
}

/// What `delete` does to a container that still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    Refuse,
    Kill,
}

impl Runtime {
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Runtime {
        let cgroup_driver = cgroup::Driver::Cgroupfs;
        Runtime { root: root.into(), seccomp_cache: None, keyring: Keyring::New, cgroup_driver }
    }

    /// Makes a container whose init waits for `start`. Undone on any failure.
    ///
    /// # Errors
    /// Any; the kinds say which.
    pub fn create(&self, request: CreateRequest<'_>) -> Result<Process, Error> {
        make::make(self, &request)
    }

    /// Lets the init of a created container go on to its program.
    ///
    /// # Errors
    /// `State` when it is not waiting for that, and a poststart hook's failure.
    pub fn start(&self, id: &str) -> Result<(), Error> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.read()?;
        if dir.release().is_err() {
            let is = record.status(&dir).as_str();
            return Err(Error::State { id: id.to_owned(), is, wanted: Status::Created.as_str() });
        }
        hooks::run_all(&record.hooks.poststart, &record.state(Status::Running)).inspect_err(|_| {
            // runtime.md, "Lifecycle" 9: a poststart hook that fails stops the container.
            let _ = self.kill(id, KILL, Scope::All);
        })
    }

    /// Adds a process to a running container; returns once it has been exec'd, or says why not.
    ///
    /// # Errors
    /// `NoSuchCommand`, `State`, `NotFound`, `Invalid`, or a step's.
    pub fn exec(&self, id: &str, process: &spec::Process, stdio: Stdio) -> Result<Process, Error> {
        exec::exec(self, &exec::Exec { id, process, stdio: &stdio, preserve_fds: 0 })
    }

    /// The same, keeping descriptors 3 and up for it.
    ///
    /// # Errors
    /// As `exec`.
    pub fn exec_preserving(
        &self,
        id: &str,
        process: &spec::Process,
        stdio: Stdio,
        preserve_fds: u32,
    ) -> Result<Process, Error> {
        exec::exec(self, &exec::Exec { id, process, stdio: &stdio, preserve_fds })
    }

    /// # Errors
    /// `NotFound`.
    pub fn state(&self, id: &str) -> Result<State, Error> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.read()?;
        Ok(record.state(record.status(&dir)))
    }

    /// The process of the container's configuration, for an exec that names only its arguments.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn process(&self, id: &str) -> Result<spec::Process, Error> {
        Ok(StateDir::of(&self.root, id)?.read()?.process)
    }

    /// All containers that have a record, with the seconds since the epoch when each was made.
    ///
    /// # Errors
    /// When the root can't be read.
    pub fn list(&self) -> Result<Vec<(State, u64)>, Error> {
        let at = |e| Error::step("listing", self.root.display().to_string(), e);
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(at)?,
        };
        let mut states = Vec::new();
        for entry in entries {
            let name = entry.map_err(at)?.file_name();
            let Some(dir) = name.to_str().and_then(|id| StateDir::of(&self.root, id).ok()) else { continue };
            // One that goes away while we look is not there.
            let Ok(Some(record)) = dir.read_if_there() else { continue };
            states.push((record.state(record.status(&dir)), record.created_s));
        }
        states.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        Ok(states)
    }

    /// Signals the init, or everything in the container's cgroup.
    ///
    /// # Errors
    /// `State` when it has ended, `NotFound`.
    pub fn kill(&self, id: &str, signal: i32, scope: Scope) -> Result<(), Error> {
        let record = StateDir::of(&self.root, id)?.read()?;
        match scope {
            Scope::Init => self.kill_init(id, record.init, signal),
            Scope::All => record
                .cgroup()
                .and_then(|cgroup| cgroup.kill_all(signal))
                .map_err(|source| Error::Cgroup { id: id.to_owned(), source }),
        }
    }

    fn kill_init(&self, id: &str, init: Option<Init>, signal: i32) -> Result<(), Error> {
        let ended = || Error::State {
            id: id.to_owned(),
            is: Status::Stopped.as_str(),
            wanted: Status::Running.as_str(),
        };
        let pidfd = init.and_then(|init| init.open()).ok_or_else(ended)?;
        match kernel::pidfd_send_signal(pidfd.as_fd(), signal) {
            Err(rustix::io::Errno::INVAL) => {
                Err(Error::invalid("signal", format!("there is no signal {signal}")))
            }
            Err(rustix::io::Errno::SRCH) => Err(ended()),
            other => other.map_err(|e| Error::step("signalling", id, e)),
        }
    }

    /// Takes away whatever there is of a container; from any point, and twice. An unknown one is gone already.
    ///
    /// # Errors
    /// `State` when it still runs and may not be killed; `Unmake` with all that could not be taken away.
    pub fn delete(&self, id: &str, force: Force) -> Result<(), Error> {
        let dir = StateDir::of(&self.root, id)?;
        if !dir.exists() {
            return Ok(());
        }
        if force == Force::Refuse
            && let Some(record) = dir.read_if_there()?
        {
            match record.status(&dir) {
                Status::Running => {
                    return Err(Error::State { id: id.to_owned(), is: "running", wanted: "stopped" });
                }
                Status::Creating | Status::Created | Status::Stopped => {}
            }
        }
        unmake::unmake(&dir).map_err(|left| Error::Unmake { id: id.to_owned(), left })
    }
}
