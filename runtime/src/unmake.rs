//! The one inverse of making: for a create that failed, for `delete`, and for what a crash left. It starts from
//! the record alone, works from any point, and finds nothing to do the second time.

use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};

use crate::shared_root::SharedRoot;
use crate::state::{Record, StateDir, Status};
use crate::{Error, chain};
use crate::{hooks, rdt};

/// How long a killed init may take to die: it first ends everything in its PID namespace.
const DEATH_S: i64 = 10;

/// Takes away processes, cgroup and record, going on past what it cannot do and giving all that back.
/// Answers with what poststop hooks had to complain of.
pub(crate) fn unmake(dir: &StateDir) -> Result<Vec<String>, Vec<Error>> {
    match dir.read_if_there() {
        Ok(record) => unmake_known(dir, record.as_ref()),
        Err(error) => Err(vec![error]),
    }
}

/// The same, with the record in hand; none: the directory was made and nothing else yet.
pub(crate) fn unmake_known(dir: &StateDir, record: Option<&Record>) -> Result<Vec<String>, Vec<Error>> {
    match record {
        Some(record) => unmake_in(dir, record, record.init.is_some_and(|init| init.has_ended())),
        None => dir.remove().map(|()| Vec::new()).map_err(|error| vec![error]),
    }
}

/// The same, for a container whose init has ended and been reaped.
pub(crate) fn unmake_ended(dir: &StateDir, record: &Record) -> Result<Vec<String>, Vec<Error>> {
    unmake_in(dir, record, true)
}

fn unmake_in(dir: &StateDir, record: &Record, has_ended: bool) -> Result<Vec<String>, Vec<Error>> {
    let mut left = Vec::new();
    let warnings = unmake_record(dir, record, has_ended, &mut left);
    // The record stays as long as there is something that only it knows of.
    if left.is_empty() { dir.remove().map(|()| warnings).map_err(|error| vec![error]) } else { Err(left) }
}

fn unmake_record(dir: &StateDir, record: &Record, has_ended: bool, left: &mut Vec<Error>) -> Vec<String> {
    if record.of_earlier_boot {
        // Its processes ended with that boot; whoever is in a cgroup of that name by now is another's.
        return run_poststop(record);
    }
    let in_cgroup = |source| Error::Cgroup { id: record.id.clone(), source };
    let cgroup = match record.cgroup() {
        Ok(cgroup) => cgroup,
        Err(source) => {
            left.push(in_cgroup(source));
            return Vec::new();
        }
    };
    // The FIFO is made when the cgroup is ours, and before anything of ours is in it.
    if has_ended && cgroup.remove_empty() {
        // The usual end: nobody is left to be killed. A cgroup with anybody in it does not go.
    } else if record.init.is_some() || dir.waits_for_start() {
        if let Err(source) = cgroup.kill_all(Signal::KILL.as_raw()) {
            left.push(in_cgroup(source));
        }
        if let Err(error) = kill_init(record) {
            left.push(error);
        }
        if let Err(source) = cgroup.remove() {
            left.push(in_cgroup(source));
        }
    } else {
        // Nothing of ours ran in it, and it may be somebody else's: a path in use is what made `create` fail.
        cgroup.remove_if_empty();
    }
    // Their namespace is held for that, so that they have not gone with the init.
    if let Some(Err(error)) = record.net_devices.as_ref().map(|loan| loan.give_back(&dir.pinned_network())) {
        left.push(error);
    }
    if let Some(Err(error)) = record.shared_root.as_ref().map(SharedRoot::detach) {
        left.push(error);
    }
    // A class with processes in it can go too, but they would fall back to the node's.
    if let Some(Err(error)) = record.rdt.as_ref().map(rdt::Groups::remove) {
        left.push(error);
    }
    if left.is_empty() && record.init.is_some() { run_poststop(record) } else { Vec::new() }
}

/// runtime.md, "Lifecycle" 13: one that fails is worth a warning, and keeps neither the others nor the removal back.
fn run_poststop(record: &Record) -> Vec<String> {
    let state = record.state(Status::Stopped);
    let run = |(i, hook)| hooks::run_one("poststop", i, hook, &state).err();
    record
        .hooks
        .poststop
        .iter()
        .enumerate()
        .filter_map(run)
        .map(|error| format!("poststop {}", chain(&error)))
        .collect()
}

/// A cgroup shared with others is not killed as a whole by everybody, but the init always is.
fn kill_init(record: &Record) -> Result<(), Error> {
    let Some(init) = record.init else { return Ok(()) };
    let Some(pidfd) = init.open() else { return Ok(()) };
    let at = |e: rustix::io::Errno| Error::step("killing", format!("process {}", init.pid), e);
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => return Err(at(errno)),
    }
    let time = Timespec { tv_sec: DEATH_S, tv_nsec: 0 };
    match poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&time)).map_err(at)? {
        0 => Err(at(rustix::io::Errno::TIMEDOUT)),
        _ => Ok(()),
    }
}
