//! A process that does nothing. systemd makes no scope without one, and takes one without processes away again;
//! so somebody must be in it until the container is. The container's own init can't be that: it is born in its
//! cgroup, and being moved there would cost it the kernel's lock over all threads.

use std::os::fd::{AsFd as _, BorrowedFd};

use kernel::Child;
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, getpid, pidfd_send_signal, waitid};

use crate::make::stay;

#[derive(Debug)]
pub(crate) struct Keeper(Child);

impl Keeper {
    /// `cgroup`: a cgroup2 directory to be born in.
    pub(super) fn new(cgroup: Option<BorrowedFd<'_>>) -> Result<Keeper, Errno> {
        let maker = getpid();
        kernel::clone3(0, cgroup, || stay(maker)).map(Keeper)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.pid.unsigned_abs()
    }
}

/// Ended and reaped, so that a cgroup which it was in counts it no more.
impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.0.pidfd, Signal::KILL);
        while let Err(Errno::INTR) = waitid(WaitId::PidFd(self.0.pidfd.as_fd()), WaitIdOptions::EXITED) {}
    }
}
