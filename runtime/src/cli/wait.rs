//! Waiting in the foreground: signals and keystrokes go to the container, its exit code becomes ours.

use std::os::fd::{AsFd as _, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use runtime::Process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use super::console::{Raw, copy_size};
use super::notify::Proxy;
use super::{Error, console};

/// All signals that can be taken, as a descriptor.
pub(crate) struct Signals(SignalFd);

impl Signals {
    pub(crate) fn take() -> Result<Signals, Error> {
        let mut set = SigSet::all();
        for fatal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT] {
            set.remove(fatal);
        }
        set.thread_block()
            .and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
            .map(Signals)
            .map_err(|e| Error::io("taking", "signals", e))
    }

    /// Until the process ends; answers its exit code. `proxy` has its readiness, which is ours to those above us.
    pub(crate) fn forward_until_end(&self, process: &Process, mut proxy: Option<Proxy>) -> Result<u8, Error> {
        let _raw = process.console.as_ref().map(|master| {
            console::copy_size(master);
            Raw::enter()
        });
        let mut stdin_open = true;
        loop {
            let ready = self.wait(process, stdin_open, proxy.as_ref())?;
            if ready.notice {
                let us = rustix::process::getpid().as_raw_nonzero().get();
                // Once is enough; and who cannot be told is told no more.
                proxy = proxy.filter(|proxy| proxy.pass_on(us) == Ok(false));
            }
            if ready.signal {
                self.forward(process);
            }
            if let Some(master) = &process.console {
                if ready.master && !copy(master.as_fd(), rustix::stdio::stdout()) && ready.end {
                    return exit_code(process);
                }
                if ready.stdin {
                    stdin_open = copy(rustix::stdio::stdin(), master.as_fd());
                }
                if ready.end && !ready.master {
                    return exit_code(process);
                }
            } else if ready.end {
                return exit_code(process);
            }
        }
    }

    fn wait(&self, process: &Process, stdin_open: bool, proxy: Option<&Proxy>) -> Result<Ready, Error> {
        let stdin = rustix::stdio::stdin();
        let mut fds = vec![
            PollFd::from_borrowed_fd(process.pidfd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN),
        ];
        if let Some(master) = &process.console {
            fds.push(PollFd::from_borrowed_fd(master.as_fd(), PollFlags::IN));
            if stdin_open {
                fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
            }
        }
        let notice = proxy.map(|proxy| {
            fds.push(PollFd::from_borrowed_fd(proxy.fd(), PollFlags::IN));
            fds.len() - 1
        });
        loop {
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io("waiting for", "the container", e)),
                Ok(_) => break,
            }
        }
        let is = |i: usize| fds.get(i).is_some_and(|fd: &PollFd<'_>| !fd.revents().is_empty());
        let has_terminal = process.console.is_some();
        // A master whose slaves are all closed stays "ready" with an error: only what it still holds counts.
        let master = has_terminal && fds.get(2).is_some_and(|fd| fd.revents().contains(PollFlags::IN));
        let stdin = has_terminal && stdin_open && is(3);
        Ok(Ready { end: is(0), signal: is(1), master, stdin, notice: notice.is_some_and(is) })
    }

    fn forward(&self, process: &Process) {
        while let Ok(Some(info)) = self.0.read_signal() {
            let number = info.ssi_signo.cast_signed();
            match Signal::try_from(number) {
                Ok(Signal::SIGCHLD | Signal::SIGURG) => {}
                Ok(Signal::SIGWINCH) if process.console.is_some() => {
                    process.console.iter().for_each(copy_size)
                }
                // Gone already is heard from the pidfd.
                _ => drop(kernel::pidfd_send_signal(process.pidfd.as_fd(), number)),
            }
        }
    }
}

struct Ready {
    end: bool,
    signal: bool,
    master: bool,
    stdin: bool,
    notice: bool,
}

/// What there is, once; false when there will be no more.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0_u8; 8192];
    let Ok(count @ 1..) = rustix::io::read(from, &mut buffer) else { return false };
    let mut rest = &buffer[..count];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

fn exit_code(process: &Process) -> Result<u8, Error> {
    let at = |e| Error::io("waiting for", "the container", e);
    let status = waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED).map_err(at)?;
    Ok(status.as_ref().map_or(0, code))
}

/// A shell's: 128 and the signal's number for those that were killed.
fn code(status: &WaitIdStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128_u8.wrapping_add(signal as u8),
        (None, None) => 0,
    }
}
