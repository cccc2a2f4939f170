//! Why a container cannot be planned: the field of the request, and what is wrong with it.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// The request contradicts itself, its sandbox, its image or the machine.
    #[error("{field}: {reason}")]
    Wrong { field: String, reason: String },
    /// A wish that the interface knows and we do not fulfil.
    #[error("{field}: {what} is not supported by berth yet")]
    Unsupported { field: String, what: String },
    /// Something on the host that the request names cannot be looked at.
    #[error("{field}: looking at {}", path.display())]
    Unreachable { field: String, path: PathBuf, source: io::Error },
}

impl Invalid {
    pub(super) fn wrong(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Wrong { field: field.into(), reason: reason.into() }
    }

    pub(super) fn unsupported(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), what: what.into() }
    }

    /// Nothing is wrong with the request; we just do not do this.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported { .. })
    }
}

/// An error unless `condition` holds.
pub(super) fn require(condition: bool, field: &str, reason: impl FnOnce() -> String) -> Result<(), Invalid> {
    if condition { Ok(()) } else { Err(Invalid::wrong(field, reason())) }
}
