//! What whoever ran `create`, `run`, `exec` or `restore` gets of the process that was made: its terminal, and its pid.

use std::path::Path;

use runtime::{Force, Process};

use super::{Error, Global, bundle, console};

/// The terminal first: whoever finds the file with the pid finds all else done.
pub(crate) fn hand_over(
    process: &Process,
    console_socket: Option<&Path>,
    pid_file: Option<&Path>,
) -> Result<(), Error> {
    if let (Some(socket), Some(master)) = (console_socket, &process.console) {
        console::send(socket, master)?;
    }
    match pid_file {
        Some(path) => bundle::write_pid(path, process.pid),
        None => Ok(()),
    }
}

/// The command failed, so nothing of the container may stay; why it failed is what the caller wants to hear.
pub(crate) fn take_away(global: &Global, id: &str) {
    if let Err(error) = global.runtime.delete(id, Force::Kill) {
        global.log.warn(&runtime::chain(&error));
    }
}
