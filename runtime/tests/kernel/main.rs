//! The runtime's command against the real kernel: every test makes its own bundle and leaves nothing.

mod bundle;
mod exec;
mod hostile;
mod identity;
mod life;
mod mounts;
mod namespaces;
mod terminal;
