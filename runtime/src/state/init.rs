//! A container's init, told from any later process of the same number.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::later::Later;

/// A process, told from any later one of the same number by the time of its start.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Init {
    pub(crate) pid: i32,
    /// Clock ticks since boot.
    pub(crate) start_time: u64,
}

impl Init {
    pub(crate) fn of(pid: i32, later: &Later) -> Result<Init, Error> {
        let stat =
            read_stat(pid, later).map_err(|e| Error::step("reading", format!("/proc/{pid}/stat"), e))?;
        Ok(Init { pid, start_time: stat.start_time })
    }

    /// A zombie has ended, whether or not its parent has looked.
    pub(crate) fn is_alive(&self) -> bool {
        read_stat(self.pid, &Later::default())
            .is_ok_and(|stat| stat.start_time == self.start_time && !stat.is_dead)
    }

    /// Gone, number and all. A number that is another's by now counts as its own: who cares takes a closer look.
    pub(crate) fn has_ended(&self) -> bool {
        Pid::from_raw(self.pid).is_none_or(|pid| rustix::process::test_kill_process(pid) == Err(Errno::SRCH))
    }

    /// Its pidfd, or `None` when it has ended. Opened first and compared after, so it cannot be another's.
    pub(crate) fn open(&self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        self.is_alive().then_some(pidfd)
    }
}

pub(crate) struct Stat {
    is_dead: bool,
    start_time: u64,
}

/// proc_pid_stat(5). The command's name may hold anything, so fields are counted from its last parenthesis.
fn read_stat(pid: i32, later: &Later) -> io::Result<Stat> {
    // In one go: procfs has no size to plan by. A line is half as long at most.
    let mut text = [0; 1024];
    let mut file = fs::File::open(format!("/proc/{pid}/stat"))?;
    let length = io::Read::read(&mut file, &mut text)?;
    later.close(file);
    parse_stat(&text[..length]).ok_or_else(|| io::Error::from(Errno::INVAL))
}

pub(crate) fn parse_stat(text: &[u8]) -> Option<Stat> {
    let after_name = text.iter().rposition(|&byte| byte == b')')? + 2;
    let rest = std::str::from_utf8(text.get(after_name..)?).ok()?;
    let mut fields = rest.split(' ');
    let is_dead = matches!(fields.next()?, "Z" | "X");
    // Field 22; the state is field 3.
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { is_dead, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_mislead() {
        let line = b"7 (a) Z 1 (b)) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 5 6";
        let stat = parse_stat(line).unwrap();
        assert!(!stat.is_dead);
        assert_eq!(stat.start_time, 4242);
    }
}
