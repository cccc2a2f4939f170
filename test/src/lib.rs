//! Everything that berth's end-to-end tests, benchmarks and demo share.
//!
//! The neighbours are real: Debian's registry and CNI plugins, crictl and
//! critest, containerd as the peer. What must be built on the spot (images,
//! stand-ins, a private node) is built here. Nothing here is linked into berth.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

pub mod bench;
pub mod channels;
pub mod crictl;
pub mod critest;
pub mod criu;
pub mod dead_volume;
pub mod demo;
pub mod engine;
pub mod fixture;
pub mod image;
pub mod kubelet;
pub mod leaks;
pub mod monitors;
pub mod node;
pub mod oci;
pub mod programs;
pub mod registry;
pub mod stand_ins;
pub mod tools;
pub mod vm;
