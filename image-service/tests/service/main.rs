//! The image service as the daemon uses it, against registries, disks and files: every test has a store of its own
//! and leaves nothing.

#![allow(clippy::unwrap_used, reason = "a test that can't go on is to fail")]
#![allow(unreachable_pub, reason = "modules of a test are its own")]

mod artifact;
mod counted;
mod crash;
mod disk_failures;
mod encrypted;
mod examples;
mod joined;
mod memory;
mod power;
mod proxies;
mod pull;
mod registry;
mod resume;
mod shared;
mod speed;
mod support;
mod transfer;
mod trust;
mod verify;
