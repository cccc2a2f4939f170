//! `berth-runtime`: the runtime as a command, for any tool that speaks the OCI command line.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args().skip(1).collect())
}
