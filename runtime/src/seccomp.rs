//! Seccomp profiles become BPF programs.

use std::path::Path;

use kernel::SockFilter;

use crate::spec;

/// A compiled profile, ready for seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub program: Vec<SockFilter>,
    /// SECCOMP_FILTER_FLAG_*; NEW_LISTENER is among them when `listener`.
    pub flags: u32,
    /// The profile has a rule that asks a listener: the descriptor must be sent to `listenerPath`.
    pub listener: bool,
}

/// Why a profile could not be compiled.
#[derive(Debug, thiserror::Error)]
#[error("not made yet")]
pub struct Error;

/// Compiles a profile for this machine's architecture and those it names.
pub fn compile(_profile: &spec::Seccomp) -> Result<Filter, Error> {
    todo!()
}

/// The same, keeping the outcome in `dir` for the next container with this profile.
pub fn compile_cached(_profile: &spec::Seccomp, _dir: &Path) -> Result<Filter, Error> {
    todo!()
}
