//! mmap(2) of a file that is to hold what a process had in hand when it was killed.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

use rustix::io::{Errno, Result};

use crate::call::last;

/// The first bytes of a file, shared with it. The file must be that long, stay so, and be nobody else's to write.
#[derive(Debug)]
pub struct SharedBytes {
    first: NonNull<u8>,
    length: usize,
}

impl SharedBytes {
    /// # Errors
    /// Whatever mmap(2) says.
    pub fn map(file: BorrowedFd<'_>, length: usize) -> Result<SharedBytes> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice disturbs no memory of ours.
        let first = unsafe {
            libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if first == libc::MAP_FAILED {
            return Err(last());
        }
        NonNull::new(first.cast()).map(|first| SharedBytes { first, length }).ok_or(Errno::NOMEM)
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped, of that length, from `map` to `drop`; wrong only if another process wrote or cut the file,
        // which is in a directory that only we may enter.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }
}

impl DerefMut for SharedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is the only way to this mapping.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.length) }
    }
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.length) };
    }
}
