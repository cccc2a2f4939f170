//! What a monitor says: answers to what was asked, and events that nobody asked for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// To the one who asked, with the number of the request.
    Answer { seq: u64, answer: Result<Answer, Refusal> },
    /// To every connected daemon.
    Event(Event),
    /// To those who asked to keep: descriptors without which a container's last output and its exit code would be
    /// gone when it ends while no monitor lives. They ride in the order of `kept`, and are to be kept until the
    /// container's `Exited`.
    Keep { container_id: String, kept: Vec<Kept> },
    /// To those who asked to keep: from here on the process of this exec may be there. What was not said of an exec that
    /// a monitor took with it into its death has not happened, and may be asked of the next one.
    ExecBegins { exec_id: String },
    /// The same of an exec, before its `ExecStarted`; to be kept until its `ExecExited`. Its pidfd rides with it.
    KeepExec(KeptExec),
}

/// An exec, as far as the next monitor must know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptExec {
    pub exec_id: String,
    pub container_id: String,
    pub pid: i32,
    /// When its time is over, by CLOCK_MONOTONIC.
    pub deadline_ns: Option<u64>,
}

/// What a descriptor that is kept is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// The first process, by its pidfd: it tells how the process ended, also after somebody else has reaped it.
    Process,
    /// The end of the FIFO that the monitor writes to.
    Stdin,
    /// The end of the FIFO that the monitor reads from: what is in it stays there.
    Stdout,
    /// As `Stdout`.
    Stderr,
    /// The terminal's master: its container is not hung up.
    Console,
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
    /// One for each path.
    Looked(Vec<Seen>),
    /// With a terminal, its master rides as the only descriptor.
    ExecStarted {
        pid: i32,
    },
}

/// What is at a path, with symbolic links followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    Directory(PathBuf),
    Other(PathBuf),
    Missing,
    /// The system's number for why it can't be told.
    Failed(i32),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Exited {
        container_id: String,
        exit: Exit,
    },
    ExecExited {
        exec_id: String,
        code: i32,
        timed_out: bool,
    },
    /// The kernel killed a process of the container for want of memory, or is about to (cgroup v1). Told when it
    /// happens, be it the first process or another.
    Oom {
        container_id: String,
    },
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 128 + signal when a signal ended it; [`Exit::UNSEEN`] when nobody can tell.
    pub code: i32,
    pub oom_killed: bool,
    /// Since the Unix epoch.
    pub finished_at_ns: i64,
}

impl Exit {
    /// No process ends with this code. It ended while nobody watched, and the kernel does not tell any more; nobody
    /// guesses.
    pub const UNSEEN: i32 = -1;

    /// Whether its code is a code.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        self.code != Self::UNSEEN
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    pub made: bool,
    pub containers: Vec<ContainerState>,
    /// Those whose processes have not ended.
    #[serde(default)]
    pub execs: Vec<String>,
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
    /// It did not end in time, and was given up.
    TimedOut,
}
