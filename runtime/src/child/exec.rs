//! A process that joins a running container.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use kernel::{CStringArray, clone_flags as flag};
use rustix::fs::{Mode, OFlags};
use rustix::process::setsid;

use super::{FAILED, home, identity, join_cgroups, renew_keyring, terminal};
use crate::Keyring;
use crate::plan::{MemoryPolicy, ProcessPlan};
use crate::report::{At as _, Failure, Line, Step};
use crate::seccomp::Filter;

/// What a process that joins a container holds.
#[derive(Debug)]
pub(crate) struct ExecKit<'a> {
    pub(crate) process: &'a ProcessPlan,
    pub(crate) line: &'a Line,
    pub(crate) init: BorrowedFd<'a>,
    /// The init's root, where its mount namespace has another.
    pub(crate) root: Option<&'a OwnedFd>,
    /// Of the init; without the PID namespace, which we were born into, and those of `first`.
    pub(crate) namespaces: u64,
    /// Those that a first child joins, where two are needed: a user namespace gives an ordinary user the right to join
    /// the others, and a PID namespace takes its children.
    pub(crate) first: u64,
    /// Something is done to it from outside before it may be the program.
    pub(crate) waits: bool,
    pub(crate) tasks: &'a [OwnedFd],
    pub(crate) stdio: Option<[BorrowedFd<'a>; 3]>,
    pub(crate) filter: Option<&'a Filter>,
    pub(crate) personality: Option<u32>,
    pub(crate) memory_policy: Option<&'a MemoryPolicy>,
    pub(crate) preserve_fds: u32,
    /// By the maker; the program begins without.
    pub(crate) ignored_signals: u64,
    pub(crate) keyring: Keyring,
}

/// The first child where two are needed: joins, then clones the one that is wanted from there.
pub(crate) fn exec_first_of_two(kit: &ExecKit<'_>) -> i32 {
    match join_and_clone(kit) {
        Ok(()) => 0,
        Err(failure) => {
            kit.line.failed(failure);
            FAILED
        }
    }
}

fn join_and_clone(kit: &ExecKit<'_>) -> Result<(), Failure> {
    kernel::set_undumpable().at(Step::Undumpable, 0)?;
    kernel::setns(kit.init, kit.first).at(Step::JoinNamespace, 0)?;
    become_root()?;
    let second = kernel::clone3(flag::PARENT, None, || exec(kit)).at(Step::Fork, 0)?;
    kit.line.cloned(second.pid).at(Step::Report, 0)
}

fn become_root() -> Result<(), Failure> {
    let (gid, uid) = (rustix::fs::Gid::ROOT, rustix::fs::Uid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).at(Step::BecomeRoot, 0)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).at(Step::BecomeRoot, 0)
}

/// Runs it; comes back only when it could not be.
pub(crate) fn exec(kit: &ExecKit<'_>) -> i32 {
    let failure = match join(kit) {
        Ok(env) => identity::exec_any(kit.process, env.as_ref().unwrap_or(&kit.process.env)),
        Err(failure) => failure,
    };
    kit.line.failed(failure);
    FAILED
}

fn join(kit: &ExecKit<'_>) -> Result<Option<CStringArray>, Failure> {
    let process = kit.process;
    if kit.waits {
        kit.line.wait().at(Step::WaitForParent, 0)?;
    }
    kernel::set_undumpable().at(Step::Undumpable, 0)?;
    join_cgroups(kit.tasks)?;
    if let Some(cpus) = &process.affinity[1] {
        kernel::sched_setaffinity(cpus).at(Step::Affinity, 1)?;
    }
    kernel::reset_signals(kit.ignored_signals);
    setsid().at(Step::Session, 0)?;
    renew_keyring(kit.keyring)?;
    let label = exec_label(process)?;
    if kit.namespaces != 0 {
        kernel::setns(kit.init, kit.namespaces).at(Step::JoinNamespace, 0)?;
    }
    if let Some(root) = kit.root {
        super::root::enter(root.as_fd())?;
    }
    if kit.namespaces & flag::NEWUSER != 0 {
        become_root()?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty()).at(Step::Cwd, 0)?;
    let terminal =
        process.terminal.then(|| terminal::open(root.as_fd(), process)).transpose().at(Step::Console, 0)?;
    if let Some(terminal) = &terminal {
        kit.line.ready(Some(terminal.master.as_fd())).at(Step::Report, 0)?;
        identity::connect_terminal(&terminal.slave)?;
    } else if let Some(stdio) = kit.stdio {
        identity::connect(stdio)?;
    } else {
        identity::own_stdio(root.as_fd(), process);
    }
    if let Some(persona) = kit.personality {
        kernel::personality(persona).at(Step::Personality, 0)?;
    }
    let env = home::environment(root.as_fd(), process);
    super::remember_where(kit.memory_policy)?;
    identity::become_process(root.as_fd(), process, label.as_ref(), kit.filter, kit.line)?;
    kernel::close_range_cloexec(3 + kit.preserve_fds).at(Step::Stdio, 3)?;
    identity::load_last(process, kit.filter, kit.line)?;
    Ok(env)
}

/// On the host's procfs, where nothing of the container can be in the way.
fn exec_label(process: &ProcessPlan) -> Result<Option<OwnedFd>, Failure> {
    if process.label.is_none() {
        return Ok(None);
    }
    let procfs = super::host_procfs().at(Step::Label, 0)?;
    identity::open_label(procfs.as_fd(), process)
}
