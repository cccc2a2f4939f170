//! The runtime's command against the real kernel: every test makes its own bundle and leaves nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may as well stop")]

mod bundle;
mod checkpoint;
mod commands;
mod exec;
mod features;
mod freeze;
mod hooks;
mod hostile;
mod identity;
mod killed;
mod life;
mod limits;
mod listener;
mod lsm;
mod mounts;
mod namespaces;
mod netdev;
mod notify;
mod options;
mod races;
mod reach;
mod refusals;
mod rootless;
mod systemd;
mod systemd_user;
mod terminal;
