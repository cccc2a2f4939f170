//! How processes end: our own children by wait(2), those of an earlier monitor by their pidfd.
//!
//! A process that another monitor started can't be waited for. Its exit code is still to be had: while it is a
//! zombie from /proc/<pid>/stat, and once its parent reaped it from the pidfd that was opened before
//! (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15).

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, wait};
use serde::{Deserialize, Serialize};

use crate::clock;

/// Nothing else is left to be done meanwhile.
const LAST_DEATH: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// include/linux/sched.h: on its way out.
const PF_EXITING: u32 = 4;

/// A process, told from a later one with the same number by when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Birth {
    pub(crate) pid: i32,
    /// Clock ticks since boot: field 22 of /proc/<pid>/stat.
    pub(crate) ticks: u64,
}

/// A child of ours that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) pid: i32,
    /// 128 + signal when one ended it.
    pub(crate) code: i32,
}

impl Birth {
    /// Of a process that can't go away meanwhile: a child that is not reaped yet.
    pub(crate) fn of(pid: i32) -> Birth {
        Birth { pid, ticks: stat(pid).map_or(0, |stat| stat.ticks) }
    }

    /// Whether it still runs. One that is ending gives up its namespaces first, and the first process of a PID namespace
    /// waits in its ending until all others are reaped; so there is a time in which it neither runs nor has ended.
    pub(crate) fn is_running(self) -> bool {
        let is_alive = |stat: &Stat| stat.state != b'Z' && stat.flags & PF_EXITING == 0;
        stat(self.pid).is_some_and(|stat| stat.ticks == self.ticks && is_alive(&stat))
    }

    /// A descriptor for the process, when it is still that one.
    pub(crate) fn open(self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        (stat(self.pid)?.ticks == self.ticks).then_some(pidfd)
    }
}

/// The next child that ended, if there is one.
pub(crate) fn next_child() -> Option<Ended> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                return Some(Ended { pid: pid.as_raw_nonzero().get(), code: code(status.as_raw()) });
            }
            Ok(None) => return None,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// How a process that is not our child ended, or `None` when it has not, or nobody can tell yet.
pub(crate) fn inherited_code(pidfd: BorrowedFd<'_>, pid: i32) -> Option<i32> {
    if let Ok(Some(status)) = kernel::pidfd_exit_status(pidfd) {
        return Some(code(status));
    }
    let stat = stat(pid)?;
    // The number was still that process's when it was read, if the process can be found now.
    (stat.state == b'Z' && exists(pidfd)).then(|| code(stat.exit_status))
}

/// Whether the zombie of a process that ended is still there. There is no signal 0 to be had here; a zombie ignores
/// this one.
pub(crate) fn exists(pidfd: BorrowedFd<'_>) -> bool {
    pidfd_send_signal(pidfd, Signal::CONT).is_ok()
}

pub(crate) fn kill(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// For the last process of all; a PID namespace ends with its first process, when all others in it have.
pub(crate) fn kill_and_wait(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    kill(pidfd)?;
    match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&LAST_DEATH))? {
        0 => Err(Errno::TIMEDOUT),
        _ => Ok(()),
    }
}

/// Waits for the ends of processes, for so long in all, and says which did not end.
pub(crate) fn those_that_stay(pids: &[i32], patience: Timespec) -> Vec<i32> {
    let begun = clock::monotonic_ns();
    let patience_ns = patience.tv_sec.unsigned_abs() * 1_000_000_000 + patience.tv_nsec.unsigned_abs();
    let stays = |pid: &i32| {
        let Some(pidfd) = Birth::of(*pid).open() else { return false };
        let left_ns = patience_ns.saturating_sub(clock::monotonic_ns() - begun);
        let left =
            Timespec { tv_sec: (left_ns / 1_000_000_000) as i64, tv_nsec: (left_ns % 1_000_000_000) as i64 };
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)).is_ok_and(|ready| ready == 0)
    };
    pids.iter().copied().filter(stays).collect()
}

/// Whether the process is traced (ptrace(2)).
pub(crate) fn has_tracer(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|tracer| tracer.trim() != "0")
}

/// wait(2)'s status of a process that ended: an exit code in the second byte, or a signal in the first.
fn code(status: i32) -> i32 {
    match status & 0x7f {
        0 => status >> 8 & 0xff,
        signal => 128 + signal,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    flags: u32,
    ticks: u64,
    exit_status: i32,
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// proc_pid_stat(5). The second field is the command in brackets and may hold anything, brackets too.
fn parse(stat: &[u8]) -> Option<Stat> {
    let after_command = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let text = std::str::from_utf8(stat.get(after_command..)?).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let flags = fields.nth(5)?.parse().ok()?;
    let ticks = fields.nth(12)?.parse().ok()?;
    let exit_status = fields.last()?.parse().ok()?;
    Some(Stat { state, flags, ticks, exit_status })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_stat_line_is_read_past_any_command() {
        let rest = "Z 1 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0 1 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 9";
        let check = |command: &str| {
            let stat = parse(format!("7 ({command}) {rest}\n").as_bytes());
            assert_eq!(stat, Some(Stat { state: b'Z', flags: 4, ticks: 4711, exit_status: 9 }), "{command}");
        };
        check("sh");
        check("a ) b (");
        check("");
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"7 (x) Z"), None);
    }

    #[test]
    fn a_process_is_known_by_its_birth() {
        let me = std::process::id() as i32;
        let birth = Birth::of(me);
        assert!(birth.open().is_some());
        assert!(Birth { ticks: birth.ticks + 1, ..birth }.open().is_none(), "another with that number");
        assert!(Birth { pid: 0, ticks: 0 }.open().is_none());
    }

    #[test]
    fn a_zombie_tells_its_code_without_being_waited_for() {
        let check = |script: &str, code: i32| {
            let mut child = std::process::Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
            let pid = child.id() as i32;
            let pidfd = Birth::of(pid).open().unwrap();
            let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, None).unwrap();
            assert_eq!(inherited_code(pidfd.as_fd(), pid), Some(code), "zombie of {script}");
            child.wait().unwrap();
            let after = inherited_code(pidfd.as_fd(), pid);
            assert!(after == Some(code) || after.is_none(), "reaped: {after:?}");
        };
        check("exit 3", 3);
        check("kill -9 $$", 137);
        check("exit 0", 0);
    }
}
