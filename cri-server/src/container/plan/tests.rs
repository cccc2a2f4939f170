//! Plans, by their output.
