//! Descriptors whose work is done and that are closed together with others: dozens that are closed one by one would be
//! as many system calls, and neighbours take but one.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// They close when it is dropped, or with what else its owner has.
#[derive(Debug, Default)]
pub(crate) struct Later(Mutex<Vec<OwnedFd>>);

impl Later {
    pub(crate) fn close(&self, fd: impl Into<OwnedFd>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(fd.into());
    }

    pub(crate) fn into_fds(mut self) -> Vec<OwnedFd> {
        self.take()
    }

    fn take(&mut self) -> Vec<OwnedFd> {
        std::mem::take(self.0.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        kernel::close_together(self.take());
    }
}
