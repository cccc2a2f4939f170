//! What goes wrong in a monitor, and how it is said to the daemon.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use conmon_protocol::{Refusal, RefusalKind};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The machine said no to one step on one object.
    #[error("{step} {object}")]
    Step { step: &'static str, object: String, source: io::Error },
    /// We say no.
    #[error("{message}")]
    Refused { kind: RefusalKind, message: String },
    #[error("{step} {object}")]
    Json { step: &'static str, object: String, source: serde_json::Error },
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// What failed, and what of it could not be taken away.
    #[error("{}; and {}", failed.chain(), left.chain())]
    LeftBy { failed: Box<Error>, left: Box<Error> },
    /// Taking away goes on past failures; these are all it could not do.
    #[error("could not take away everything: {}", list(.0))]
    Left(Vec<Error>),
}

impl Error {
    pub(crate) fn refused(kind: RefusalKind, message: impl Into<String>) -> Error {
        Error::Refused { kind, message: message.into() }
    }

    /// The error and its causes on one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            // Writing to a `String` can't fail.
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }

    pub(crate) fn refusal(&self) -> Refusal {
        let kind = match self {
            Error::Refused { kind, .. } => *kind,
            Error::Runtime(error) => runtime_kind(error),
            Error::LeftBy { failed, .. } => failed.refusal().kind,
            Error::Step { .. } | Error::Json { .. } | Error::Left(_) => RefusalKind::Failed,
        };
        Refusal { kind, message: self.chain() }
    }
}

fn list(errors: &[Error]) -> String {
    errors.iter().map(Error::chain).collect::<Vec<_>>().join("; ")
}

fn runtime_kind(error: &runtime::Error) -> RefusalKind {
    match error {
        runtime::Error::Invalid { .. }
        | runtime::Error::Config { .. }
        | runtime::Error::Cgroup { source: runtime::cgroup::Error::Invalid { .. }, .. } => {
            RefusalKind::Invalid
        }
        runtime::Error::Unsupported { .. } => RefusalKind::Unsupported,
        runtime::Error::NotFound { .. } => RefusalKind::NotFound,
        runtime::Error::Exists { .. } => RefusalKind::Exists,
        runtime::Error::State { .. } => RefusalKind::State,
        runtime::Error::NoSuchCommand { .. } => RefusalKind::NoSuchCommand,
        runtime::Error::Step { .. }
        | runtime::Error::Hook { .. }
        | runtime::Error::Died
        | runtime::Error::Criu { .. }
        | runtime::Error::Cgroup { .. }
        | runtime::Error::Seccomp(_)
        | runtime::Error::Unmake { .. } => RefusalKind::Failed,
    }
}

/// Names the step and the object of a failed call.
pub(crate) trait Named<T> {
    fn named(self, step: &'static str, object: impl AsRef<Path>) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Named<T> for Result<T, E> {
    fn named(self, step: &'static str, object: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|error| Error::Step {
            step,
            object: object.as_ref().display().to_string(),
            source: error.into(),
        })
    }
}

/// Gathers failures of a taking-away, which goes on past each of them.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Vec<Error>);

impl Leftovers {
    pub(crate) fn note(&mut self, result: Result<(), Error>) {
        match result {
            Ok(()) => {}
            Err(Error::Left(errors)) => self.0.extend(errors),
            Err(error) => self.0.push(error),
        }
    }

    pub(crate) fn result(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Left(self.0)) }
    }
}
