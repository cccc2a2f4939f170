//! Reading and writing the small files that cgroups are made of: an open, one transfer, a close.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::later::Later;

/// The longest of them, `cgroup.procs` of a large pod, is well below.
const MAX_BYTES: usize = 4 << 20;

pub(super) fn write(dir: &Path, file: &str, value: &str) -> Result<(), Errno> {
    let fd = rustix::fs::open(dir.join(file), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel takes a value whole or not at all.
    rustix::io::write(fd, value.as_bytes()).map(drop)
}

/// Files that have been written or read and are closed later, with many others.
#[derive(Debug, Default)]
pub(super) struct Held(Later);

impl Held {
    pub(super) fn write(&self, dir: &Path, file: &str, value: &str) -> Result<(), Errno> {
        self.write_each(dir, file, &[value])
    }

    /// Several values into one file, each in its own write.
    pub(super) fn write_each<T: AsRef<str>>(
        &self,
        dir: &Path,
        file: &str,
        values: &[T],
    ) -> Result<(), Errno> {
        let fd = rustix::fs::open(dir.join(file), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        for value in values {
            rustix::io::write(&fd, value.as_ref().as_bytes())?;
        }
        self.0.close(fd);
        Ok(())
    }

    /// A file of one line, which the kernel gives in one piece.
    pub(super) fn read_line(&self, dir: &Path, file: &str) -> Result<String, Errno> {
        let fd = rustix::fs::open(dir.join(file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut line = [0; 4096];
        let length = rustix::io::read(&fd, &mut line)?;
        self.0.close(fd);
        let line = str::from_utf8(&line[..length]).map_err(|_| Errno::INVAL)?;
        Ok(line.trim_end().to_owned())
    }

    pub(super) fn close(&self, file: impl Into<OwnedFd>) {
        self.0.close(file);
    }

    pub(super) fn into_fds(self) -> Vec<OwnedFd> {
        self.0.into_fds()
    }
}

/// A file of one line, which the kernel gives in one piece.
pub(super) fn read_line(dir: &Path, file: &str) -> Result<String, Errno> {
    Held::default().read_line(dir, file)
}

/// The contents without the last newline.
pub(super) fn read(dir: &Path, file: &str) -> Result<String, Errno> {
    let fd = rustix::fs::open(dir.join(file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = vec![0; 4096];
    let mut length = 0;
    loop {
        match rustix::io::read(&fd, &mut text[length..])? {
            0 => break,
            more => length += more,
        }
        if length >= MAX_BYTES {
            return Err(Errno::FBIG);
        }
        if length == text.len() {
            text.resize(2 * length, 0);
        }
    }
    text.truncate(length);
    let text = String::from_utf8(text).map_err(|_| Errno::INVAL)?;
    Ok(text.trim_end().to_owned())
}

/// The number after `key` in a file of `KEY NUMBER` lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}
