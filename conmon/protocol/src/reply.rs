//! What a monitor says: answers to what was asked, and events that nobody asked for.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// To the one who asked, with the number of the request.
    Answer { seq: u64, answer: Result<Answer, Refusal> },
    /// To every connected daemon.
    Event(Event),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Hello(PodState),
    /// Done, or already so.
    Done,
    Created {
        pid: i32,
    },
    Started {
        started_at_ns: i64,
    },
    /// With a terminal, its master rides as the only descriptor.
    ExecStarted {
        pid: i32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Exited { container_id: String, exit: Exit },
    ExecExited { exec_id: String, code: i32, timed_out: bool },
    Oom { container_id: String },
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 128 + signal when a signal ended it.
    pub code: i32,
    pub oom_killed: bool,
    /// Since the Unix epoch.
    pub finished_at_ns: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    pub made: bool,
    pub containers: Vec<ContainerState>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    pub container_id: String,
    pub phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Created { pid: i32 },
    Running { pid: i32, started_at_ns: i64 },
    Exited(Exit),
}

/// No, and why. The message holds the whole chain of causes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub kind: RefusalKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalKind {
    /// No such container or exec.
    NotFound,
    /// That id is taken.
    Exists,
    /// The state forbids it.
    State,
    /// The request contradicts itself or asks for what may not be.
    Invalid,
    /// The command is not in the container, or is not executable.
    NoSuchCommand,
    /// Not done by this monitor.
    Unsupported,
    /// The kernel or the file system said no.
    Failed,
}
