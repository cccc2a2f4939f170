//! Gives pods their network by running CNI plugins (specification 0.3.1 to 1.1).
//!
//! Owns the choice of the network from the configuration directory, the runs
//! of the plugins, and the record of each attachment with the configuration
//! that was used. Never touches an interface itself: loopback is the
//! monitor's, everything else the plugins'.

pub mod attachment;
pub mod conf;
pub mod error;
pub mod netns;
mod network;
pub mod pod;

pub use attachment::Attachment;
pub use error::{Error, NotReady};
pub use network::{Network, Settings};
pub use pod::{Bandwidth, Dns, Pod, PortMapping, Protocol};
