//! Hooks: programs that the configuration wants run at points of a container's life.
//!
//! The state is a sealed file at their standard input rather than a pipe: a hook that does not read it neither
//! blocks nor kills us.

use std::io::{Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::Error;
use crate::report::{Failure, Step};
use crate::spec::{Hook, Hooks};
use crate::state::State;

/// A hook without a timeout may still not hold a container for ever.
const LONGEST_S: i64 = 300;

/// Runs all of a kind, stopping at the first that fails.
pub(crate) fn run_all(kind: &str, hooks: &[Hook], state: &State) -> Result<(), Error> {
    hooks.iter().enumerate().try_for_each(|(i, hook)| run_one(kind, i, hook, state))
}

pub(crate) fn run_one(kind: &str, i: usize, hook: &Hook, state: &State) -> Result<(), Error> {
    run(hook, state).map_err(|trouble| trouble.of(kind, i, hook))
}

fn run(hook: &Hook, state: &State) -> Result<(), Trouble> {
    let mut child = spawn(hook, state)?;
    match wait(&mut child, hook.timeout)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Trouble::Ended(status)),
        None => Err(Trouble::Late),
    }
}

/// What is wrong with a hook.
enum Trouble {
    Kernel(std::io::Error),
    Ended(ExitStatus),
    Late,
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Trouble {
        Trouble::Kernel(error)
    }
}

impl Trouble {
    fn of(self, kind: &str, i: usize, hook: &Hook) -> Error {
        let reason = match self {
            Trouble::Kernel(error) => error.to_string(),
            Trouble::Ended(status) => status.to_string(),
            Trouble::Late => format!("it did not end within {} s", timeout_s(hook.timeout)),
        };
        Error::Hook { path: hook.path.clone(), reason: format!("{reason} (hooks.{kind}[{i}])") }
    }

    /// As numbers, of a child that has no words: a status of wait(2) lies above the hook's index.
    fn as_failure(&self, i: usize) -> Failure {
        let (errno, status) = match self {
            Trouble::Kernel(error) => (Errno::from_io_error(error).unwrap_or(Errno::IO), 0),
            Trouble::Ended(status) => (Errno::CHILD, status.into_raw() as u32),
            Trouble::Late => (Errno::TIMEDOUT, 0),
        };
        Failure { step: Step::Hook, errno, index: status << HOOK_BITS | i as u32 }
    }

    fn of_failure(failure: Failure) -> Trouble {
        match failure.errno {
            Errno::CHILD => Trouble::Ended(ExitStatus::from_raw((failure.index >> HOOK_BITS).cast_signed())),
            Errno::TIMEDOUT => Trouble::Late,
            errno => Trouble::Kernel(errno.into()),
        }
    }
}

const HOOK_BITS: u32 = 16;

/// What the child said of one that it ran itself.
pub(crate) fn explain(kind: &str, hooks: &[Hook], failure: Failure) -> Error {
    let i = (failure.index & ((1 << HOOK_BITS) - 1)) as usize;
    hooks.get(i).map_or(Error::Died, |hook| Trouble::of_failure(failure).of(kind, i, hook))
}

fn spawn(hook: &Hook, state: &State) -> std::io::Result<Child> {
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|variable| variable.split_once('=')));
    command.stdin(stdin(state)?).spawn()
}

fn stdin(state: &State) -> std::io::Result<Stdio> {
    let mut file = std::fs::File::from(memfd_create(c"state", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(state)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// `None`: killed, since its time was over.
fn wait(child: &mut Child, timeout: Option<i64>) -> std::io::Result<Option<ExitStatus>> {
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(rustix::io::Errno::SRCH)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let time = Timespec { tv_sec: timeout_s(timeout), tv_nsec: 0 };
    if poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&time))? == 0 {
        child.kill()?;
        child.wait()?;
        return Ok(None);
    }
    child.wait().map(Some)
}

fn timeout_s(timeout: Option<i64>) -> i64 {
    timeout.filter(|&seconds| seconds > 0).unwrap_or(LONGEST_S)
}

/// Those that the child runs itself, in the container's namespaces.
#[derive(Debug)]
pub(crate) struct ChildHooks {
    create_container: Vec<Hook>,
    start_container: Vec<Hook>,
    creating: State,
    created: State,
}

/// runtime.md, "State": "For hooks executed in the container namespace, it is the pid as seen by the container."
fn seen_inside(state: &State) -> State {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    State { pid: Some(pid), ..state.clone() }
}

impl ChildHooks {
    pub(crate) fn new(hooks: &Hooks, creating: State, created: State) -> ChildHooks {
        let (create_container, start_container) =
            (hooks.create_container.clone(), hooks.start_container.clone());
        ChildHooks { create_container, start_container, creating, created }
    }

    pub(crate) fn create_container(&self) -> Result<(), Failure> {
        if self.create_container.is_empty() {
            return Ok(());
        }
        let state = seen_inside(&self.creating);
        let one = |(i, hook)| run(hook, &state).map_err(|trouble| trouble.as_failure(i));
        self.create_container.iter().enumerate().try_for_each(one)
    }

    pub(crate) fn start_container(&self) -> Result<(), Error> {
        if self.start_container.is_empty() {
            return Ok(());
        }
        run_all("startContainer", &self.start_container, &seen_inside(&self.created))
    }
}
