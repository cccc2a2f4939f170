//! berth's CRI server: everything of `berthd`, and what `berth` shares with it.
//!
//! rpc hears, plan and life decide, make and unmake perform, one task per sandbox puts them in order, and
//! `world` is what readers see. ARCHITECTURE.md has the map.

pub mod apparmor;
pub mod blockio;
mod bounded;
pub mod cdi;
pub mod checkpoint;
pub mod config;
pub mod container;
pub mod criu;
pub mod error;
pub mod exec;
pub mod handlers;
pub mod making;
pub mod metrics;
pub mod monitor;
pub mod monitoring;
pub mod node;
pub mod nri;
pub mod oci_hooks;
pub mod operator;
pub mod rdt;
pub mod recover;
pub mod rpc;
pub mod sandbox;
pub mod seccomp;
pub mod selinux;
pub mod stats;
pub mod status;
pub mod step;
pub mod store;
pub mod stream;
pub mod telemetry;
pub mod usage;
pub mod world;
