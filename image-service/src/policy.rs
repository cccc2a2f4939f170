//! `policy.json`: which images may be used at all.

/// The policy said no.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    #[error("the policy rejects {0}")]
    Rejected(String),
}
