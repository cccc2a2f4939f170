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

    pub(crate) fn close_all(&self, fds: impl IntoIterator<Item = OwnedFd>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(fds);
    }

    /// Now: the time has come.
    pub(crate) fn close_now(&self) {
        kernel::close_together(self.take());
    }

    pub(crate) fn into_fds(self) -> Vec<OwnedFd> {
        self.take()
    }

    fn take(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        self.close_now();
    }
}
