//! A container between the wish and its first process.

use conmon_protocol::ContainerPlan;

use super::{Container, Key};
use crate::error::Error;
use crate::handler::Made;
use crate::life::Life;
use crate::logfile::Log;
use crate::poll::Poll;
use crate::reap::Birth;
use crate::record::ContainerRecord;
use crate::stdio::{self, Ends, Streams};

/// A container that is being made: written down, with its log and its streams, and no process yet.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) record: ContainerRecord,
    streams: Streams,
    log: Log,
}

/// What a container is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Command,
    /// The images of another container's processes.
    Images,
}

impl Begun {
    /// With the container's side of its streams, or none for a terminal.
    pub(crate) fn begin(plan: &ContainerPlan, origin: Origin) -> Result<(Begun, Option<Ends>), Error> {
        let record = ContainerRecord {
            plan: plan.clone(),
            process: None,
            started_at_ns: None,
            cgroup: None,
            owns_pid_namespace: false,
            restored: origin == Origin::Images,
        };
        record.write()?;
        let log = Log::open(plan.log_path.as_deref())?;
        if plan.terminal {
            return Ok((Begun { record, streams: Streams::default(), log }, None));
        }
        let (streams, ends) = stdio::make(plan)?;
        Ok((Begun { record, streams, log }, Some(ends)))
    }

    /// Now that it has a process.
    pub(crate) fn finish(self, key: Key, made: Made, poll: &Poll) -> Result<Container, Error> {
        let Begun { record, mut streams, log } = self;
        let process = made.process;
        streams.console = process.console;
        let record = ContainerRecord {
            process: Some(Birth::of(process.pid)),
            cgroup: made.cgroup,
            owns_pid_namespace: made.owns_pid_namespace,
            ..record
        };
        record.write()?;
        let mut container = Container::new(key, record, Life::Created { pid: process.pid }, streams, log);
        container.warnings = process.warnings;
        container.watch_streams(poll)?;
        // It only makes the telling of a kill later: its end tells of it too.
        if let Err(error) = container.watch_memory(poll) {
            container.warnings.push(error.chain());
        }
        Ok(container)
    }
}
