//! Configuration directory.
