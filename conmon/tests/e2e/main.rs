//! The real monitor against the real kernel: root, namespaces, cgroups, and busybox for a root file system.
//!
//! Each test has its own pod in its own directory, and looks at the end whether anything of it is left.

#![expect(clippy::unwrap_used, reason = "the harness of a test is a test")]

mod checkpoint;
mod container;
#[path = "../../../test/src/dead_volume.rs"]
#[expect(unreachable_pub, reason = "it is public for the node tests")]
mod dead_volume;
mod exec;
mod foreign;
mod harness;
mod keep;
mod memory;
mod pod;
mod random;
mod resume;
mod update;
mod volume;
