//! What whoever ran `create`, `run`, `exec` or `restore` gets of the process that was made: its terminal, and its pid.

use std::os::fd::AsFd as _;
use std::path::Path;

use runtime::{Force, Process};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::{Error, Global, bundle, console};

/// The terminal first: whoever finds the file with the pid finds all else done.
pub(crate) fn hand_over(
    process: &Process,
    console_socket: Option<&Path>,
    pidfd_socket: Option<&Path>,
    pid_file: Option<&Path>,
) -> Result<(), Error> {
    if let (Some(socket), Some(master)) = (console_socket, &process.console) {
        console::send(socket, master)?;
    }
    if let Some(socket) = pidfd_socket {
        console::send_as("sending the pidfd to", socket, &process.pidfd, b"pidfd")?;
    }
    match pid_file {
        Some(path) => bundle::write_pid(path, process.pid),
        None => Ok(()),
    }
}

/// Nobody hears of a process that could not be handed over: it may not go on.
pub(crate) fn end(process: &Process) {
    // Where it has ended already there is nobody to be killed.
    let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED) {}
}

/// The command failed, so nothing of the container may stay; why it failed is what the caller wants to hear.
pub(crate) fn take_away(global: &Global, id: &str) {
    if let Err(error) = global.runtime.delete(id, Force::Kill) {
        global.log.warn(&runtime::chain(&error));
    }
}
