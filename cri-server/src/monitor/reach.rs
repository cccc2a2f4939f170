//! Starts monitors and finds those that are there.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use conmon_protocol::{Event, PodState, VERSION, VERSION_ARGUMENT, version_in};
use rustix::fs::{Mode, OFlags};
use tokio::sync::broadcast;

use super::keep::{self, Keepings};
use super::{Error, Monitor, program};

/// For other OCI runtimes and their hooks, which look for programs.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All monitors of the node.
#[derive(Debug)]
pub struct Monitors {
    program: program::Program,
    path: PathBuf,
    keepings: Keepings,
    /// Why no pod can have one; empty when the program was asked and is one.
    fault: OnceLock<Option<String>>,
}

/// A monitor, all that it has, and all that happens from then on.
#[derive(Debug)]
pub struct Reached {
    pub monitor: Monitor,
    pub state: PodState,
    pub events: broadcast::Receiver<Event>,
}

impl Monitors {
    /// # Errors
    /// When the program cannot be read.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let program =
            program::Program::load(path).map_err(|source| Error::Program { path: path.into(), source })?;
        Ok(Self { program, path: path.into(), keepings: Keepings::default(), fault: OnceLock::new() })
    }

    /// Asks the program whether it is a monitor that we can talk with. What was loaded stays, so once is enough.
    pub async fn ask(&self) {
        let said = crate::handlers::said(self.command().arg(VERSION_ARGUMENT)).await;
        let fault = match said.map(|words| version_in(&String::from_utf8_lossy(&words))) {
            Ok(Some(VERSION)) => None,
            Ok(Some(other)) => Some(format!(
                "it speaks version {other} of the protocol, and this berthd {VERSION}; install both anew"
            )),
            Ok(None) => Some("it is no berth-conmon".into()),
            Err(why) => Some(why),
        };
        let fault = fault.map(|why| format!("the monitor {}: {why}", self.path.display()));
        if let Some(why) = &fault {
            tracing::error!(why, "no pod can be made");
        }
        let _ = self.fault.set(fault);
    }

    /// Why no pod can have a monitor, once that was asked.
    pub fn fault(&self) -> Option<&str> {
        self.fault.get()?.as_deref()
    }

    fn command(&self) -> tokio::process::Command {
        let mut command = std::process::Command::new(self.program.path());
        command.env_clear();
        command.into()
    }

    /// Starts a monitor on a pod directory; it may be one that a dead monitor left, and is then resumed.
    ///
    /// # Errors
    /// When the process cannot be started. One that dies at once shows as [`Error::Gone`] at the first ask.
    pub fn spawn(&self, pod_dir: &Path) -> Result<Monitor, Error> {
        let spawn_error = |source| Error::Spawn { pod_dir: pod_dir.into(), source };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(spawn_error)?;
        let keeping = self.keepings.of(pod_dir);
        if let Err(error) = keeping.give(&ours) {
            tracing::error!(pod_dir = %pod_dir.display(), %error, "not all that was kept of a monitor could be given to the next");
        }
        let log = std::fs::OpenOptions::new().append(true).create(true).open(pod_dir.join("monitor.log"));
        let log = log.map_err(spawn_error)?;
        let mut command = std::process::Command::new(self.program.path());
        std::os::unix::process::CommandExt::arg0(&mut command, &self.path);
        // The socket is the child's standard input: the one descriptor that std hands on without a step
        // between fork and exec, so that this stays a posix_spawn.
        command.arg("--pod-dir").arg(pod_dir).args(["--daemon-fd", "0"]).args(self.program.sealed_argument());
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(log);
        command.env_clear().env("PATH", SEARCH_PATH).envs([conmon_protocol::HEAP_VARIABLE]);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = tokio::process::Command::from(command).spawn().map_err(spawn_error)?;
        // Each by its pidfd. Those that are let go of are asked for one by one whenever any process ends, by whichever
        // thread wakes up next (tokio's queue of orphans): hundreds of calls for each run of a CNI plugin.
        tokio::spawn(async move { child.wait().await });
        Monitor::on(ours, keeping).map_err(spawn_error)
    }

    /// Connects to the monitor of a pod directory.
    ///
    /// # Errors
    /// When none listens there.
    pub fn connect(&self, pod_dir: &Path) -> Result<Monitor, Error> {
        let connect_error = |source| Error::Connect { pod_dir: pod_dir.into(), source };
        let stream = connect(pod_dir).map_err(connect_error)?;
        keep::ask_to_keep(&stream).map_err(connect_error)?;
        Monitor::on(stream, self.keepings.of(pod_dir)).map_err(connect_error)
    }

    /// Lets go of what was kept of a pod that is gone.
    pub fn forget(&self, pod_dir: &Path) {
        self.keepings.forget(pod_dir);
    }

    /// The monitor of a pod directory, started if it is not there, and what it has.
    ///
    /// # Errors
    /// When there is neither one to connect to nor one to start.
    pub async fn reach(&self, pod_dir: &Path) -> Result<Reached, Error> {
        if let Ok(monitor) = self.connect(pod_dir) {
            match Reached::by(monitor).await {
                Err(Error::Gone) => {}
                reached => return reached,
            }
        }
        Reached::by(self.spawn(pod_dir)?).await
    }
}

impl Reached {
    /// Listens before it asks, so that nothing falls between the answer and the first event.
    ///
    /// # Errors
    /// As [`Monitor::ask`].
    pub async fn by(monitor: Monitor) -> Result<Self, Error> {
        let events = monitor.events();
        let state = monitor.hello().await?;
        Ok(Self { monitor, state, events })
    }
}

/// Through the directory's descriptor, since a pod's path may be longer than the 107 bytes of unix(7). A Unix
/// connect does not wait for the other side to accept, so it may be done on any thread.
fn connect(pod_dir: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(pod_dir, flags, Mode::empty())?;
    std::os::unix::net::UnixStream::connect(format!("/proc/self/fd/{}/monitor.sock", dir.as_raw_fd()))
}
