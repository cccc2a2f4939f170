//! What the daemon asks of a monitor.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::{ContainerPlan, Dump, ExecPlan, Images, PodPlan};
use crate::reply::{Kept, KeptExec};

/// One question, numbered by the one who asks so that its answer can be found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub seq: u64,
    pub ask: Ask,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Who are you and what do you have? Answered with `Hello`.
    Hello { version: u32 },
    /// Make and pin the pod's namespaces, loopback, sysctls, hostname and shm. Already made is `Done`.
    MakePod(PodPlan),
    /// Look where paths lead and what is there, by a child that can be given up: they may lie on volumes whose servers
    /// are away. Answered with `Looked`.
    Look { paths: Vec<PathBuf>, patience_ms: u64 },
    /// Make a container up to the point where its process waits. Answered with `Created`.
    Create(ContainerPlan),
    /// Make a container of the images of another one's processes, which wait as they were: frozen. Answered with
    /// `Created`.
    Restore { plan: ContainerPlan, from: Images },
    /// Write the processes of running containers to images, by the criu that is named. All of them are frozen first,
    /// and if this is answered with `Done` they stay so: until `Thaw`, until whoever asked is gone, or until the patience
    /// is over. When it fails, and when anybody dies over it, they run on.
    Checkpoint { dumps: Vec<Dump>, criu: PathBuf, patience_ms: u64 },
    /// Let the containers that were frozen for a checkpoint run on. None is frozen is `Done`.
    Thaw,
    /// Let the created process go on to its command. Answered with `Started`.
    Start { container_id: String },
    /// Send a signal. Already exited is `Done`.
    Signal { container_id: String, signal: i32, scope: Scope },
    /// Kill, reap and take away all of a container. Unknown is `Done`.
    Delete { container_id: String },
    /// Run a further process in a container. The child's standard streams ride as descriptors, in the
    /// order stdin, stdout, stderr, those that the plan flags. Answered with `ExecStarted`, which
    /// carries the terminal's master when the plan asks for a terminal.
    Exec(ExecPlan),
    /// Kill an exec's process. Already exited is `Done`.
    KillExec { exec_id: String },
    /// Set the size of the container's own terminal.
    Resize { container_id: String, columns: u16, rows: u16 },
    /// Change limits of a container that is created or running. An OCI `linux.resources` object: what is given is
    /// changed, and nothing else. `Done` once the kernel has them; on error some may have been changed before.
    Update { container_id: String, resources: serde_json::Value },
    /// Open the log file anew by its path. `Done` once the new file exists; on error no file appears.
    Reopen { container_id: String },
    /// Join the container's streams over one SOCK_SEQPACKET descriptor that rides with this.
    Attach { container_id: String, stdin: bool, stdout: bool, stderr: bool },
    /// From now on send what would be lost with this monitor, as [`Message::Keep`](crate::Message::Keep): for each
    /// container that lives, and for each that will be made, before its `Created`. `Done` comes after those of now.
    Keep,
    /// Here is what an earlier monitor of this pod gave to keep; the descriptors ride in the order of `kept`. Heard
    /// only as the first words to a new monitor, said before it was born: it looks at its containers once.
    TakeBack { container_id: String, kept: Vec<Kept> },
    /// As `TakeBack`, of an exec: its process's pidfd rides with it.
    TakeBackExec(KeptExec),
    /// Kill and take away everything, answer `Done`, and exit.
    UnmakePod,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The container's first process.
    Init,
    /// Every process in the container's cgroup.
    All,
}
