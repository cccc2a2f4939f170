//! The OCI runtime as a library: a bundle becomes a container, and goes away again.
//!
//! `spec` is read, `plan` decides, `make` and `child` perform on the two sides of a clone, and `unmake` is
//! their one inverse. The caller must have a single thread: it forks.

pub mod cgroup;
pub mod checkpoint;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod seccomp;
pub mod spec;
pub mod state;

mod binary;
mod child;
mod error;
mod events;
mod exec;
mod freeze;
mod hooks;
mod kill;
mod later;
mod list;
mod listener;
mod lsm;
mod make;
mod mountinfo;
mod netdev;
mod plan;
mod rdt;
mod report;
mod rootless;
mod shared_root;
mod sources;
mod unmake;
mod update;
mod userns;

pub use binary::run_from_readonly_mount;
pub use error::{Error, chain};
pub use events::{Event, Watch};
pub use exec::{ExecRequest, Paused};
pub use kill::Scope;
pub use list::Listed;
pub use plan::{CAPABILITY_NAMES, MEMORY_FLAGS, MEMORY_MODES, MOUNT_OPTION_NAMES};
pub use rootless::{enter_user_namespace, in_first_user_namespace};
pub use sources::layers;
pub use state::read_whole;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kill::KILL;
use later::Later;
use spec::Spec;
use state::{Outcome, State, StateDir, Status};

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
    pub root_change: RootChange,
    pub cgroups: Cgroups,
    pub notify: Notify,
}

/// Whether a container may say by sd_notify(3) that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notify {
    No,
    /// It has a directory for the socket at [`Runtime::notify_dir`]; the configuration mounts it and names the socket.
    Yes,
}

/// How a container gets into its root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootChange {
    Pivot,
    /// For a host whose own root is the initial ramdisk, which cannot be pivoted from. The host's mounts stay, out of
    /// sight: whoever has CAP_SYS_CHROOT in the container can go back to them.
    Chroot,
}

/// What becomes of a container whose cgroup may not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    Required,
    /// It has none, unless limits were asked for.
    Optional,
    /// Optional for ordinary users and in user namespaces.
    AsAllowed,
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
    kept: Option<Box<Kept>>,
}

/// What whoever has made a container and sees it to its end need not read again.
#[derive(Debug)]
struct Kept {
    dir: StateDir,
    record: state::Record,
    /// The start FIFO, until it has been used.
    start: Option<OwnedFd>,
    /// What the container was made of. It is closed when the container starts, all at once.
    later: Later,
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
        Runtime {
            root: root.into(),
            seccomp_cache: None,
            keyring: Keyring::New,
            root_change: RootChange::Pivot,
            cgroup_driver: cgroup::Driver::Cgroupfs,
            cgroups: Cgroups::AsAllowed,
            notify: Notify::No,
        }
    }

    /// Where the container's socket for sd_notify(3) is to be, while there is the container.
    ///
    /// # Errors
    /// `Invalid`: that is no container's id.
    pub fn notify_dir(&self, id: &str) -> Result<PathBuf, Error> {
        Ok(StateDir::of(&self.root, id)?.notify())
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
    /// `State` when it is not waiting for that, and the failure of a startContainer or a poststart hook.
    pub fn start(&self, id: &str) -> Result<(), Error> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.read()?;
        let outcome = dir.open_outcome()?;
        self.go_on(&dir, &record, outcome, dir.release())
    }

    /// The same for a container that we have just made ourselves.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_made(&self, made: &mut Process) -> Result<(), Error> {
        let Kept { dir, record, start, later } = made.kept.as_deref_mut().ok_or(Error::Died)?;
        let start = start.take().ok_or(Error::Died)?;
        let nobody_waits = record.hooks.start_container.is_empty() && record.hooks.poststart.is_empty();
        let outcome = if nobody_waits { None } else { dir.open_outcome()? };
        let released = dir.release_by(&start);
        later.close(start);
        later.close_now();
        self.go_on(dir, record, outcome, released)
    }

    fn go_on(
        &self,
        dir: &StateDir,
        record: &state::Record,
        outcome: Option<Outcome>,
        released: rustix::io::Result<()>,
    ) -> Result<(), Error> {
        let id = &record.id;
        if released.is_err() {
            let is = record.status(dir).as_str();
            return Err(Error::State { id: id.to_owned(), is, wanted: Status::Created.as_str() });
        }
        // poststart hooks run "after the user-specified process is executed" (runtime.md, "Lifecycle" 9).
        outcome.map_or(Ok(()), Outcome::wait)?;
        hooks::run_all("poststart", &record.hooks.poststart, &record.state(Status::Running)).inspect_err(
            |_| {
                // runtime.md, "Lifecycle" 9: a poststart hook that fails stops the container.
                let _ = self.kill(id, KILL, Scope::All);
            },
        )
    }

    /// Adds a process to a running container; returns once it has been exec'd, or says why not.
    ///
    /// # Errors
    /// `NoSuchCommand`, `State`, `NotFound`, `Invalid`, or a step's.
    pub fn exec(&self, id: &str, process: &spec::Process, stdio: Stdio) -> Result<Process, Error> {
        let (preserve_fds, paused, cgroups) = (0, Paused::Refuse, &[][..]);
        exec::exec(self, &ExecRequest { id, process, stdio, preserve_fds, paused, cgroups })
    }

    /// The same, with everything that a command line can say about it.
    ///
    /// # Errors
    /// As `exec`.
    pub fn exec_as(&self, request: &ExecRequest<'_>) -> Result<Process, Error> {
        exec::exec(self, request)
    }

    /// # Errors
    /// `NotFound`.
    pub fn state(&self, id: &str) -> Result<State, Error> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.read()?;
        Ok(freeze::shown(&dir, &record))
    }

    /// The process of the container's configuration, for an exec that names only its arguments.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn process(&self, id: &str) -> Result<spec::Process, Error> {
        Ok(StateDir::of(&self.root, id)?.read()?.process)
    }

    /// Its cgroup.
    ///
    /// # Errors
    /// `NotFound`, or the node has no cgroups.
    pub fn cgroup(&self, id: &str) -> Result<cgroup::Cgroup, Error> {
        let record = StateDir::of(&self.root, id)?.read()?;
        record.cgroup().map_err(|source| Error::Cgroup { id: id.to_owned(), source })
    }

    /// Takes away a container that we have made ourselves and whose init we have seen end and reaped.
    ///
    /// # Errors
    /// As `delete`.
    pub fn delete_ended(&self, made: &Process) -> Result<Vec<String>, Error> {
        let kept = made.kept.as_ref().ok_or(Error::Died)?;
        unmake::unmake_ended(&kept.dir, &kept.record)
            .map_err(|left| Error::Unmake { id: kept.record.id.clone(), left })
    }

    /// Takes away whatever there is of a container; from any point, and twice. An unknown one is gone already.
    /// Answers with what its poststop hooks had to complain of, for the log.
    ///
    /// # Errors
    /// `State` when it still runs and may not be killed; `Unmake` with all that could not be taken away.
    pub fn delete(&self, id: &str, force: Force) -> Result<Vec<String>, Error> {
        let dir = StateDir::of(&self.root, id)?;
        let record = match dir.read_if_there() {
            // A disk lost power, or somebody wrote there: what it named cannot be known any more.
            Err(Error::Config { .. }) if force == Force::Kill => return dir.remove().map(|()| Vec::new()),
            read => read?,
        };
        if record.is_none() && !dir.exists() {
            return Ok(Vec::new());
        }
        if let (Force::Refuse, Some(record)) = (force, &record) {
            // runtime.md, "Delete": "a container that is not stopped MUST have no effect on the container and MUST
            // generate an error", a created one as well.
            let is = record.status(&dir);
            if is != Status::Stopped {
                return Err(Error::State { id: id.to_owned(), is: is.as_str(), wanted: "stopped" });
            }
        }
        unmake::unmake_known(&dir, record.as_ref()).map_err(|left| Error::Unmake { id: id.to_owned(), left })
    }
}
