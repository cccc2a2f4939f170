//! What a request can come to, other than an answer. `status` gives each its gRPC code.

use std::sync::Arc;

use crate::step::Step;
use crate::{checkpoint, config, container, monitor, nri, sandbox, store};

/// Cheap to clone, since all who joined a making hear how it failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("no {noun} {id:?}")]
    NotFound { noun: Noun, id: String },
    #[error("{noun} {id:?} could be any of {count}; write more of it")]
    Ambiguous { noun: Noun, id: String, count: usize },
    #[error("{0}")]
    Request(String),
    #[error("container")]
    Plan(#[source] Arc<container::plan::Invalid>),
    #[error("sandbox")]
    SandboxPlan(#[source] Arc<sandbox::plan::Invalid>),
    #[error("{noun} {id}: {why}")]
    State { noun: Noun, id: String, why: &'static str },
    #[error(
        "{noun} {name} exists already as {id}, from another request or no longer running; remove it or ask with the next attempt"
    )]
    Exists { noun: Noun, name: String, id: String },
    #[error("the pods of before are still being found again; ask once more")]
    Recovering,
    #[error("making {noun} {id} is at {step} and goes on; the same request again waits for it")]
    StillMaking { noun: Noun, id: String, step: Step },
    #[error("making {noun} {id}: {step}")]
    Making {
        noun: Noun,
        id: String,
        step: Step,
        #[source]
        source: Arc<Error>,
    },
    #[error("image {name:?} is not on this node; pull it first")]
    NoImage { name: String },
    /// The kubelet knows it by its first word (cri-api, pkg/errors).
    #[error("ImageVolumeMountFailed: the image {image} as a volume: {why}")]
    ImageVolume { image: String, why: String },
    #[error(transparent)]
    Image(image_service::Error),
    #[error("network of sandbox {id}")]
    Network {
        id: String,
        #[source]
        source: Arc<network::Error>,
    },
    #[error("telling the network which addresses pods are to have")]
    PodRanges(#[source] Arc<network::Error>),
    #[error("the node's network is not ready")]
    NetworkNotReady(#[source] network::NotReady),
    #[error(transparent)]
    Monitor(Arc<monitor::Error>),
    /// What the monitor wrote to its log before it died.
    #[error("the pod's monitor died; it said: {said}")]
    MonitorDied { said: String },
    #[error(transparent)]
    Store(Arc<store::Error>),
    #[error("command {command:?} was still running after {timeout_s} s and was killed")]
    ExecTimeout { command: String, timeout_s: i64 },
    #[error("{count} things could not be taken away, the first")]
    Leftovers {
        count: usize,
        #[source]
        first: Arc<Error>,
    },
    #[error("looking at the host's devices for the container took longer than {seconds} s")]
    SlowHost { seconds: u64 },
    /// Pods are to be labelled and cannot be.
    #[error("SELinux: {why}")]
    Selinux { why: String },
    #[error(transparent)]
    Nri(Arc<nri::Error>),
    #[error("the work was given up: berthd is stopping")]
    Stopping,
    #[error(transparent)]
    Streams(#[from] crate::stream::Full),
    #[error("reading what {id} has used")]
    Stats {
        id: String,
        #[source]
        source: Arc<crate::stats::Error>,
    },
    #[error(
        "the runtime handler {name} has no program: {why}; install it, or correct runtime.handlers in berth.toml"
    )]
    Handler { name: String, why: String },
    #[error("settings")]
    Config(#[source] Arc<config::Error>),
    #[error("{doing}")]
    Io {
        doing: String,
        #[source]
        source: Arc<std::io::Error>,
    },
    #[error(transparent)]
    Checkpoint(Arc<checkpoint::Error>),
}

/// What an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noun {
    Sandbox,
    Container,
}

impl std::fmt::Display for Noun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Noun::Sandbox => "sandbox",
            Noun::Container => "container",
        })
    }
}

impl Error {
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        Error::Io { doing: doing.into(), source: Arc::new(source) }
    }

    /// Whether the same may be asked of the next monitor.
    pub fn is_monitor_gone(&self) -> bool {
        match self {
            Error::Monitor(error) => matches!(**error, monitor::Error::Gone),
            Error::Making { source, .. } | Error::Leftovers { first: source, .. } => source.is_monitor_gone(),
            _ => false,
        }
    }

    /// Nothing, the one, or all of what a taking away could not do.
    pub fn of_leftovers(mut errors: Vec<Error>) -> Result<(), Error> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            count => Err(Error::Leftovers { count, first: Arc::new(errors.remove(0)) }),
        }
    }
}

impl From<checkpoint::Error> for Error {
    fn from(error: checkpoint::Error) -> Self {
        Error::Checkpoint(Arc::new(error))
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Error::Store(Arc::new(error))
    }
}

impl From<monitor::Error> for Error {
    fn from(error: monitor::Error) -> Self {
        Error::Monitor(Arc::new(error))
    }
}

impl From<nri::Error> for Error {
    fn from(error: nri::Error) -> Self {
        Error::Nri(Arc::new(error))
    }
}

impl From<image_service::Error> for Error {
    fn from(error: image_service::Error) -> Self {
        Error::Image(error)
    }
}

impl From<container::plan::Invalid> for Error {
    fn from(error: container::plan::Invalid) -> Self {
        Error::Plan(Arc::new(error))
    }
}

impl From<sandbox::plan::Invalid> for Error {
    fn from(error: sandbox::plan::Invalid) -> Self {
        Error::SandboxPlan(Arc::new(error))
    }
}

/// An error and all its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
