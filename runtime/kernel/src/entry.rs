//! Where a program begins that has no use for what Rust's own beginning sets up.
//!
//! That one reads /proc/self/maps, makes a second stack for stack overflows and installs handlers: fifteen system calls
//! at each start, in a program that is started for a millisecond. What is needed of it is done here.

use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};

/// Makes `fn() -> i32` the program's beginning; the crate has to be `#![no_main]`. `std::env::args` works as always.
#[macro_export]
macro_rules! main {
    ($main:path) => {
        // SAFETY: wrong only if something else were called `main`, which the linker would refuse.
        #[unsafe(no_mangle)]
        extern "C" fn main(_count: i32, _args: *const *const u8) -> i32 {
            let main: fn() -> i32 = $main;
            main()
        }
    };
}

/// To be called once the program is sure to go on: nothing that we open may become standard input, output or error, and
/// writing to nobody is an error rather than our end.
pub fn begin() {
    // SAFETY: SIG_IGN is no handler of ours that could run.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let (input, output, error) = (rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr());
    let mut fds =
        [&input, &output, &error].map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::empty()));
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let polled = poll(&mut fds, Some(&at_once));
    let closed = fds.iter().filter(|fd| fd.revents().contains(PollFlags::NVAL)).count();
    if polled.is_ok_and(|ready| ready > 0) {
        for _ in 0..closed {
            // The lowest number that is free; it stays open for good.
            std::mem::forget(open(c"/dev/null", OFlags::RDWR, Mode::empty()));
        }
    }
}
