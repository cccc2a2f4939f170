//! `pause` and `resume`: the container's cgroup is frozen and thawed. Whether it is frozen, the kernel says.

use crate::cgroup::{self, Cgroup};
use crate::state::{Record, State, StateDir, Status};
use crate::{Error, Runtime};

impl Runtime {
    /// Stops every process of a running container, and answers when they have stopped.
    ///
    /// # Errors
    /// `State` when it is not running, `NotFound`, or the kernel's answer.
    pub fn pause(&self, id: &str) -> Result<(), Error> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.read()?;
        match shown_status(&dir, &record) {
            // runc pauses a created container as well.
            Status::Created | Status::Running => cgroup_of(&record)?.freeze().map_err(|e| in_cgroup(id, e)),
            is @ (Status::Creating | Status::Paused | Status::Stopped) => Err(refuse(id, is, "running")),
        }
    }

    /// Lets the processes of a paused container run again.
    ///
    /// # Errors
    /// `State` when it is not paused, `NotFound`, or the kernel's answer.
    pub fn resume(&self, id: &str) -> Result<(), Error> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.read()?;
        match shown_status(&dir, &record) {
            Status::Paused => cgroup_of(&record)?.thaw().map_err(|e| in_cgroup(id, e)),
            is @ (Status::Creating | Status::Created | Status::Running | Status::Stopped) => {
                Err(refuse(id, is, "paused"))
            }
        }
    }
}

/// What a container is, frozen or not.
pub(crate) fn shown(dir: &StateDir, record: &Record) -> State {
    record.state(shown_status(dir, record))
}

pub(crate) fn shown_status(dir: &StateDir, record: &Record) -> Status {
    match record.status(dir) {
        alive @ (Status::Created | Status::Running) => {
            // One whose cgroup cannot be asked runs as far as anybody can tell.
            let frozen = cgroup_of(record).is_ok_and(|cgroup| cgroup.is_frozen().unwrap_or(false));
            if frozen { Status::Paused } else { alive }
        }
        other @ (Status::Creating | Status::Paused | Status::Stopped) => other,
    }
}

pub(crate) fn cgroup_of(record: &Record) -> Result<Cgroup, Error> {
    record.cgroup().map_err(|source| in_cgroup(&record.id, source))
}

pub(crate) fn in_cgroup(id: &str, source: cgroup::Error) -> Error {
    Error::Cgroup { id: id.to_owned(), source }
}

fn refuse(id: &str, is: Status, wanted: &'static str) -> Error {
    Error::State { id: id.to_owned(), is: is.as_str(), wanted }
}
