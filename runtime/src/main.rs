//! `berth-runtime`: the runtime as a command, for any tool that speaks the OCI command line.
fn main() {}
