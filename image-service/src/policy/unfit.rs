//! Why a signature does not do.

use super::json::Flaw;
use crate::digest::Digest;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("{0}")]
    Not(&'static str),
    #[error("none of the policy's keys made it, or its payload was changed")]
    Key,
    #[error("it is for {signed}, which is another image")]
    Identity { signed: String },
    #[error("it is for the manifest {signed}, and this one is {found}")]
    Digest { signed: Digest, found: Digest },
    #[error("its payload is none: {0}")]
    Payload(#[from] Flaw),
    #[error("its certificate does not do: {0}")]
    Certificate(String),
    #[error("its certificate is for {found} and not for {wanted}")]
    Subject { wanted: String, found: String },
    #[error("the entry of the transparency log does not do: {0}")]
    Rekor(&'static str),
    #[error("the entry of the transparency log can't be read: {0}")]
    RekorForm(#[source] Flaw),
    #[error("{0}")]
    OpenPgp(String),
}
