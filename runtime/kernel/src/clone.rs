//! clone3(2) and the child's last call.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::Result;

use crate::call::answer;

/// Bits of `clone_args.flags` that callers choose from.
pub mod clone_flags {
    pub const NEWTIME: u64 = 0x80;
    pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
    pub const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
    pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
    pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
    pub const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
    pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
    pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
    /// The child becomes a sibling: its parent is the caller's parent.
    pub const PARENT: u64 = libc::CLONE_PARENT as u64;
}

const CLONE_PIDFD: u64 = libc::CLONE_PIDFD as u64;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of linux/sched.h, version 2 (Linux 5.7).
#[repr(C)]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A child, as its parent sees it.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// Forks; the child runs `work` and ends with the status that it answers. `cgroup` is a cgroup2 directory that
/// the child is born in. For callers of one thread: a lock that another thread holds stays locked in the child.
///
/// # Errors
/// Whatever clone3(2) says.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>, work: impl FnOnce() -> i32) -> Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | CLONE_PIDFD,
        pidfd: (&raw mut pidfd) as u64,
        // A sibling ends with its creator's signal, and the kernel refuses another.
        exit_signal: if flags & clone_flags::PARENT == 0 { libc::SIGCHLD as u64 } else { 0 },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child has its own copy of memory and goes on with our stack's copy; it would
    // go wrong if `args` were longer than the size given, or `pidfd` dead while the kernel writes it.
    let pid = answer(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        exit(work());
    }
    // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD), and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid: pid as i32, pidfd })
}

/// _exit(2): ends at once, without a word to anybody's destructors.
pub fn exit(status: i32) -> ! {
    // SAFETY: `_exit` touches no memory of ours and does not return.
    unsafe { libc::_exit(status) }
}
