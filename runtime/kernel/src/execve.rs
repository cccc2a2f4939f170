//! execve(2) and execveat(2) with everything prepared.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;

use crate::call::last;

/// A NULL-terminated array of C strings, and the strings.
#[derive(Debug)]
pub struct CStringArray {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStringArray {
    #[must_use]
    pub fn new(strings: Vec<CString>) -> CStringArray {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        CStringArray { strings, pointers }
    }

    #[must_use]
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// Becomes another program; comes back only to say why not.
#[must_use]
pub fn execve(path: &CStr, args: &CStringArray, env: &CStringArray) -> Errno {
    // SAFETY: the arrays end with NULL and their strings live as long as `args` and `env`, whose fields are
    // private and never changed after `new`.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    last()
}

/// Becomes the program that `fd` is (AT_EMPTY_PATH); comes back only to say why not.
#[must_use]
pub fn execveat(fd: BorrowedFd<'_>, args: &CStringArray, env: &CStringArray) -> Errno {
    let (args, env) = (args.pointers.as_ptr(), env.pointers.as_ptr());
    // SAFETY: as for `execve`; the empty path is a C string.
    unsafe {
        libc::syscall(libc::SYS_execveat, fd.as_raw_fd(), c"".as_ptr(), args, env, libc::AT_EMPTY_PATH)
    };
    last()
}
