//! How far a container is, and what may be asked of it there.
//!
//! ```text
//! Making ──► Created ──► Starting ──► Running ──► Stopping ──► Exited ──► Removing ──► (gone)
//!               │           └───────────┴──────────────────────► ▲            │  ▲
//!               └──────────────────── Stopping ──────────────────┘            ▼  │
//!                                                                           Broken
//! ```
//! Any state but Making may be removed. Broken is where a removal that failed leaves it.

use conmon_protocol::{Exit, Phase};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    Making,
    Created {
        pid: i32,
    },
    /// The answer to a start and the end of the process come by two roads. An end that is heard first waits
    /// here: who asked for the start is told of the start.
    Starting {
        pid: i32,
        ended: Option<Exit>,
    },
    Running {
        pid: i32,
        started_at_ns: i64,
    },
    Stopping {
        pid: i32,
        started_at_ns: i64,
        stop: Stop,
    },
    Exited {
        started_at_ns: i64,
        exit: Exit,
    },
    /// Of what it was, only how it ended can still be asked for.
    Removing {
        started_at_ns: i64,
        exit: Option<Exit>,
    },
    Broken {
        started_at_ns: i64,
        exit: Option<Exit>,
    },
}

/// A stop in progress. Times are the daemon's own, in milliseconds since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// Asked to end; killed at the time given if it has not.
    Asked {
        kill_at_ms: u64,
    },
    Killed,
}

/// What can be asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Start,
    /// To be killed at the time given.
    Stop {
        kill_at_ms: u64,
        now_ms: u64,
    },
    Remove,
}

/// Do it, wait for work in flight and ask again, it is so already, or no and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Do(Deed),
    Join,
    Already,
    No(&'static str),
}

/// What an ask comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Start,
    /// Send the stop signal, and wait no longer than this.
    AskToEnd {
        kill_at_ms: u64,
    },
    /// The end is awaited already; await it no longer than this.
    Hurry {
        kill_at_ms: u64,
    },
    Kill,
    Remove,
}

/// What can happen to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Made {
        pid: i32,
    },
    StartBegun,
    Started {
        started_at_ns: i64,
    },
    StartFailed,
    StopBegun {
        kill_at_ms: u64,
    },
    Killed,
    /// The signal could not be sent.
    StopFailed,
    Exited(Exit),
    /// It has ended, and nobody is left who could say how.
    Lost(Exit),
    RemovalBegun,
    RemovalFailed,
}

impl Life {
    /// Decides what an ask comes to.
    pub fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Start => self.answer_start(),
            Ask::Stop { kill_at_ms, now_ms } => self.answer_stop(kill_at_ms, now_ms),
            Ask::Remove => self.answer_remove(),
        }
    }

    fn answer_start(&self) -> Answer {
        match self {
            Life::Making | Life::Starting { .. } => Answer::Join,
            Life::Created { .. } => Answer::Do(Deed::Start),
            Life::Running { .. } => Answer::Already,
            Life::Stopping { .. } => Answer::No("the container is being stopped"),
            Life::Exited { .. } => Answer::No("the container has exited"),
            Life::Removing { .. } | Life::Broken { .. } => Answer::No("the container is being removed"),
        }
    }

    fn answer_stop(&self, kill_at_ms: u64, now_ms: u64) -> Answer {
        match self {
            Life::Making | Life::Starting { .. } => Answer::Join,
            // Nothing of it runs yet that could hear a signal.
            Life::Created { .. } => Answer::Do(Deed::Kill),
            Life::Running { .. } if kill_at_ms <= now_ms => Answer::Do(Deed::Kill),
            Life::Running { .. } => Answer::Do(Deed::AskToEnd { kill_at_ms }),
            Life::Stopping { stop: Stop::Killed, .. } => Answer::Join,
            Life::Stopping { stop: Stop::Asked { .. }, .. } if kill_at_ms <= now_ms => Answer::Do(Deed::Kill),
            Life::Stopping { stop: Stop::Asked { kill_at_ms: before }, .. } if kill_at_ms < *before => {
                Answer::Do(Deed::Hurry { kill_at_ms })
            }
            Life::Stopping { stop: Stop::Asked { .. }, .. } => Answer::Join,
            Life::Exited { .. } | Life::Broken { .. } => Answer::Already,
            Life::Removing { .. } => Answer::Join,
        }
    }

    fn answer_remove(&self) -> Answer {
        match self {
            Life::Making | Life::Starting { .. } | Life::Removing { .. } => Answer::Join,
            Life::Created { .. } | Life::Running { .. } | Life::Stopping { .. } => Answer::Do(Deed::Remove),
            Life::Exited { .. } | Life::Broken { .. } => Answer::Do(Deed::Remove),
        }
    }

    /// What it is after an event; `None` where the event cannot happen.
    pub fn after(&self, event: Event) -> Option<Life> {
        let started_at_ns = self.started_at_ns();
        match event {
            Event::Made { pid } => match *self {
                Life::Making => Some(Life::Created { pid }),
                // It was killed while it waited for its start, and that was heard first.
                Life::Exited { .. } => Some(*self),
                _ => None,
            },
            Event::StartBegun => match *self {
                Life::Created { pid } => Some(Life::Starting { pid, ended: None }),
                _ => None,
            },
            Event::Started { started_at_ns } => self.after_started(started_at_ns),
            Event::StartFailed => match *self {
                Life::Starting { pid, ended: None } => Some(Life::Created { pid }),
                Life::Starting { ended: Some(exit), .. } => Some(self.ended(exit)),
                // Its end was heard first; what the monitor says last is what counts.
                Life::Exited { .. } => Some(*self),
                _ => None,
            },
            Event::StopBegun { kill_at_ms } => self.after_stop(Stop::Asked { kill_at_ms }),
            Event::Killed => self.after_stop(Stop::Killed),
            Event::StopFailed => match *self {
                Life::Stopping { pid, started_at_ns: 0, .. } => Some(Life::Created { pid }),
                Life::Stopping { pid, started_at_ns, .. } => Some(Life::Running { pid, started_at_ns }),
                // It ended all the same.
                Life::Exited { .. } | Life::Removing { .. } | Life::Broken { .. } => Some(*self),
                _ => None,
            },
            Event::Exited(exit) => Some(match *self {
                Life::Starting { pid, ended } => Life::Starting { pid, ended: ended.or(Some(exit)) },
                _ => self.ended(exit),
            }),
            Event::Lost(exit) => Some(self.ended(exit)),
            Event::RemovalBegun => Some(Life::Removing { started_at_ns, exit: self.exit() }),
            Event::RemovalFailed => match *self {
                Life::Removing { started_at_ns, exit } => Some(Life::Broken { started_at_ns, exit }),
                _ => None,
            },
        }
    }

    fn after_started(&self, started_at_ns: i64) -> Option<Life> {
        match *self {
            Life::Starting { pid, .. } => Some(Life::Running { pid, started_at_ns }),
            // A monitor that was asked anew told of the end meanwhile.
            Life::Exited { exit, .. } => Some(Life::Exited { started_at_ns, exit }),
            Life::Making
            | Life::Created { .. }
            | Life::Running { .. }
            | Life::Stopping { .. }
            | Life::Removing { .. }
            | Life::Broken { .. } => None,
        }
    }

    fn after_stop(&self, stop: Stop) -> Option<Life> {
        match *self {
            Life::Created { pid } => Some(Life::Stopping { pid, started_at_ns: 0, stop }),
            Life::Running { pid, started_at_ns } | Life::Stopping { pid, started_at_ns, .. } => {
                Some(Life::Stopping { pid, started_at_ns, stop })
            }
            Life::Making
            | Life::Starting { .. }
            | Life::Exited { .. }
            | Life::Removing { .. }
            | Life::Broken { .. } => None,
        }
    }

    fn ended(&self, exit: Exit) -> Life {
        let started_at_ns = self.started_at_ns();
        match *self {
            Life::Starting { ended: Some(heard), .. } => Life::Exited { started_at_ns, exit: heard },
            Life::Making
            | Life::Created { .. }
            | Life::Starting { ended: None, .. }
            | Life::Running { .. }
            | Life::Stopping { .. } => Life::Exited { started_at_ns, exit },
            // How it ended is heard once; a second telling changes nothing.
            Life::Exited { .. } => *self,
            Life::Removing { exit: before, .. } => {
                Life::Removing { started_at_ns, exit: before.or(Some(exit)) }
            }
            Life::Broken { exit: before, .. } => Life::Broken { started_at_ns, exit: before.or(Some(exit)) },
        }
    }

    /// What it is after a monitor, asked anew, said how far its process is. `None`: the monitor does not
    /// know the container.
    pub fn corrected(&self, phase: Option<Phase>, lost: Exit) -> Life {
        match (*self, phase) {
            (Life::Exited { .. } | Life::Removing { .. } | Life::Broken { .. }, _) => *self,
            (_, Some(Phase::Exited(exit))) => self.ended(exit),
            (Life::Stopping { stop, .. }, Some(Phase::Running { pid, started_at_ns })) => {
                Life::Stopping { pid, started_at_ns, stop }
            }
            (_, Some(Phase::Running { pid, started_at_ns })) => Life::Running { pid, started_at_ns },
            (Life::Making, _) => Life::Making,
            (_, Some(Phase::Created { pid })) => Life::Created { pid },
            (_, None) => self.ended(lost),
        }
    }

    /// Zero while it has not started.
    pub fn started_at_ns(&self) -> i64 {
        match *self {
            Life::Making | Life::Created { .. } | Life::Starting { .. } => 0,
            Life::Running { started_at_ns, .. }
            | Life::Stopping { started_at_ns, .. }
            | Life::Exited { started_at_ns, .. }
            | Life::Removing { started_at_ns, .. }
            | Life::Broken { started_at_ns, .. } => started_at_ns,
        }
    }

    pub fn exit(&self) -> Option<Exit> {
        match *self {
            Life::Exited { exit, .. } => Some(exit),
            Life::Removing { exit, .. } | Life::Broken { exit, .. } => exit,
            Life::Making
            | Life::Created { .. }
            | Life::Starting { .. }
            | Life::Running { .. }
            | Life::Stopping { .. } => None,
        }
    }

    /// The first process, while there is one.
    pub fn pid(&self) -> Option<i32> {
        match *self {
            Life::Created { pid }
            | Life::Starting { pid, .. }
            | Life::Running { pid, .. }
            | Life::Stopping { pid, .. } => Some(pid),
            Life::Making | Life::Exited { .. } | Life::Removing { .. } | Life::Broken { .. } => None,
        }
    }

    /// How it ended, when that was heard before its start was answered.
    pub fn ended_early(&self) -> Option<Exit> {
        if let Life::Starting { ended, .. } = *self { ended } else { None }
    }

    /// Whether an exec, an attach or a reopened log makes sense.
    pub fn is_running(&self) -> bool {
        match self {
            Life::Running { .. } | Life::Stopping { .. } => true,
            Life::Making
            | Life::Created { .. }
            | Life::Starting { .. }
            | Life::Exited { .. }
            | Life::Removing { .. }
            | Life::Broken { .. } => false,
        }
    }

    /// The state, for those who count.
    pub fn word(&self) -> &'static str {
        match self {
            Life::Making => "making",
            Life::Created { .. } => "created",
            Life::Starting { .. } => "starting",
            Life::Running { .. } => "running",
            Life::Stopping { .. } => "stopping",
            Life::Exited { .. } => "exited",
            Life::Removing { .. } => "removing",
            Life::Broken { .. } => "broken",
        }
    }

    pub fn is_making(&self) -> bool {
        matches!(self, Life::Making)
    }

    /// Whether the next daemon needs to find it on disk. What lies between, it asks the monitor.
    pub fn is_worth_keeping(&self) -> bool {
        match self {
            Life::Created { .. } | Life::Running { .. } | Life::Exited { .. } => true,
            Life::Making
            | Life::Starting { .. }
            | Life::Stopping { .. }
            | Life::Removing { .. }
            | Life::Broken { .. } => false,
        }
    }

    /// When it is to be killed, if it has been asked to end.
    pub fn kill_at_ms(&self) -> Option<u64> {
        match *self {
            Life::Stopping { stop: Stop::Asked { kill_at_ms }, .. } => Some(kill_at_ms),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
