//! A container's cgroup, in every hierarchy that the node has.

/// Why a cgroup could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
#[error("not made yet")]
pub struct Error;
