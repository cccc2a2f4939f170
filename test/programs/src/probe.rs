//! What a container is like from inside: the program that test bundles run, and the hook that they name.
//!
//! `probe report [TRY...]` prints one JSON document: everything that a process can see of itself, and what came of
//! each try. `probe note FILE NAME` adds a line to FILE, which shows what ran in which order and where.

#[path = "probe/note.rs"]
mod note;
#[path = "probe/report.rs"]
mod report;
#[path = "probe/tries.rs"]
mod tries;

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        ["report", tries @ ..] => print_report(tries),
        ["note", file, name, rest @ ..] => note::note(file, name, rest),
        ["wait"] => wait(),
        ["exit", code] => ExitCode::from(code.parse::<u8>().unwrap_or(2)),
        ["id"] => {
            println!("{}", nix::unistd::geteuid());
            ExitCode::SUCCESS
        }
        // Anything else is somebody's arguments, shown as they came.
        _ => print_report(&[]),
    }
}

fn print_report(tries: &[&str]) -> ExitCode {
    let mut report = report::report();
    let results: serde_json::Map<_, _> =
        tries.iter().map(|one| ((*one).to_owned(), json!(tries::attempt(one)))).collect();
    report["tries"] = results.into();
    println!("{report}");
    ExitCode::SUCCESS
}

/// Says that it is there, then names each signal that it gets; SIGTERM ends it.
fn wait() -> ExitCode {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGHUP]);
    if signals.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    println!("waiting");
    while let Ok(signal) = signals.wait() {
        println!("{signal}");
        if signal == Signal::SIGTERM {
            return ExitCode::SUCCESS;
        }
    }
    ExitCode::FAILURE
}
