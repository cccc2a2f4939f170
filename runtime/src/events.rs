//! What goes on in a container: its use of resources, its deaths for want of memory, its end.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::cgroup::stats::Stats;
use crate::cgroup::{Cgroup, OomWatch};
use crate::freeze::{cgroup_of, in_cgroup, shown_status};
use crate::state::{Init, Record, StateDir, Status};
use crate::{Error, Runtime};

/// v1 tells of a want of memory, and the killing that we count follows within this.
const KILL_FOLLOWS: Duration = Duration::from_millis(50);

/// What `Watch::next` can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// So many processes were killed for want of memory.
    Oom { kills: u64 },
    /// Nothing, for as long as we were to wait.
    Quiet,
    /// The init has ended.
    Ended,
}

/// Waits for events of one container.
#[derive(Debug)]
pub struct Watch {
    cgroup: Cgroup,
    /// None where the node has no memory controller.
    oom: Option<OomWatch>,
    init: OwnedFd,
}

impl Runtime {
    /// What the container's cgroup has used.
    ///
    /// # Errors
    /// `State` when it is not running, `NotFound`, or the kernel's answer.
    pub fn stats(&self, id: &str) -> Result<Stats, Error> {
        let (record, _) = self.running(id)?;
        cgroup_of(&record)?.stats().map_err(|e| in_cgroup(id, e))
    }

    /// Its processes, as this PID namespace numbers them.
    ///
    /// # Errors
    /// `State` when it is not running, `NotFound`, or the kernel's answer.
    pub fn pids(&self, id: &str) -> Result<Vec<i32>, Error> {
        let (record, init) = self.running(id)?;
        let mut pids = cgroup_of(&record)?.pids().map_err(|e| in_cgroup(id, e))?;
        if pids.is_empty() {
            // Without a cgroup of its own, the init is all that we know of.
            pids.push(init.pid);
        }
        Ok(pids)
    }

    /// Watches the container from now on.
    ///
    /// # Errors
    /// `State` when it is not running, `NotFound`, or the kernel's answer.
    pub fn watch(&self, id: &str) -> Result<Watch, Error> {
        let (record, init) = self.running(id)?;
        let ended = || Error::State { id: id.to_owned(), is: Status::Stopped.as_str(), wanted: "running" };
        let cgroup = cgroup_of(&record)?;
        let oom = match cgroup.watch_oom() {
            Err(crate::cgroup::Error::MissingController { .. }) => None,
            other => Some(other.map_err(|e| in_cgroup(id, e))?),
        };
        Ok(Watch { cgroup, oom, init: init.open().ok_or_else(ended)? })
    }

    fn running(&self, id: &str) -> Result<(Record, Init), Error> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.read()?;
        match (shown_status(&dir, &record), record.init) {
            (Status::Created | Status::Running | Status::Paused, Some(init)) => Ok((record, init)),
            (is, _) => Err(Error::State { id: id.to_owned(), is: is.as_str(), wanted: "running" }),
        }
    }
}

impl Watch {
    /// The next event, or `Quiet` after `limit`.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn next(&mut self, limit: Duration) -> Result<Event, Error> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (ended, news) = self.wait(left)?;
            let kills = if news || ended { self.kills() } else { 0 };
            if kills > 0 {
                return Ok(Event::Oom { kills });
            }
            if ended {
                return Ok(Event::Ended);
            }
            if left.is_zero() {
                return Ok(Event::Quiet);
            }
        }
    }

    /// (the init has ended, there may be news)
    fn wait(&self, limit: Duration) -> Result<(bool, bool), Error> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.init.as_fd(), PollFlags::IN)];
        fds.extend(self.oom.as_ref().map(|oom| PollFd::from_borrowed_fd(oom.as_fd(), PollFlags::IN)));
        let time = Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::step("waiting for", "events of the container", errno)),
        }
        let is = |i: usize| fds.get(i).is_some_and(|fd| !fd.revents().is_empty());
        Ok((is(0), is(1)))
    }

    fn kills(&mut self) -> u64 {
        let Some(oom) = &mut self.oom else { return 0 };
        match oom.take(&self.cgroup) {
            0 => {
                std::thread::sleep(KILL_FOLLOWS);
                oom.take(&self.cgroup)
            }
            kills => kills,
        }
    }
}
