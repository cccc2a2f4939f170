//! The OCI runtime as a library: a bundle becomes a container, and goes away again.
//!
//! `spec` is read, `plan` decides, `make` and `child` perform on the two sides of a clone, and `unmake` is
//! their one inverse. The caller must have a single thread: it forks.

pub mod cgroup;
pub mod seccomp;
pub mod spec;
pub mod state;

mod error;

pub use error::{Error, chain};

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use spec::Spec;
use state::State;

/// The containers under one directory.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// One directory a container: its record and its start FIFO.
    pub root: PathBuf,
    /// Where compiled seccomp filters are kept between containers; none: compiled each time.
    pub seccomp_cache: Option<PathBuf>,
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
    Fds { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
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
        Runtime { root: root.into(), seccomp_cache: None }
    }

    /// Makes a container whose init waits for `start`. Undone on any failure.
    pub fn create(&self, _request: CreateRequest<'_>) -> Result<Process, Error> {
        todo!()
    }

    /// Lets the init of a created container go on to its program.
    pub fn start(&self, _id: &str) -> Result<(), Error> {
        todo!()
    }

    /// Adds a process to a running container; returns once it has been exec'd, or says why not.
    pub fn exec(&self, _id: &str, _process: &spec::Process, _stdio: Stdio) -> Result<Process, Error> {
        todo!()
    }

    pub fn state(&self, _id: &str) -> Result<State, Error> {
        todo!()
    }

    pub fn list(&self) -> Result<Vec<State>, Error> {
        todo!()
    }

    pub fn kill(&self, _id: &str, _signal: i32, _scope: Scope) -> Result<(), Error> {
        todo!()
    }

    /// Takes away whatever there is of a container; from any point, and twice. An unknown one is gone already.
    pub fn delete(&self, _id: &str, _force: Force) -> Result<(), Error> {
        todo!()
    }
}
