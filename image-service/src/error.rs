//! What can go wrong here, by what a caller could do about it.
//!
//! Errors are cheap to clone: one pull may have many callers, and each is told why it failed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::Digest;
use crate::reference::InvalidReference;
use crate::registry;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Neither the node nor any registry asked has it.
    #[error("image {name} is not there")]
    NotFound {
        name: String,
        #[source]
        source: Option<Arc<registry::Error>>,
    },
    /// No endpoint could be reached, or none was in a state to answer.
    #[error("RegistryUnavailable: no registry gave {name}")]
    RegistryUnavailable { name: String, source: Arc<registry::Error> },
    /// Credentials are missing or refused, or configuration blocks the registry.
    #[error("no registry lets us have {name}")]
    Unauthorized { name: String, source: Arc<registry::Error> },
    /// Something that is no image, or not one that can be used here.
    #[error("{name} can't be used: no registry gave a proper answer")]
    Unusable { name: String, source: Arc<registry::Error> },
    /// The registry did not take it.
    #[error("{name} is not pushed")]
    NotPushed { name: String, source: Arc<registry::Error> },
    #[error(transparent)]
    InvalidReference(#[from] InvalidReference),
    /// `registries.conf`, certificates or credential files can't be used.
    #[error("the node's registry configuration can't be used")]
    Configuration(#[source] Arc<registry::Error>),
    /// `registries.conf` can't be read.
    #[error("the node's registry configuration can't be used")]
    Registries(#[source] Arc<crate::registries_conf::Error>),
    /// Bytes that are not what a digest or a size says.
    #[error("{what} is not what its digest says: {why}")]
    Verification { what: String, why: String },
    /// The policy refuses the image, or can't be read. The kubelet knows it by this word.
    #[error("SignatureValidationFailed")]
    Policy(#[source] crate::policy::Refusal),
    /// The archive of a layer breaks a rule.
    #[error("layer {layer} can't be unpacked")]
    Layer { layer: Digest, source: Arc<crate::unpack::Error> },
    /// An archive, a manifest or a configuration that can't be used.
    #[error("{what} can't be used: {why}")]
    Invalid { what: String, why: String },
    #[error("no space is left in {}", path.display())]
    DiskFull { path: PathBuf },
    #[error("{what}")]
    Io { what: String, source: Arc<io::Error> },
    #[error("the image index in {} failed", path.display())]
    Index { path: PathBuf, source: Arc<redb::Error> },
    /// Signatures that are asked for while a container is made.
    #[error("the registry has not answered within {seconds} s")]
    Slow { seconds: u64 },
    /// All who wanted the pull have left.
    #[error("the pull was given up")]
    Cancelled,
}

impl Error {
    /// An I/O error of the store; a full disk is told apart, since it is the one an operator can mend.
    pub(crate) fn io(what: impl Into<String>, path: &Path, source: io::Error) -> Error {
        match source.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
                Error::DiskFull { path: path.to_owned() }
            }
            _ => Error::Io { what: format!("{} {}", what.into(), path.display()), source: Arc::new(source) },
        }
    }

    pub(crate) fn registry(name: &str, source: registry::Error) -> Error {
        let name = name.to_owned();
        let source = Arc::new(source);
        match &*source {
            registry::Error::NotFound(_) => Error::NotFound { name, source: Some(source) },
            registry::Error::Blocked(_) | registry::Error::Unauthorized(_) => {
                Error::Unauthorized { name, source }
            }
            registry::Error::Unavailable(_) => Error::RegistryUnavailable { name, source },
            registry::Error::Verification(why) => Error::Verification { what: name, why: why.to_string() },
            registry::Error::Invalid(_) => Error::Unusable { name, source },
            registry::Error::Configuration(_) | registry::Error::Hosts(_) => Error::Configuration(source),
        }
    }

    pub(crate) fn pushed(name: &str, source: registry::Error) -> Error {
        Error::NotPushed { name: name.to_owned(), source: Arc::new(source) }
    }

    pub(crate) fn registries(source: crate::registries_conf::Error) -> Error {
        match source {
            crate::registries_conf::Error::Reference(invalid) => Error::InvalidReference(invalid),
            source => Error::Registries(Arc::new(source)),
        }
    }

    /// Why a layer was not unpacked, by who is to blame: the disk, its digest, or its archive.
    pub(crate) fn layer(diff_id: &Digest, path: &Path, source: crate::unpack::Error) -> Error {
        if source.is_disk_full() {
            return Error::DiskFull { path: path.to_owned() };
        }
        if source.is_mismatch() {
            return Error::Verification { what: format!("layer {diff_id}"), why: source.to_string() };
        }
        Error::Layer { layer: diff_id.clone(), source: Arc::new(source) }
    }

    pub(crate) fn invalid(what: impl Into<String>, why: impl ToString) -> Error {
        Error::Invalid { what: what.into(), why: why.to_string() }
    }
}

/// An error and all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
