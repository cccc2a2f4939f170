//! Work that may never end: looking at a volume whose server is away, making, starting and entering a container that
//! mounts one, and whatever another runtime's command does. The kernel keeps whoever asks such a server, so a child
//! asks. The monitor goes on meanwhile, and gives the child up when its time is over: it is killed, and dies when the
//! kernel lets it go, if ever.
//!
//! ```text
//! monitor                               child
//!    ── clone ────────────────────────►  closes what is not its business
//!    ◄── At(0), At(1), … ──────────────  looks at one volume after the other
//!    ◄── Seen / Made / Done / Failed ──  and ends
//! ```

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use conmon_protocol::{ContainerPlan, Images, RefusalKind};
use kernel::Child;
use rustix::io::Errno;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use crate::clock;
use crate::container::{Begun, Key};
use crate::error::{Error, Named as _};
use crate::exec;
use crate::monitor::Asker;
use crate::reap::{self, Birth};
use crate::stdio::Ends;

mod child;
mod line;

pub(crate) use line::{Silent, Word};

/// A killed child that the kernel does not hold is gone by then, and what it was making as well.
const DEATH_NS: u64 = 300_000_000;
/// criu is in the processes as long as it writes their memory down: for as long as the daemon gives any checkpoint.
const LAST_DUMP_NS: u64 = 600_000_000_000;
/// Between two looks whether criu is in any process.
const LOOK_NS: u64 = 20_000_000;
/// When nobody says how long a volume may take to answer. A dead server takes for ever, a slow one seconds.
const PATIENCE_MS: u64 = 30_000;

/// What a child is doing, and for whom.
#[derive(Debug)]
pub(crate) enum Task {
    Look {
        asker: Asker,
    },
    Make {
        asker: Asker,
        begun: Box<Begun>,
    },
    /// Freezes containers and has criu write down their processes.
    Dump {
        asker: Asker,
        names: String,
    },
    Exec {
        asker: Asker,
        begun: Box<exec::Begun>,
    },
    Start {
        asker: Asker,
        container: Key,
        at_ns: i64,
    },
    /// What another runtime's command does to a container that goes on: a signal, new limits.
    Order {
        asker: Asker,
        container: Key,
        of: OrderOf,
    },
    /// Another runtime's command takes a container away that has ended, or never was. The monitor knows who waits.
    Unmake {
        container: Key,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrderOf {
    Signal,
    Update,
}

/// Why a child is not to go on.
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
    /// When it is given up; when that is done, when it is looked at again or settled.
    pub(crate) until_ns: u64,
    pub(crate) given_up: Option<GivenUp>,
    /// Of one that was given up and may finish all the same: when it is killed at the latest.
    finishes_until_ns: Option<u64>,
    paths: Vec<PathBuf>,
    patience_ms: u64,
    at: usize,
    /// What it had begun when it was given up.
    descendants: Vec<OwnedFd>,
}

/// Killed processes that may still be held by the kernel.
#[derive(Debug)]
pub(crate) struct Abandoned {
    pub(crate) pidfds: Vec<OwnedFd>,
    pub(crate) of: Of,
}

/// What they hang on, as far as that is known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Path(Option<PathBuf>),
    /// Something that this container has mounted.
    Container(Key),
}

impl Job {
    /// Looks at paths.
    pub(crate) fn look(key: Key, asker: Asker, paths: Vec<PathBuf>, until: Until) -> Result<Job, Error> {
        let (ours, theirs) = line::lines()?;
        let child = clone(WithoutUs::Dies, || child::look(&theirs, &paths))?;
        Ok(Job::new(key, Task::Look { asker }, child, ours, paths, until))
    }

    /// Makes a container. The child has its side of the streams from here on.
    pub(crate) fn make(
        key: Key,
        asker: Asker,
        begun: Begun,
        (ends, from): (Option<Ends>, Option<&Images>),
        until: Until,
    ) -> Result<Job, Error> {
        let (ours, theirs) = line::lines()?;
        let plan = &begun.record.plan;
        let child = clone(WithoutUs::Dies, || child::make(&theirs, plan, ends, from))?;
        let paths = plan.volumes.iter().map(|volume| volume.path.clone()).collect();
        Ok(Job::new(key, Task::Make { asker, begun: Box::new(begun) }, child, ours, paths, until))
    }

    /// Starts a further process in a container. The child has its streams from here on.
    pub(crate) fn exec(
        key: Key,
        asker: Asker,
        plan: &ContainerPlan,
        asked: exec::Asked,
        until: Until,
    ) -> Result<Job, Error> {
        let (ours, theirs) = line::lines()?;
        let exec::Asked { begun, process, ends } = asked;
        let child = clone(WithoutUs::Dies, || child::exec(&theirs, plan, process, ends))?;
        let task = Task::Exec { asker, begun: Box::new(begun) };
        Ok(Job::new(key, task, child, ours, Vec::new(), until))
    }

    /// Has a child do something of which only the success is told.
    pub(crate) fn order(
        key: Key,
        task: Task,
        work: impl FnOnce() -> Result<(), Error>,
        until: Until,
    ) -> Result<Job, Error> {
        let (ours, theirs) = line::lines()?;
        let without_us =
            if matches!(task, Task::Dump { .. }) { WithoutUs::Finishes } else { WithoutUs::Dies };
        let child = clone(without_us, || child::order(&theirs, work))?;
        Ok(Job::new(key, task, child, ours, Vec::new(), until))
    }

    fn new(key: Key, task: Task, child: Child, line: OwnedFd, paths: Vec<PathBuf>, until: Until) -> Job {
        let Until { at_ns, patience_ms } = until;
        Job {
            key,
            task,
            child,
            line,
            until_ns: at_ns,
            given_up: None,
            finishes_until_ns: None,
            paths,
            patience_ms,
            at: 0,
            descendants: Vec::new(),
        }
    }

    /// The next word, if there is one.
    pub(crate) fn hear(&mut self) -> Result<Option<(Word, Vec<OwnedFd>)>, Silent> {
        loop {
            match line::receive(&self.line)? {
                Some((Word::At(at), _)) => self.at = at,
                other => return Ok(other),
            }
        }
    }

    /// It is killed, but for one that has criu at work: killed with code of its own in a container's processes, criu would
    /// take them along.
    pub(crate) fn give_up(&mut self, why: GivenUp, now_ns: u64) {
        if self.given_up.is_some() {
            return;
        }
        self.given_up = Some(why);
        if matches!(self.task, Task::Dump { .. }) {
            self.finishes_until_ns = Some(now_ns + LAST_DUMP_NS);
            self.until_ns = now_ns;
        } else {
            self.kill(now_ns);
        }
    }

    /// Whose end would have been that of processes which are to end anyway need not finish.
    pub(crate) fn need_not_finish(&mut self, now_ns: u64) {
        if self.finishes_until_ns.take().is_some() {
            self.kill(now_ns);
        }
    }

    /// Whether it was given up and goes on all the same.
    pub(crate) fn may_finish(&self) -> bool {
        self.finishes_until_ns.is_some()
    }

    /// Of one that was given up: whether it is left to its work for another moment.
    pub(crate) fn goes_on(&mut self, is_criu_inside: bool, now_ns: u64) -> bool {
        let Some(until_ns) = self.finishes_until_ns else { return false };
        if is_criu_inside && now_ns < until_ns {
            self.until_ns = now_ns + LOOK_NS;
        } else {
            self.finishes_until_ns = None;
            self.kill(now_ns);
        }
        true
    }

    fn kill(&mut self, now_ns: u64) {
        self.until_ns = now_ns + DEATH_NS;
        // What it began in a container is nobody's business any more. A container that was made after all is.
        if !matches!(self.task, Task::Make { .. }) {
            let begun = exec::descendants(self.child.pid);
            self.descendants = begun.into_iter().filter_map(Birth::open).collect();
        }
        for pidfd in std::iter::once(&self.child.pidfd).chain(&self.descendants) {
            // One that has ended already has said so.
            let _ = reap::kill(pidfd.as_fd());
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
            (Some(GivenUp::Late), None) if matches!(self.task, Task::Dump { .. }) => {
                let message =
                    format!("{} did not end within {} ms and was given up", self.name(), self.patience_ms);
                Error::refused(RefusalKind::TimedOut, message)
            }
            (Some(GivenUp::Late), None) => {
                let message = format!(
                    "{} did not end within {} ms and was given up; does every volume below it answer?",
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
            Task::Exec { begun, .. } => format!("starting a process in container {}", begun.container_id),
            Task::Start { .. } => "starting the container's command".into(),
            Task::Order { .. } => "what the container's runtime was told to do".into(),
            Task::Unmake { .. } => "the container's removal by its runtime".into(),
            Task::Dump { names, .. } => format!("the checkpoint of {names}"),
        }
    }

    pub(crate) fn abandoned(self) -> (Task, Abandoned) {
        let of = match &self.task {
            Task::Look { .. } | Task::Make { .. } | Task::Dump { .. } => {
                Of::Path(self.path().map(Path::to_path_buf))
            }
            Task::Exec { begun, .. } => Of::Container(begun.container),
            Task::Start { container, .. } | Task::Order { container, .. } | Task::Unmake { container } => {
                Of::Container(*container)
            }
        };
        let pidfds = std::iter::once(self.child.pidfd).chain(self.descendants).collect();
        (self.task, Abandoned { pidfds, of })
    }
}

/// How long a job may take, and until when that is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until {
    pub(crate) at_ns: u64,
    pub(crate) patience_ms: u64,
}

impl Until {
    /// The earlier of both.
    pub(crate) fn or_at(self, other_ns: Option<u64>) -> Until {
        let Some(other_ns) = other_ns.filter(|other_ns| *other_ns < self.at_ns) else { return self };
        let earlier_ms = (self.at_ns - other_ns) / 1_000_000;
        Until { at_ns: other_ns, patience_ms: self.patience_ms.saturating_sub(earlier_ms) }
    }
}

/// From now on.
pub(crate) fn until(patience_ms: u64) -> Until {
    let patience_ms = if patience_ms == 0 { PATIENCE_MS } else { patience_ms };
    Until { at_ns: clock::monotonic_ns().saturating_add(patience_ms.saturating_mul(1_000_000)), patience_ms }
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

/// What becomes of a child whose monitor is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WithoutUs {
    /// It would work for nobody, and hold what is the pod's.
    Dies,
    /// criu has code of its own in a container's processes, which would die of it; the next monitor waits for it.
    Finishes,
}

fn clone(without_us: WithoutUs, work: impl FnOnce() -> Result<(), Errno>) -> Result<Child, Error> {
    let monitor = getpid();
    let child = kernel::clone3(0, None, || {
        if without_us == WithoutUs::Dies {
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
        }
        match getppid() {
            Some(parent) if parent == monitor => i32::from(work().is_err()),
            Some(_) | None => 1,
        }
    });
    child.named("cloning", "a child")
}
