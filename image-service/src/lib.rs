//! Pulls, verifies, stores and unpacks container images, and lends their layers to containers.
//!
//! [`Images`] is the whole service. It has never heard of pods: it knows names, digests, layers and the
//! writable layers that lie on them. What it holds is on disk in [`Settings::root`]; readers look at a
//! published snapshot and never wait for the disk.

mod annotated;
pub mod auth;
pub mod digest;
pub mod manifest;
pub mod platform;
pub mod reference;
pub mod registries_conf;
pub mod registry;

mod bounded;
mod declared;
mod encryption;
mod error;
mod explain;
mod fill;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gc;
mod hosts_toml;
pub mod image;
mod images;
mod import;
mod layered;
mod mend;
mod mountplan;
pub mod policy;
mod pull;
mod shifted;
mod store;
pub mod transfer;
pub mod unpack;
mod verify;

pub use auth::Credentials;
pub use declared::{IdRange, Owners};
pub use error::Error;
pub use explain::{Explanation, explain};
pub use image::{Accounts, Image, ImageConfig, Layer};
pub use images::{Images, RootfsPlan, Settings, Usage};
pub use platform::Platform;
pub use pull::counted::PullCgroup;
pub use pull::{LayerProgress, LayerStage, Progress, PullRequest, PullUnderWay};
pub use shifted::shift;
pub use unpack::apart::work as unpack_for_a_daemon;
pub use verify::{Finding, Outcome, Repair, Verified, Verifying};
