//! The child's side, between clone and exec: it performs the plan in its new namespaces.
//!
//! It decides nothing and says nothing but numbers (`report`). Everything it needs was opened or computed by the
//! parent; of the host it sees only what it holds by descriptor.

mod at_once;
mod cgroups;
mod copyup;
mod devices;
mod exec;
mod fresh;
mod home;
mod identity;
mod masks;
mod mounts;
mod place;
mod root;
mod terminal;
mod wait;

pub(crate) use exec::{ExecKit, exec, exec_first_of_two};
pub(crate) use place::is_on_proc as is_proc;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use kernel::{CStringArray, MountAttr, clone_flags as flag};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::process::{Signal, setsid};

use crate::hooks;
use crate::plan::{MemoryPolicy, Plan};
use crate::report::{At as _, Failure, Line, Step};
use crate::seccomp::Filter;
use crate::{Keyring, RootChange};

type Done = Result<(), Failure>;

/// What the init of a container holds.
#[derive(Debug)]
pub(crate) struct Kit<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) line: &'a Line,
    /// The root file system, a detached mount.
    pub(crate) root: BorrowedFd<'a>,
    /// Whether that is a procfs itself, of whatever use it may be.
    pub(crate) root_is_proc: bool,
    /// Where it is attached until it is pivoted into: "/", or its place on the host when hooks want it there.
    pub(crate) attach_at: CString,
    /// By mount: the cloned source of a bind mount, or the user namespace that a new file system is mapped by.
    pub(crate) trees: &'a [Option<OwnedFd>],
    /// By device: the host's node, where nodes cannot be made. Empty where they can.
    pub(crate) nodes: &'a [Option<OwnedFd>],
    pub(crate) hierarchies: &'a [Hierarchy],
    /// Namespaces to join, with their flags.
    pub(crate) joined: &'a [(u64, OwnedFd)],
    pub(crate) tasks: &'a [OwnedFd],
    pub(crate) start: &'a OwnedFd,
    /// Where whoever starts the container hears that a startContainer hook failed; it closes at exec.
    pub(crate) outcome: Option<&'a OwnedFd>,
    pub(crate) stdio: Option<[BorrowedFd<'a>; 3]>,
    pub(crate) filter: Option<&'a Filter>,
    pub(crate) preserve_fds: u32,
    pub(crate) hooks: &'a hooks::ChildHooks,
    /// By the maker; the program begins without.
    pub(crate) ignored_signals: u64,
    pub(crate) keyring: Keyring,
    pub(crate) root_change: RootChange,
}

/// With more mounts than this, descriptors are closed one by one: they might be too many at a time.
const MANY_MOUNTS: usize = 100;

impl Kit<'_> {
    /// Leaves a descriptor to the one call that closes all of them before the program begins.
    fn let_go(&self, fd: OwnedFd) {
        if self.plan.mounts.len() + self.plan.masked.len() + self.plan.readonly.len() > MANY_MOUNTS {
            drop(fd);
        } else {
            std::mem::forget(fd);
        }
    }
}

/// The container's own directory in one v1 hierarchy.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    pub(crate) name: CString,
    /// Other names of it, such as `cpu` for `cpu,cpuacct`.
    pub(crate) aliases: Vec<CString>,
    pub(crate) tree: OwnedFd,
}

/// Exit status of a child that reported why it ends.
const FAILED: i32 = 1;
/// What shells say of a command that was found and could not be executed.
const CANNOT_EXEC: i32 = 126;

/// The first child where two are needed: joins namespaces, then makes the init from there.
pub(crate) fn first_of_two(kit: &Kit<'_>) -> i32 {
    match join_and_clone(kit) {
        Ok(()) => 0,
        Err(failure) => {
            kit.line.failed(failure);
            FAILED
        }
    }
}

fn join_and_clone(kit: &Kit<'_>) -> Done {
    // The host's, as long as we see it: in a mount namespace that is joined anything may lie at /proc (CVE-2025-52881).
    let procfs =
        kit.plan.time_offsets.as_ref().map(|_| host_procfs()).transpose().at(Step::TimeOffsets, 0)?;
    hide_and_join(kit)?;
    new_time(kit.plan, procfs.as_ref())?;
    let new = kit.plan.namespaces.new;
    let init =
        kernel::clone3(new | flag::PARENT, None, || rest_of_init(kit, become_init)).at(Step::Fork, 0)?;
    kit.line.cloned(init.pid).at(Step::Report, 0)
}

/// The init of a container whose namespaces were all made by its clone.
pub(crate) fn init(kit: &Kit<'_>) -> i32 {
    rest_of_init(kit, |kit| {
        hide_and_join(kit)?;
        become_init(kit)
    })
}

fn rest_of_init(kit: &Kit<'_>, make: impl FnOnce(&Kit<'_>) -> Result<Found, Failure>) -> i32 {
    match make(kit) {
        Ok(found) => wait::run(kit, &found),
        Err(failure) => {
            kit.line.failed(failure);
            FAILED
        }
    }
}

/// Hidden first (CVE-2016-9962): in a namespace that is joined, somebody may be waiting for us. Whose namespaces are
/// all new hides once it has its ids: an ordinary user may write the maps only of who is not hidden.
fn hide_and_join(kit: &Kit<'_>) -> Done {
    if kit.plan.namespaces.maps.is_none() || !kit.joined.is_empty() {
        kernel::set_undumpable().at(Step::Undumpable, 0)?;
    }
    join_cgroups(kit.tasks)?;
    for (i, (flag, namespace)) in kit.joined.iter().enumerate() {
        kernel::setns(namespace.as_fd(), *flag).at(Step::JoinNamespace, i)?;
    }
    Ok(())
}

/// A thread that moves itself through `tasks` waits for no RCU grace period; being moved costs 8 to 14 ms.
fn join_cgroups(tasks: &[OwnedFd]) -> Done {
    for (i, file) in tasks.iter().enumerate() {
        rustix::io::write(file, b"0").at(Step::JoinCgroup, i)?;
    }
    Ok(())
}

/// What the init has found out by the time it waits for `start`.
struct Found {
    /// Which candidate the program is.
    program: usize,
    /// The environment, where it is not quite the one that was asked for.
    env: Option<CStringArray>,
}

/// Everything that needs no `start`.
fn become_init(kit: &Kit<'_>) -> Result<Found, Failure> {
    let plan = kit.plan;
    die_with_the_maker(Some(Signal::KILL))?;
    if plan.waits_for_parent() {
        kit.line.wait().at(Step::WaitForParent, 0)?;
    }
    if plan.namespaces.has(flag::NEWUSER) {
        become_root()?;
        kernel::set_undumpable().at(Step::Undumpable, 0)?;
        // Another user's process has forgotten it (prctl(2)).
        die_with_the_maker(Some(Signal::KILL))?;
    }
    kernel::reset_signals(kit.ignored_signals);
    setsid().at(Step::Session, 0)?;
    renew_keyring(kit.keyring)?;
    new_cgroup_view(plan)?;
    name_host(plan)?;
    bring_loopback_up(kit)?;
    let label = with_private_procfs(plan)?;
    let terminal = root::make(kit)?;
    special(plan)?;
    if let Some(terminal) = &terminal {
        identity::connect_terminal(&terminal.slave)?;
    } else if let Some(stdio) = kit.stdio {
        identity::connect(stdio)?;
    } else {
        identity::own_stdio(kit.root, &plan.process);
    }
    let env = home::environment(kit.root, &plan.process);
    identity::become_process(kit.root, &plan.process, label.as_ref(), kit.filter, kit.line)?;
    let program = identity::look_up(&plan.process)?;
    die_with_the_maker(None)?;
    if kit.filter.is_some_and(|filter| filter.listener) {
        // Now, while there is somebody to send the listener off; everybody's last calls are then the agent's to judge.
        identity::load_last(&plan.process, kit.filter, kit.line)?;
    }
    kit.line.ready(terminal.as_ref().map(|terminal| terminal.master.as_fd())).at(Step::Report, 0)?;
    Ok(Found { program, env })
}

/// Until we are ready: a maker that is killed half-way would leave us waiting for its word, with all that it had open.
fn die_with_the_maker(signal: Option<Signal>) -> Done {
    rustix::process::set_parent_process_death_signal(signal).at(Step::Session, 1)
}

/// The monitor's or daemon's session keyring is none of the container's business.
fn renew_keyring(keyring: Keyring) -> Done {
    if keyring == Keyring::Inherit {
        return Ok(());
    }
    match kernel::keyctl_join_session_keyring() {
        // A kernel without keyrings, or a sandbox around us that hides them: nothing to be kept apart.
        Ok(()) | Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        Err(errno) => Err(Failure { step: Step::Keyring, errno, index: 0 }),
    }
}

fn become_root() -> Done {
    rustix::thread::set_thread_groups(&[]).at(Step::BecomeRoot, 0).or_else(|failure| {
        match failure.errno {
            Errno::PERM => Ok(()),
            _ => Err(failure),
        }
    })?;
    let (gid, uid) = (rustix::fs::Gid::ROOT, rustix::fs::Uid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).at(Step::BecomeRoot, 0)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).at(Step::BecomeRoot, 0)
}

/// Of the time namespace that the next child will be born into; until then its clocks can be set.
fn new_time(plan: &Plan, procfs: Option<&OwnedFd>) -> Done {
    if plan.namespaces.late & flag::NEWTIME == 0 {
        return Ok(());
    }
    kernel::unshare(flag::NEWTIME).at(Step::NewNamespace, 0)?;
    let (Some(offsets), Some(procfs)) = (&plan.time_offsets, procfs) else { return Ok(()) };
    let file = write_at_procfs(procfs.as_fd(), c"self/timens_offsets").at(Step::TimeOffsets, 0)?;
    rustix::io::write(file, offsets).map(drop).at(Step::TimeOffsets, 0)
}

/// The procfs of the mount namespace that we are in, which is the host's until another is joined.
fn host_procfs() -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let procfs = rustix::fs::open(c"/proc", flags, Mode::empty())?;
    if is_proc(&procfs)? { Ok(procfs) } else { Err(Errno::NODEV) }
}

/// One of its own files: nothing that is mounted over it, and nowhere that a magic link leads.
fn write_at_procfs(procfs: BorrowedFd<'_>, path: &CStr) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    openat2(procfs, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Its root is the cgroup that we are in by now.
fn new_cgroup_view(plan: &Plan) -> Done {
    if plan.namespaces.late & flag::NEWCGROUP == 0 {
        return Ok(());
    }
    kernel::unshare(flag::NEWCGROUP).at(Step::NewNamespace, 0)
}

/// As runc and crun do in a network namespace that is the container's own: programs expect 127.0.0.1 to be there.
fn bring_loopback_up(kit: &Kit<'_>) -> Done {
    if (kit.plan.namespaces.new | kit.plan.namespaces.late) & flag::NEWNET == 0 {
        return Ok(());
    }
    kit.let_go(kernel::set_link_up(c"lo").at(Step::Loopback, 0)?);
    Ok(())
}

fn name_host(plan: &Plan) -> Done {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name).at(Step::Hostname, 0)?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name).at(Step::Domainname, 0)?;
    }
    Ok(())
}

/// Sysctls, and where the label will be written, through a procfs that is attached nowhere: nothing can be mounted
/// over its files (CVE-2025-52881). Before the root is pivoted into: a user namespace may mount a procfs only as
/// long as it sees another one whole.
fn with_private_procfs(plan: &Plan) -> Result<Option<OwnedFd>, Failure> {
    if plan.sysctls.is_empty() && plan.process.label.is_none() {
        return Ok(None);
    }
    let procfs = mounts::make_fs(c"proc", &[], &MountAttr::default(), drop).at(Step::Procfs, 0)?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    for (i, sysctl) in plan.sysctls.iter().enumerate() {
        let file = openat2(&procfs, &sysctl.path, flags, Mode::empty(), resolve).at(Step::Sysctl, i)?;
        rustix::io::write(file, &sysctl.value).at(Step::Sysctl, i)?;
    }
    identity::open_label(procfs.as_fd(), &plan.process)
}

fn special(plan: &Plan) -> Done {
    if let Some(persona) = plan.personality {
        kernel::personality(persona).at(Step::Personality, 0)?;
    }
    remember_where(plan.memory_policy.as_ref())
}

fn remember_where(policy: Option<&MemoryPolicy>) -> Done {
    let Some(policy) = policy else { return Ok(()) };
    kernel::set_mempolicy(policy.mode, &policy.nodes).at(Step::MemoryPolicy, 0)
}
