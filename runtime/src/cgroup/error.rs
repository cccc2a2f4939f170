//! Why a cgroup could not be made, changed or removed.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::Failure;

/// Why a cgroup could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("linux.cgroupsPath: {path:?} {reason}{}", path_rule())]
    Path { path: String, reason: &'static str },
    #[error("no cgroup hierarchy is mounted")]
    NoCgroups,
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("linux.resources.{field} {reason}{}", cite(field))]
    Invalid { field: &'static str, reason: &'static str },
    #[error(
        "linux.resources.{field} needs the cgroup controller {controller}, which this node does not have{}",
        cite(field)
    )]
    MissingController { field: &'static str, controller: String },
    /// The kernel refused a value.
    #[error("linux.resources.{field}: writing {value} to {}{}", file.display(), cite(field))]
    Limit { field: &'static str, value: String, file: PathBuf, source: Errno },
    /// config-linux.md, "Control groups": a non-empty one is not fit to be another container's.
    #[error("linux.cgroupsPath: cgroup {} is in use by processes {pids:?}{}", dir.display(), path_rule())]
    Busy { dir: PathBuf, pids: Vec<i32> },
    #[error("cgroup {} could not be frozen or thawed in time", dir.display())]
    NotFrozen { dir: PathBuf },
    #[error(
        "the systemd cgroup driver needs cgroup v2 alone, which this node has not: boot it with \
         systemd.unified_cgroup_hierarchy=1, or use the cgroupfs driver"
    )]
    NotUnified,
    #[error("{doing} the scope {unit}")]
    Systemd { doing: &'static str, unit: String, source: Failure },
    #[error("the annotation {key} {reason}")]
    Annotation { key: String, reason: &'static str },
    #[error("linux.cgroupsPath: making {}{}", dir.display(), path_rule())]
    Unreachable { dir: PathBuf, source: Errno },
    #[error("{doing} {}", object.display())]
    Kernel { doing: &'static str, object: PathBuf, source: Errno },
}

fn path_rule() -> String {
    crate::error::section::cite("linux.cgroupsPath")
}

fn cite(field: &str) -> String {
    crate::error::section::cite(&format!("linux.resources.{field}"))
}
