//! berth-conmon: the monitor of one pod. It makes the pod's namespaces and containers, keeps their logs, terminals
//! and exit codes, and lives on when berthd does not. One thread, one epoll, no runtime of any kind.

mod ask;
mod attach;
mod checkpoint;
mod clock;
mod container;
mod daemon;
mod error;
mod exec;
mod handler;
mod job;
mod journal;
mod keep;
mod life;
mod logfile;
mod monitor;
mod oom;
mod placing;
mod pod;
mod poll;
mod reap;
mod record;
mod relabel;
mod seal;
mod socket;
mod stage;
mod stdio;
mod turn;

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::fs::Mode;

use crate::daemon::Daemon;
use crate::error::{Error, Named as _};
use crate::journal::Journal;
use crate::monitor::Monitor;
use crate::poll::Poll;
use crate::turn::Turn;

const USAGE: &str = "usage: berth-conmon --pod-dir DIR [--daemon-fd N] | --version";

#[derive(Debug)]
struct Arguments {
    pod_dir: PathBuf,
    daemon_fd: Option<i32>,
    sealed: bool,
}

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(argument) if argument == pod::init::ARGUMENT => pod::init::run(),
        Some(argument) if argument == pod::nest::ARGUMENT => pod::nest::run(),
        Some(argument) if argument == conmon_protocol::VERSION_ARGUMENT => {
            println!("{}", conmon_protocol::version_words(env!("CARGO_PKG_VERSION")));
            return ExitCode::SUCCESS;
        }
        Some(_) | None => {}
    }
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match monitor(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            Journal::open(&arguments.pod_dir).note(&error.chain());
            eprintln!("berth-conmon: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Option<Arguments> {
    let mut words = std::env::args_os().skip(1);
    let (mut pod_dir, mut daemon_fd, mut sealed) = (None, None, false);
    while let Some(word) = words.next() {
        match word.to_str()? {
            "--pod-dir" => pod_dir = Some(PathBuf::from(words.next()?)),
            "--daemon-fd" => daemon_fd = Some(words.next()?.to_str()?.parse().ok()?),
            seal::ARGUMENT => sealed = true,
            _ => return None,
        }
    }
    Some(Arguments { pod_dir: pod_dir.filter(|dir| dir.is_absolute())?, daemon_fd, sealed })
}

fn monitor(arguments: &Arguments) -> Result<(), Error> {
    let daemon = arguments.daemon_fd.map(inherited).transpose()?;
    close_what_nobody_meant_us_to_have(daemon.as_ref())?;
    if !arguments.sealed {
        let keep = daemon.as_ref().filter(|_| arguments.daemon_fd != Some(0));
        match seal::seal(std::env::args_os().skip(1), keep)? {}
    }
    let lock = socket::lock(&arguments.pod_dir)?;
    let signals = turn::block_signals()?;
    settle()?;
    let poll = Poll::new().named("making", "an epoll")?;
    let mut monitor = Monitor::new(poll, &arguments.pod_dir);
    let listener = socket::listen(&arguments.pod_dir)?;
    let mut daemon = daemon.map(Daemon::new);
    let returned = daemon.as_mut().map(|daemon| daemon.take_back()).unwrap_or_default();
    monitor.resume(returned);
    let daemon = daemon.and_then(|daemon| monitor.add_daemon(daemon));
    let mut turn = Turn::new(monitor, listener, &signals)?;
    let pod_dir = arguments.pod_dir.clone();
    std::panic::set_hook(Box::new(move |panic| Journal::open(&pod_dir).note(&panic.to_string())));
    close_standard_streams()?;
    daemon.into_iter().for_each(|daemon| turn.hear_early(daemon));
    turn.run()?;
    socket::unmake(&arguments.pod_dir, lock)
}

fn inherited(number: i32) -> Result<OwnedFd, Error> {
    let taken = match number {
        // The one descriptor that a daemon can hand on by posix_spawn. Standard input is closed later.
        0 => std::io::stdin().as_fd().try_clone_to_owned(),
        number => kernel::take_inherited_fd(number),
    };
    taken.named("taking the daemon's socket", number.to_string())
}

/// A pipe of the daemon's that a monitor held would never end.
fn close_what_nobody_meant_us_to_have(daemon: Option<&OwnedFd>) -> Result<(), Error> {
    let stdin = std::io::stdin();
    let keep = daemon.map_or(stdin.as_fd(), |daemon| daemon.as_fd());
    kernel::close_all_but(3, [keep]).named("closing", "inherited descriptors")
}

/// A monitor belongs to no directory and no terminal, and orphans of its containers are its own.
fn settle() -> Result<(), Error> {
    rustix::thread::set_name(c"berth-conmon").named("naming", "the monitor")?;
    rustix::process::chdir("/").named("going to", "/")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).named("becoming", "a subreaper")?;
    // Out of reach of a terminal's keys. A session of its own would do as well and costs a millisecond (autogroup).
    // It fails only for the leader of a session, which has what it wants already.
    let _ = rustix::process::setpgid(None, None);
    Ok(())
}

/// From here on the journal is where a monitor speaks: whoever started it may go away.
fn close_standard_streams() -> Result<(), Error> {
    let null = stdio::null()?;
    rustix::stdio::dup2_stdin(&null).named("closing", "stdin")?;
    rustix::stdio::dup2_stdout(&null).named("closing", "stdout")?;
    rustix::stdio::dup2_stderr(&null).named("closing", "stderr")
}
