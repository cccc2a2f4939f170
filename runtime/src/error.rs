//! What can go wrong, in kinds that a caller may act on.

pub(crate) mod section;

use std::io;
use std::path::PathBuf;

use crate::{cgroup, seccomp};
use section::cite;

/// Why the runtime could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle contradicts itself or the specification.
    #[error("{path}: {reason}{}", cite(path))]
    Invalid { path: String, reason: String },
    /// A true wish that this node cannot fulfil, or this runtime does not.
    #[error("{path} is not supported: {reason}{}", cite(path))]
    Unsupported { path: String, reason: String },
    #[error("reading {}", path.display())]
    Config { path: PathBuf, source: serde_json::Error },
    #[error("container {id} does not exist")]
    NotFound { id: String },
    #[error("a container named {id} exists already")]
    Exists { id: String },
    /// The container's state forbids it.
    #[error("{}", wrong_state(id, is, wanted))]
    State { id: String, is: &'static str, wanted: &'static str },
    /// The executable is not in the container, or cannot be executed.
    #[error("{}", not_executable(command, source))]
    NoSuchCommand { command: String, source: io::Error },
    /// A step of making or unmaking: "(step) (object)", with the kernel's answer as source.
    #[error("{step} {object}")]
    Step { step: &'static str, object: String, source: io::Error },
    #[error("hook {} failed: {reason}", path.display())]
    Hook { path: PathBuf, reason: String },
    #[error("criu ({}): {reason}", program.display())]
    Criu { program: PathBuf, reason: String },
    #[error("the container's init ended before it was ready")]
    Died,
    #[error("cgroup of {id}")]
    Cgroup { id: String, source: cgroup::Error },
    #[error("linux.seccomp{}", cite("linux.seccomp"))]
    Seccomp(#[from] seccomp::Error),
    /// Taking away went on past each of these.
    #[error("container {id} is not wholly gone: {}", left.iter().map(chain).collect::<Vec<_>>().join("; "))]
    Unmake { id: String, left: Vec<Error> },
}

impl Error {
    pub(crate) fn invalid(path: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Invalid { path: path.into(), reason: reason.into() }
    }

    pub(crate) fn unsupported(path: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Unsupported { path: path.into(), reason: reason.into() }
    }

    pub(crate) fn step(step: &'static str, object: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::Step { step, object: object.into(), source: source.into() }
    }
}

/// Engines look for "container not running" in what runc says, and then take the container for ended.
fn wrong_state(id: &str, is: &str, wanted: &str) -> String {
    match wanted {
        "running" => format!("container not running: {id} is {is}"),
        _ => format!("container {id} is {is}, not {wanted}"),
    }
}

/// In words that engines look for, to tell exit codes 126 and 127 apart.
fn not_executable(command: &str, source: &io::Error) -> String {
    let searched = !command.contains('/') && source.kind() == io::ErrorKind::NotFound;
    if searched {
        format!("executable file {command:?} not found in $PATH")
    } else {
        format!("executing {command:?}")
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &Error) -> String {
    let mut line = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        line.push_str(": ");
        line.push_str(&next.to_string());
        cause = next.source();
    }
    line
}
