//! Signals: for a container's init, or for all that is in it.

use std::os::fd::AsFd as _;

use crate::state::{Init, StateDir, Status};
use crate::{Error, Runtime, cgroup, freeze};

pub(crate) const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Init,
    All,
}

impl Runtime {
    /// Signals the init, or everything in the container's cgroup.
    ///
    /// # Errors
    /// `State` when it has ended, `NotFound`.
    pub fn kill(&self, id: &str, signal: i32, scope: Scope) -> Result<(), Error> {
        let record = StateDir::of(&self.root, id)?.read()?;
        if record.of_earlier_boot {
            // Whoever has its number or a cgroup of its name by now is another's.
            return Err(ended(id));
        }
        let cgroup = || freeze::cgroup_of(&record);
        let to_all = |cgroup: &cgroup::Cgroup| {
            cgroup.kill_all(signal).map_err(|source| Error::Cgroup { id: id.to_owned(), source })
        };
        match scope {
            Scope::All => match cgroup()? {
                none if none.is_none() => self.kill_init(id, record.init, signal),
                some => to_all(&some),
            },
            Scope::Init if signal == KILL && record.outlives_its_init() => match cgroup()? {
                some if some.pids().is_ok_and(|pids| !pids.is_empty()) => to_all(&some),
                _ => self.kill_init(id, record.init, signal),
            },
            Scope::Init => {
                self.kill_init(id, record.init, signal)?;
                if signal == KILL {
                    // v1: a frozen process does not die.
                    let _ = cgroup().map(|cgroup| cgroup.release());
                }
                Ok(())
            }
        }
    }

    fn kill_init(&self, id: &str, init: Option<Init>, signal: i32) -> Result<(), Error> {
        let pidfd = init.and_then(|init| init.open()).ok_or_else(|| ended(id))?;
        match kernel::pidfd_send_signal(pidfd.as_fd(), signal) {
            Err(rustix::io::Errno::INVAL) => {
                Err(Error::invalid("signal", format!("there is no signal {signal}")))
            }
            Err(rustix::io::Errno::SRCH) => Err(ended(id)),
            other => other.map_err(|e| Error::step("signalling", id, e)),
        }
    }
}

fn ended(id: &str) -> Error {
    Error::State { id: id.to_owned(), is: Status::Stopped.as_str(), wanted: Status::Running.as_str() }
}
