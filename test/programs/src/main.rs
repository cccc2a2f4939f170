//! What stand-in images need and Debian's static busybox lacks, in one static
//! program that looks at the name it is called by: `pause`, `nnp`, `pgrep`, `ipcs`.

use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    let mut args = std::env::args();
    let called_as = args.next().unwrap_or_default();
    let name = Path::new(&called_as).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name {
        "pause" => pause(),
        "nnp" => effective_uid(),
        "pgrep" => pgrep(args.next().as_deref()),
        "ipcs" => shared_memory_segments(),
        other => {
            eprintln!("stand-in: no program is called {other:?}");
            ExitCode::from(127)
        }
    }
}

/// Sleeps until told to end; as PID 1 it must take the signals itself.
fn pause() -> ExitCode {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    let blocked = signals.thread_block().is_ok();
    if blocked && signals.wait().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints whom a setuid-root program runs as.
fn effective_uid() -> ExitCode {
    println!("Effective uid: {}", nix::unistd::geteuid());
    ExitCode::SUCCESS
}

/// Prints the PIDs of processes whose name contains the pattern.
fn pgrep(pattern: Option<&str>) -> ExitCode {
    let Some(pattern) = pattern else { return ExitCode::from(2) };
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own && command_of(*pid).contains(pattern))
        .collect();
    pids.sort_unstable();
    pids.iter().for_each(|pid| println!("{pid}"));
    if pids.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn command_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

/// Prints `/proc/sysvipc/shm` in the columns of `ipcs -m`: key and id first.
fn shared_memory_segments() -> ExitCode {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    println!("------ Shared Memory Segments --------\nkey        shmid      bytes");
    for line in table.lines().skip(1) {
        let mut columns = line.split_whitespace();
        let key = columns.next().and_then(|key| key.parse::<i64>().ok()).unwrap_or(0);
        let id = columns.next().unwrap_or("?");
        let bytes = columns.nth(1).unwrap_or("?");
        println!("{:#010x} {id:<10} {bytes}", key as i32);
    }
    ExitCode::SUCCESS
}
