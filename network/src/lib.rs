//! Gives pods their network by running CNI plugins (specification 0.3.0 to 1.1.0).
//!
//! Owns the choice of the networks from the configuration directory, the runs
//! of the plugins, and the record of each attachment with the configuration
//! that was used. Never touches an interface itself: loopback is the
//! monitor's, everything else the plugins'.

pub mod attachment;
mod bandwidth;
mod bounded;
mod capabilities;
mod chain;
pub mod conf;
pub mod counters;
pub mod error;
mod mac;
pub mod netns;
mod network;
mod plugin;
pub mod pod;
mod pod_ranges;
mod provision;
mod record;
mod template;
mod watch;

pub use attachment::Attachment;
pub use bandwidth::Bandwidth;
pub use error::{Error, NotReady, Refusal};
pub use network::{INTERFACE, Network, Settings};
pub use pod::{Dns, Pod, PortMapping, Protocol};
