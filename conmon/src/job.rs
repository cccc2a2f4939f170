//! Work that may never end: looking at a volume whose server is away, and making a container that mounts one. The kernel
//! keeps whoever asks such a server, so a child asks. The monitor goes on meanwhile, and gives the child up when its
//! time is over: it is killed, and dies when the kernel lets it go, if ever.
//!
//! ```text
//! monitor                        child
//!    ── clone ─────────────────►  closes what is not its business
//!    ◄── At(0), At(1), … ───────  looks at one volume after the other
//!    ◄── Seen / Made / Failed ──  and ends
//! ```

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use conmon_protocol::{ContainerPlan, Refusal, RefusalKind, Seen, Volume};
use kernel::Child;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::container::{Begun, Key};
use crate::error::{Error, Named as _};
use crate::handler::{self, Entered, Made};
use crate::monitor::Asker;
use crate::stdio::Ends;

/// No word is longer: what is seen at a hundred paths, each as long as may be, is a third of it.
const MAX_WORD: usize = 1 << 20;
/// A killed child that the kernel does not hold is gone by then, and what it was making as well.
const DEATH_NS: u64 = 300_000_000;

/// What a child is doing, and for whom.
#[derive(Debug)]
pub(crate) enum Task {
    Look { asker: Asker },
    Make { asker: Asker, begun: Box<Begun> },
}

/// Why a child was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// Its time was over.
    Late,
    /// What it was making is to be taken away.
    Unwanted,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) key: Key,
    pub(crate) task: Task,
    pub(crate) child: Child,
    pub(crate) line: OwnedFd,
    /// When it is given up; when that is done, when it is settled.
    pub(crate) until_ns: u64,
    pub(crate) given_up: Option<GivenUp>,
    paths: Vec<PathBuf>,
    patience_ms: u64,
    at: usize,
}

/// A killed child that may still be held by the kernel, and the path that it asked for last.
#[derive(Debug)]
pub(crate) struct Abandoned {
    pub(crate) pidfd: OwnedFd,
    pub(crate) path: Option<PathBuf>,
}

/// What a child says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// Next it asks for this path; after the last comes the making.
    At(usize),
    Seen(Vec<Seen>),
    /// The pidfd rides with it, and the terminal's master if there is one.
    Made {
        pid: i32,
        cgroup: Option<String>,
        owns_pid_namespace: bool,
        warnings: Vec<String>,
    },
    Failed(Refusal),
}

impl Job {
    /// Looks at paths.
    pub(crate) fn look(key: Key, asker: Asker, paths: Vec<PathBuf>, until: Until) -> Result<Job, Error> {
        let (ours, theirs) = lines()?;
        let child = clone(|| {
            keep_only(&theirs, None)?;
            look(&theirs, &paths)
        })?;
        Ok(Job::new(key, Task::Look { asker }, child, ours, paths, until))
    }

    /// Makes a container. The child has its side of the streams from here on.
    pub(crate) fn make(
        key: Key,
        asker: Asker,
        begun: Begun,
        ends: Option<Ends>,
        until: Until,
    ) -> Result<Job, Error> {
        let (ours, theirs) = lines()?;
        let plan = &begun.record.plan;
        let child = clone(|| {
            keep_only(&theirs, ends.as_ref())?;
            make(&theirs, plan, ends)
        })?;
        let paths = plan.volumes.iter().map(|volume| volume.path.clone()).collect();
        Ok(Job::new(key, Task::Make { asker, begun: Box::new(begun) }, child, ours, paths, until))
    }

    fn new(key: Key, task: Task, child: Child, line: OwnedFd, paths: Vec<PathBuf>, until: Until) -> Job {
        let Until { at_ns, patience_ms } = until;
        Job { key, task, child, line, until_ns: at_ns, given_up: None, paths, patience_ms, at: 0 }
    }

    /// The next word, if there is one.
    pub(crate) fn hear(&mut self) -> Result<Option<(Word, Vec<OwnedFd>)>, Silent> {
        loop {
            match receive(&self.line)? {
                Some((Word::At(at), _)) => self.at = at,
                other => return Ok(other),
            }
        }
    }

    pub(crate) fn give_up(&mut self, why: GivenUp, now_ns: u64) {
        if self.given_up.is_none() {
            self.given_up = Some(why);
            self.until_ns = now_ns + DEATH_NS;
            // One that has ended already has said so.
            let _ = crate::reap::kill(self.child.pidfd.as_fd());
        }
    }

    /// What it hangs on.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.paths.get(self.at).map(PathBuf::as_path)
    }

    /// What is told to those who waited for it.
    pub(crate) fn refusal(&self) -> Error {
        match (self.given_up, self.path()) {
            (Some(GivenUp::Unwanted), _) => {
                Error::refused(RefusalKind::State, format!("{} was taken away meanwhile", self.name()))
            }
            (Some(GivenUp::Late), Some(path)) => silent(path, self.patience_ms),
            (Some(GivenUp::Late), None) => {
                let message = format!(
                    "{} did not end within {} ms and was given up; does a volume below another one answer?",
                    self.name(),
                    self.patience_ms
                );
                Error::refused(RefusalKind::TimedOut, message)
            }
            (None, _) => Error::refused(
                RefusalKind::Failed,
                format!("the child for {} died without a word", self.name()),
            ),
        }
    }

    fn name(&self) -> String {
        match &self.task {
            Task::Look { .. } => "looking at volumes".into(),
            Task::Make { begun, .. } => format!("making container {}", begun.record.plan.container_id),
        }
    }

    pub(crate) fn abandoned(self) -> Abandoned {
        let path = self.path().map(Path::to_path_buf);
        Abandoned { pidfd: self.child.pidfd, path }
    }
}

/// How long a job may take, and until when that is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until {
    pub(crate) at_ns: u64,
    pub(crate) patience_ms: u64,
}

/// A volume's server is away, as far as anybody can tell.
pub(crate) fn silent(path: &Path, patience_ms: u64) -> Error {
    let message = format!(
        "volume {} did not answer within {patience_ms} ms; is its server away? Bring it back, or unmount the volume by \
         force",
        path.display()
    );
    Error::refused(RefusalKind::TimedOut, message)
}

/// The child has ended, or talks nonsense.
#[derive(Debug)]
pub(crate) struct Silent;

impl Word {
    pub(crate) fn of(made: &Made) -> Word {
        Word::Made {
            pid: made.process.pid,
            cgroup: made.cgroup.clone(),
            owns_pid_namespace: made.owns_pid_namespace,
            warnings: made.process.warnings.clone(),
        }
    }

    /// What was made, with the descriptors that rode with the word.
    pub(crate) fn made(self, fds: Vec<OwnedFd>) -> Option<Made> {
        let Word::Made { pid, cgroup, owns_pid_namespace, warnings } = self else { return None };
        let mut fds = fds.into_iter();
        let process = Entered { pid, pidfd: fds.next()?, console: fds.next(), warnings };
        Some(Made { process, cgroup, owns_pid_namespace })
    }
}

fn lines() -> Result<(OwnedFd, OwnedFd), Error> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    pair.named("making a socket pair for", "a child")
}

fn clone(work: impl FnOnce() -> Result<(), Errno>) -> Result<Child, Error> {
    let monitor = getpid();
    let child = kernel::clone3(0, None, || {
        // It would work for nobody, and hold what is the pod's.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        match getppid() {
            Some(parent) if parent == monitor => i32::from(work().is_err()),
            Some(_) | None => 1,
        }
    });
    child.named("cloning", "a child")
}

// What the child does.

/// The daemon's sockets and the pod's streams must end with the monitor, not with a child that the kernel holds.
fn keep_only(line: &OwnedFd, ends: Option<&Ends>) -> Result<(), Errno> {
    let mut keep = vec![line.as_fd()];
    keep.extend(
        ends.into_iter().flat_map(|ends| [ends.stdin.as_fd(), ends.stdout.as_fd(), ends.stderr.as_fd()]),
    );
    kernel::close_all_but_these(3, &keep)
}

fn look(line: &OwnedFd, paths: &[PathBuf]) -> Result<(), Errno> {
    let mut seen = Vec::with_capacity(paths.len());
    for (at, path) in paths.iter().enumerate() {
        say(line, &Word::At(at), &[])?;
        seen.push(see(path));
    }
    say(line, &Word::Seen(seen), &[])
}

fn see(path: &Path) -> Seen {
    let found = std::fs::canonicalize(path).and_then(|path| Ok((std::fs::metadata(&path)?.is_dir(), path)));
    match found {
        Ok((true, path)) => Seen::Directory(path),
        Ok((false, path)) => Seen::Other(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Seen::Missing,
        Err(error) => Seen::Failed(error.raw_os_error().unwrap_or_default()),
    }
}

fn make(line: &OwnedFd, plan: &ContainerPlan, ends: Option<Ends>) -> Result<(), Errno> {
    for (at, volume) in plan.volumes.iter().enumerate() {
        say(line, &Word::At(at), &[])?;
        if let Err(error) = prepare(volume) {
            return say(line, &Word::Failed(error.refusal()), &[]);
        }
    }
    say(line, &Word::At(plan.volumes.len()), &[])?;
    match handler::create(plan, ends) {
        Ok(made) => {
            let pidfd = Some(made.process.pidfd.as_fd());
            let console = made.process.console.as_ref().map(|fd| fd.as_fd());
            let fds: Vec<BorrowedFd<'_>> = pidfd.into_iter().chain(console).collect();
            say(line, &Word::of(&made), &fds)
        }
        Err(error) => say(line, &Word::Failed(error.refusal()), &[]),
    }
}

/// Asks the volume something, so that it is known which one does not answer. What is wrong with it otherwise is for
/// whoever mounts it to say.
fn prepare(volume: &Volume) -> Result<(), Error> {
    match std::fs::metadata(&volume.path) {
        Err(error) if volume.make && error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(&volume.path).named("making", &volume.path)
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

// How they talk.

fn say(line: &OwnedFd, word: &Word, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(word).map_err(|_| Errno::INVAL)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(line, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

fn receive(line: &OwnedFd) -> Result<Option<(Word, Vec<OwnedFd>)>, Silent> {
    let mut bytes = vec![0; MAX_WORD];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = match recvmsg(line, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(received) if received.bytes > 0 => received.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Ok(_) | Err(_) => return Err(Silent),
    };
    let fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    let fds = fds.collect();
    let word = serde_json::from_slice(&bytes[..received]).map_err(|_| Silent)?;
    Ok(Some((word, fds)))
}
