//! A process of the container's, the init or one that joins it: what its parent does for either.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use kernel::{Child, clone_flags as flag};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, waitid,
};

use crate::later::Later;
use crate::plan;
use crate::state::{Record, Status};
use crate::{Error, Stdio};

/// Leaves out what we do not have to give; says so.
pub(crate) fn grant(process: &mut plan::ProcessPlan, in_userns: bool) -> Result<Vec<String>, Error> {
    // Whoever is first in a user namespace has them all.
    let ours = kernel::capget().map_err(|e| Error::step("reading", "our capabilities", e))?.permitted;
    let available = if in_userns { u64::MAX } else { ours };
    let missing = process.capabilities.all() & !available;
    process.capabilities = process.capabilities.within(available);
    let mut names: Vec<&str> = process.unknown_capabilities.iter().map(String::as_str).collect();
    names.extend(plan::capability_names(missing));
    let mut warnings = Vec::new();
    if !names.is_empty() {
        warnings.push(format!("capabilities that cannot be granted here: {}", names.join(", ")));
    }
    warnings.extend(leave_out_ambient(&mut process.capabilities));
    Ok(warnings)
}

/// capabilities(7): one can be ambient only while it is both permitted and inheritable. config.md, "Linux Process": the
/// runtime "MUST log" what cannot be granted.
fn leave_out_ambient(sets: &mut plan::Sets) -> Option<String> {
    let possible = sets.permitted & sets.inheritable;
    let names = plan::capability_names(sets.ambient & !possible);
    sets.ambient &= possible;
    let all = "ambient capabilities that are not both permitted and inheritable are left out";
    (!names.is_empty()).then(|| format!("{all}: {}", names.join(", ")))
}

/// A record that has none is of a container whose profile asks nobody.
pub(crate) fn send_listener(
    record: &Record,
    process: &Child,
    number: i32,
    status: Status,
) -> Result<(), Error> {
    let listener = record.listener.as_ref().ok_or(Error::Died)?;
    listener.hand_over(process, number, &record.state(status))
}

pub(crate) fn stdio(stdio: &Stdio) -> Option<[BorrowedFd<'_>; 3]> {
    match stdio {
        Stdio::Inherit | Stdio::Terminal => None,
        Stdio::Fds { stdin, stdout, stderr } => Some([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
    }
}

pub(super) const JOINING: &str = "joining the namespace";

/// Clones with the children's PID namespace set to another for the moment: a child is born into it, and needs no
/// second clone to enter it.
pub(crate) fn clone_into(
    pid_namespace: Option<&OwnedFd>,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    work: impl FnOnce() -> i32,
) -> Result<Child, Error> {
    let clone =
        |work| kernel::clone3(flags, cgroup, work).map_err(|e| Error::step("cloning", "a process", e));
    let Some(theirs) = pid_namespace else { return clone(work) };
    let at = |e: Errno| Error::step(JOINING, "of PIDs", e);
    let ours = open(c"/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(at)?;
    kernel::setns(theirs.as_fd(), flag::NEWPID).map_err(at)?;
    let cloned = clone(work);
    kernel::setns(ours.as_fd(), flag::NEWPID).map_err(at)?;
    cloned
}

/// Lowering it takes CAP_SYS_RESOURCE; who lacks that keeps what it has, and hears of it.
pub(crate) fn set_oom_score_adj(pid: i32, value: i32, later: &Later) -> Result<Option<String>, Error> {
    let path = format!("/proc/{pid}/oom_score_adj");
    let written = File::options().write(true).open(&path).and_then(|mut file| {
        file.write_all(value.to_string().as_bytes())?;
        later.close(file);
        Ok(())
    });
    match written {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let stays = fs::read_to_string(&path).unwrap_or_default();
            Ok(Some(format!("oom_score_adj {value} needs CAP_SYS_RESOURCE; it stays {}", stays.trim())))
        }
        // It may have ended already; then the one who hears it out says why.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(Error::step("writing", path, error)),
    }
}

/// Those that we ignore and our children would too, past their exec: a shell's background job, nohup(1) and many
/// languages ignore some. Bit 0 is signal 1.
pub(crate) fn ignored_signals(later: &Later) -> u64 {
    let read = || {
        let mut file = File::open("/proc/self/status")?;
        let mut text = [0; 4096];
        let length = io::Read::read(&mut file, &mut text)?;
        later.close(file);
        Ok::<_, io::Error>(parse_ignored(&text[..length]))
    };
    // Who cannot know resets all; the two that nobody can ignore mind nothing.
    read().ok().flatten().unwrap_or(u64::MAX)
}

/// proc_pid_status(5).
fn parse_ignored(status: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(status).ok()?.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// In a child that waits for its maker: whether that is there still, and whose end is the child's from now on. A line's
/// end says nothing of it, since the child has the other one as well.
pub(crate) fn dies_with(maker: Pid) -> bool {
    set_parent_process_death_signal(Some(Signal::KILL)).is_ok() && getppid() == Some(maker)
}

/// In a child that is there only to be there: until it is killed, or its maker has gone.
pub(crate) fn stay(maker: Pid) -> i32 {
    while dies_with(maker) {
        rustix::event::pause();
    }
    0
}

/// Kills and reaps a child of ours that is of no use any more.
pub(crate) fn end(child: &Child) {
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    reap(child.pidfd.as_fd());
}

/// One that was cloned for us (CLONE_PARENT); not reaped, so the number is its own.
pub(crate) fn child_of_ours(pid: i32) -> Result<Child, Error> {
    let pidfd = Pid::from_raw(pid)
        .ok_or(Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|e| Error::step("opening", format!("process {pid}"), e))?;
    Ok(Child { pid, pidfd })
}

pub(crate) fn reap(child: BorrowedFd<'_>) {
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(child), WaitIdOptions::EXITED) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ambient_capability_must_be_permitted_and_inheritable() {
        let mut sets =
            plan::Sets { ambient: 0b1111, permitted: 0b0110, inheritable: 0b0011, ..plan::Sets::default() };
        let warning = leave_out_ambient(&mut sets).unwrap();
        assert!(warning.ends_with(": CAP_CHOWN, CAP_DAC_READ_SEARCH, CAP_FOWNER"), "{warning}");
        assert_eq!(sets.ambient, 0b0010);
        assert_eq!(leave_out_ambient(&mut sets), None);
    }

    #[test]
    fn ignored_signals_are_found_among_the_others() {
        let status = b"Name:\tSigIgn: 7\nSigBlk:\t0000000000000001\nSigIgn:\t0000000001001000\nSigCgt:\t0000000000000440\n";
        assert_eq!(parse_ignored(status), Some(1 << 12 | 1 << 24));
        assert_eq!(parse_ignored(b"State:\tR\n"), None);
    }
}
