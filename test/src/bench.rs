//! Benchmarks: berth and a peer in one run, interleaved, reported as ratios.
//!
//! These machines are noisy, so absolute times say little and are never a test.
//! Each benchmark ends with plain lines `ratio NAME VALUE`.

mod beside;
pub mod containerd;
pub mod lists;
pub mod pod;
pub mod pull;
pub mod runtime;
pub mod samples;
mod wire;
