//! The made container's init: it waits for `start`, and becomes the program.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::io::Errno;

use super::{CANNOT_EXEC, FAILED, Found, Kit, identity};
use crate::report::{At as _, Step};

/// Waits for `start`, then becomes the program.
pub(super) fn run(kit: &Kit<'_>, found: &Found) -> i32 {
    // It may wait for long, and what it inherited by the clone is the maker's: sockets, locks, other containers'
    // streams, whose other ends wait for their end. Our line ends as well, which tells the parent that this is done.
    let first = 3 + kit.preserve_fds;
    let closed = match kit.outcome {
        Some(outcome) => kernel::close_all_but(first, [kit.start.as_fd(), outcome.as_fd()]),
        None => kernel::close_all_but(first, [kit.start.as_fd()]),
    };
    if let Err(failure) = closed.at(Step::Stdio, 3) {
        kit.line.failed(failure);
        return FAILED;
    }
    if wait_for_start(kit.start).is_err() {
        return FAILED;
    }
    if let Err(error) = kit.hooks.start_container() {
        // `start` hears it too: runtime.md, "Lifecycle" 7.
        if let (Some(outcome), crate::Error::Hook { path, reason }) = (kit.outcome, &error) {
            let text = [path.as_os_str().as_bytes(), b"\0", reason.as_bytes()].concat();
            let _ = rustix::io::write(outcome, &text);
        }
        complain(&crate::chain(&error));
        return FAILED;
    }
    let process = &kit.plan.process;
    let filter = kit.filter.filter(|filter| !filter.listener);
    if let Err(failure) = identity::load_last(process, filter, kit.line) {
        complain(&format!("{}: {}", failure.step.words(), failure.errno));
        return FAILED;
    }
    let env = found.env.as_ref().unwrap_or(&process.env);
    let errno = kernel::execve(&process.candidates[found.program], &process.args, env);
    complain(&format!("{}: {errno}", process.candidates[found.program].to_string_lossy()));
    CANNOT_EXEC
}

/// The FIFO is open for reading and writing, so this blocks until somebody writes and never sees its end.
fn wait_for_start(fifo: &OwnedFd) -> rustix::io::Result<()> {
    let mut byte = [0_u8];
    loop {
        match rustix::io::read(fifo, &mut byte) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// After `start` has answered, the container's standard error is all there is.
fn complain(text: &str) {
    let line = format!("berth-runtime: {text}\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}
