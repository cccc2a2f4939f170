//! From root of the container to the process that was asked for: limits, user, capabilities, filter.
//!
//! Shared by the init of a container and by `exec`.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use kernel::{CStringArray, CapSets, cap_ambient_clear_all, cap_ambient_raise, capbset_drop, capset};
use rustix::fs::{Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, accessat, openat2, statat};
use rustix::io::Errno;
use rustix::process::{fchdir, ioctl_tiocsctty, setrlimit, umask};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::place::{Kind, Links, find, find_or_make};
use crate::plan::ProcessPlan;
use crate::report::{At as _, Failure, Line, Step};
use crate::seccomp::Filter;

type Done = Result<(), Failure>;

/// Where the process's label is written: opened before the container can put anything in its way.
pub(super) fn open_label(procfs: BorrowedFd<'_>, process: &ProcessPlan) -> Result<Option<OwnedFd>, Failure> {
    let Some((file, _)) = &process.label else { return Ok(None) };
    super::write_at_procfs(procfs, file).map(Some).at(Step::Label, 0)
}

/// Everything up to, and without, the filter of a process with no_new_privs.
pub(super) fn become_process(
    root: BorrowedFd<'_>,
    process: &ProcessPlan,
    label: Option<&OwnedFd>,
    filter: Option<&Filter>,
    line: &Line,
) -> Done {
    limits(process)?;
    schedule(process)?;
    if let (Some(file), Some((_, text))) = (label, &process.label) {
        rustix::io::write(file, text).at(Step::Label, 0)?;
    }
    let entered = enter(root, process);
    drop_bounding(process)?;
    if !process.no_new_privileges {
        // Without no_new_privs it takes CAP_SYS_ADMIN, which is about to go.
        load(filter, line)?;
    }
    become_user(process)?;
    set_capabilities(process)?;
    if process.no_new_privileges {
        kernel::set_no_new_privs().at(Step::NoNewPrivileges, 0)?;
    }
    match entered {
        // Root may be refused where the user is not: a network file system with squashed root.
        Err(Failure { errno: Errno::ACCESS, .. }) => enter(root, process)?,
        other => other?,
    }
    umask(Mode::from_raw_mode(process.umask));
    Ok(())
}

/// The last step before exec of a process with no_new_privs: the filter need allow nothing but exec.
pub(super) fn load_last(process: &ProcessPlan, filter: Option<&Filter>, line: &Line) -> Done {
    if process.no_new_privileges { load(filter, line) } else { Ok(()) }
}

fn load(filter: Option<&Filter>, line: &Line) -> Done {
    let Some(filter) = filter else { return Ok(()) };
    let listener = kernel::seccomp_set_mode_filter(&filter.program, filter.flags)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
        .at(Step::Seccomp, 0)?;
    let Some(listener) = listener else { return Ok(()) };
    line.listening(listener.as_raw_fd()).at(Step::Listener, 0)?;
    // It closes when the parent has it: the process that is judged may not be its own judge.
    line.wait().at(Step::Listener, 0)
}

fn limits(process: &ProcessPlan) -> Done {
    for (i, (resource, limit)) in process.rlimits.iter().enumerate() {
        setrlimit(*resource, *limit).at(Step::Rlimit, i)?;
    }
    Ok(())
}

fn schedule(process: &ProcessPlan) -> Done {
    if let Some(attr) = process.scheduler {
        kernel::sched_setattr(attr).at(Step::Scheduler, 0)?;
    }
    if let Some((class, priority)) = process.io_priority {
        kernel::ioprio_set(class, priority).at(Step::IoPriority, 0)?;
    }
    Ok(())
}

/// No magic link leads there, so a descriptor that leaked could not be a way out (CVE-2024-21626).
fn enter(root: BorrowedFd<'_>, process: &ProcessPlan) -> Done {
    if process.cwd.is_empty() {
        return fchdir(root).at(Step::Cwd, 0);
    }
    let dir = find(root, &process.cwd, Links::Follow).at(Step::Cwd, 0)?;
    fchdir(dir).at(Step::Cwd, 0)
}

/// What runc and crun do with a working directory that the image lacks.
pub(super) fn make_cwd(root: BorrowedFd<'_>, process: &ProcessPlan) -> Done {
    if process.cwd.is_empty() {
        return Ok(());
    }
    match find_or_make(root, &process.cwd, Kind::Dir, Links::Follow) {
        // Entering it will say what is wrong, in the user's name.
        Ok(_) | Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => Ok(()),
        Err(errno) => Err(Failure { step: Step::Cwd, errno, index: 0 }),
    }
}

fn drop_bounding(process: &ProcessPlan) -> Done {
    for capability in 0..u64::BITS {
        if process.capabilities.bounding & 1 << capability != 0 {
            continue;
        }
        match capbset_drop(capability) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(Failure { step: Step::BoundingSet, errno, index: capability }),
        }
    }
    Ok(())
}

fn become_user(process: &ProcessPlan) -> Done {
    if process.uid != 0 {
        kernel::set_keep_caps(true).at(Step::User, 0)?;
    }
    // With "deny" in /proc/self/setgroups there is nothing to be set, and nothing was asked.
    match set_thread_groups(&process.groups) {
        Err(Errno::PERM) if process.groups.is_empty() => {}
        other => other.at(Step::User, 0)?,
    }
    let gid = Gid::from_raw(process.gid);
    set_thread_res_gid(gid, gid, gid).at(Step::User, 0)?;
    let uid = Uid::from_raw(process.uid);
    set_thread_res_uid(uid, uid, uid).at(Step::User, 0)?;
    if process.uid != 0 {
        kernel::set_keep_caps(false).at(Step::User, 0)?;
    }
    Ok(())
}

fn set_capabilities(process: &ProcessPlan) -> Done {
    let sets = process.capabilities;
    let (effective, permitted, inheritable) = (sets.effective, sets.permitted, sets.inheritable);
    capset(CapSets { effective, permitted, inheritable }).at(Step::Capabilities, 0)?;
    if inheritable != 0 {
        // Of what is not inheritable any more the kernel has just dropped the ambient ones (capabilities(7)).
        cap_ambient_clear_all().at(Step::Capabilities, 0)?;
    }
    for capability in (0..u64::BITS).filter(|capability| sets.ambient & 1 << capability != 0) {
        match cap_ambient_raise(capability) {
            // Securebits of our maker's forbid it (SECBIT_NO_CAP_AMBIENT_RAISE), as to everybody here.
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(Failure { step: Step::Capabilities, errno, index: capability }),
        }
    }
    Ok(())
}

/// Descriptors 0, 1 and 2.
pub(super) fn connect(stdio: [BorrowedFd<'_>; 3]) -> Done {
    for (number, fd) in stdio.into_iter().enumerate() {
        kernel::dup_onto(fd, number as i32).at(Step::Stdio, number)?;
    }
    Ok(())
}

/// Inherited ones become the user's, who could not open /dev/stdout again otherwise. The node's null device becomes
/// the container's own, as with runc: nothing of the node's files stays open, which criu would not know either.
pub(super) fn own_stdio(root: BorrowedFd<'_>, process: &ProcessPlan) {
    let mut own = None;
    for (number, fd) in
        [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()].into_iter().enumerate()
    {
        let Ok(stat) = rustix::fs::fstat(fd) else { continue };
        if stat.st_rdev == rustix::fs::makedev(1, 3) {
            // A container without one keeps what it was given.
            let own = own.get_or_insert_with(|| own_null(root));
            let _ = own.as_ref().map(|null| kernel::dup_onto(null.as_fd(), number as i32));
        } else if process.uid != 0 {
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(process.uid)), None);
        }
    }
    // It closes with all others when the program begins.
    std::mem::forget(own);
}

fn own_null(root: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let resolve = rustix::fs::ResolveFlags::IN_ROOT | rustix::fs::ResolveFlags::NO_SYMLINKS;
    let null = openat2(root, c"dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(&null)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null { Ok(null) } else { Err(Errno::NODEV) }
}

/// The slave becomes the session's terminal, and 0, 1 and 2.
pub(super) fn connect_terminal(slave: &OwnedFd) -> Done {
    ioctl_tiocsctty(slave).at(Step::Console, 0)?;
    connect([slave.as_fd(); 3])
}

/// Which candidate is the program, while there is still somebody to be told.
pub(super) fn look_up(process: &ProcessPlan) -> Result<usize, Failure> {
    let mut worst = Errno::NOENT;
    for (i, candidate) in process.candidates.iter().enumerate() {
        match executable(candidate) {
            Ok(()) => return Ok(i),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => worst = errno,
        }
    }
    Err(Failure { step: Step::Command, errno: worst, index: 0 })
}

fn executable(path: &std::ffi::CStr) -> rustix::io::Result<()> {
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    let stat = statat(CWD, path, AtFlags::empty())?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if is_file { Ok(()) } else { Err(Errno::ACCESS) }
}

/// Tries all candidates; comes back only with why none of them will do.
pub(super) fn exec_any(process: &ProcessPlan, env: &CStringArray) -> Failure {
    let mut worst = Errno::NOENT;
    for candidate in &process.candidates {
        match kernel::execve(candidate, &process.args, env) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => worst = Errno::ACCESS,
            errno => return Failure { step: Step::Command, errno, index: 0 },
        }
    }
    Failure { step: Step::Command, errno: worst, index: 0 }
}
