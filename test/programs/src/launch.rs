//! Runs a command with nothing to read and nowhere to write, and says how long it took (ns), the most memory that it or
//! a child that it waited for had (KiB), and its exit code.
//!
//! A program of its own, because a process that is cloned from a large one counts that one's memory as its own.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else { return ExitCode::from(2) };
    let mut command = Command::new(&program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
    let begun = Instant::now();
    let status = command.status();
    let took = begun.elapsed();
    match (status, getrusage(UsageWho::RUSAGE_CHILDREN)) {
        (Ok(status), Ok(usage)) => {
            println!("{} {} {}", took.as_nanos(), usage.max_rss(), status.code().unwrap_or(-1));
            ExitCode::SUCCESS
        }
        (Err(error), _) => {
            eprintln!("launch: {}: {error}", program.display());
            ExitCode::FAILURE
        }
        (_, Err(error)) => {
            eprintln!("launch: getrusage: {error}");
            ExitCode::FAILURE
        }
    }
}
