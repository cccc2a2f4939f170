//! `berth-runtime`: the runtime as a command, for any tool that speaks the OCI command line.

#![cfg_attr(not(test), no_main)]

mod cli;

use std::io::Write as _;

#[cfg(not(test))]
kernel::main!(run);

#[cfg_attr(test, expect(dead_code, reason = "tests have a beginning of their own"))]
fn run() -> i32 {
    let status = cli::main(std::env::args().skip(1).collect());
    // Half a line may wait there. Whoever has hung up does not want it.
    let _ = std::io::stdout().flush();
    status.into()
}
