//! Hooks: programs that the configuration wants run at points of a container's life.
//!
//! The state is a sealed file at their standard input rather than a pipe: a hook that does not read it neither
//! blocks nor kills us.

use std::io::{Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::Error;
use crate::spec::{Hook, Hooks};
use crate::state::State;

/// A hook without a timeout may still not hold a container for ever.
const LONGEST_S: i64 = 300;

/// Runs all, stopping at the first that fails.
pub(crate) fn run_all(hooks: &[Hook], state: &State) -> Result<(), Error> {
    hooks.iter().try_for_each(|hook| run(hook, state))
}

fn run(hook: &Hook, state: &State) -> Result<(), Error> {
    let failed = |reason: String| Error::Hook { path: hook.path.clone(), reason };
    let mut child = spawn(hook, state).map_err(|error| failed(error.to_string()))?;
    match wait(&mut child, hook.timeout).map_err(|error| failed(error.to_string()))? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(status.to_string())),
        None => Err(failed(format!("it did not end within {} s", timeout_s(hook.timeout)))),
    }
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
fn run_inside(hooks: &[Hook], state: &State) -> Result<(), Error> {
    if hooks.is_empty() {
        return Ok(());
    }
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    run_all(hooks, &State { pid: Some(pid), ..state.clone() })
}

impl ChildHooks {
    pub(crate) fn new(hooks: &Hooks, creating: State, created: State) -> ChildHooks {
        let (create_container, start_container) =
            (hooks.create_container.clone(), hooks.start_container.clone());
        ChildHooks { create_container, start_container, creating, created }
    }

    pub(crate) fn create_container(&self) -> Result<(), Error> {
        run_inside(&self.create_container, &self.creating)
    }

    pub(crate) fn start_container(&self) -> Result<(), Error> {
        run_inside(&self.start_container, &self.created)
    }
}
