//! Unpacks a layer's archive into a directory.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("truncated")]
    Truncated,
}
