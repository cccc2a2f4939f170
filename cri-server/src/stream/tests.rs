//! Sessions against clients of our own and a fake monitor.
