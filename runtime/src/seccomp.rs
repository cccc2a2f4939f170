//! Seccomp profiles become BPF programs.

/// Why a profile could not be compiled.
#[derive(Debug, thiserror::Error)]
#[error("not made yet")]
pub struct Error;
