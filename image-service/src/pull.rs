//! The pull pipeline.

use tokio::sync::watch;

use crate::auth::Credentials;
use crate::digest::Digest;

/// What to pull, with whose credentials, and who watches.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    pub reference: String,
    pub credentials: Option<Credentials>,
    /// Gets the newest state whenever it changes; a slow watcher misses steps, never the end.
    pub progress: Option<watch::Sender<Progress>>,
}

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    pub layers: Vec<LayerProgress>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    pub digest: Digest,
    pub size_bytes: u64,
    pub done_bytes: u64,
    /// Whole and verified, or was there already.
    pub finished: bool,
}
