//! berth's CRI server: everything of `berthd`, and what `berth` shares with it.
//!
//! rpc hears, plan and life decide, make and unmake perform, one task per sandbox puts them in order, and
//! `world` is what readers see. ARCHITECTURE.md has the map.

pub mod config;
pub mod container;
pub mod monitor;
pub mod seccomp;
pub mod stats;
pub mod stream;
