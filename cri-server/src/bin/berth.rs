//! `berth`, the operator's command. Everything is in the library's `operator`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cri_server::operator::main()
}
