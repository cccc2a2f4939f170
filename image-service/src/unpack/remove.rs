//! Removes a directory whatever an image put into it: by descriptors, never through a link, with few
//! descriptors and little stack however deep it is.

use std::ffi::CString;
use std::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

/// Directories below this depth are first moved up, so that depth costs renames and not descriptors.
const MAX_DEPTH: usize = 32;
/// Names held at once.
const BATCH: usize = 4096;
const LISTING_BYTES: usize = 32 << 10;

/// Removes `name` in `parent`, a directory or anything else. What is gone already is gone.
pub(crate) fn tree_at(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let top = match open(parent, name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    Remover { top: &top, hoisted: 0 }.empty(&top, 0)?;
    gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

struct Remover<'a> {
    top: &'a OwnedFd,
    hoisted: u64,
}

impl Remover<'_> {
    /// Removes everything in a directory, and in the top also what was moved there meanwhile.
    fn empty(&mut self, directory: &OwnedFd, depth: usize) -> Result<(), Errno> {
        loop {
            let names = list(directory)?;
            if names.is_empty() {
                return Ok(());
            }
            for (name, file_type) in names {
                self.remove(directory, &name, file_type, depth)?;
            }
        }
    }

    fn remove(
        &mut self,
        parent: &OwnedFd,
        name: &CString,
        kind: FileType,
        depth: usize,
    ) -> Result<(), Errno> {
        if kind != FileType::Directory {
            match rustix::fs::unlinkat(parent, name.as_c_str(), AtFlags::empty()) {
                Err(Errno::ISDIR) if kind == FileType::Unknown => {}
                other => return gone(other),
            }
        }
        match rustix::fs::unlinkat(parent, name.as_c_str(), AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if depth < MAX_DEPTH => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return self.hoist(parent, name),
            other => return gone(other),
        }
        let child = match open(parent.as_fd(), name.as_bytes()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        self.empty(&child, depth + 1)?;
        gone(rustix::fs::unlinkat(parent, name.as_c_str(), AtFlags::REMOVEDIR))
    }

    /// Moves a directory to the top under a name that nothing has.
    fn hoist(&mut self, parent: &OwnedFd, name: &CString) -> Result<(), Errno> {
        loop {
            self.hoisted += 1;
            let free = format!(".berth-hoisted-{}", self.hoisted);
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(parent, name.as_c_str(), self.top, free, flags) {
                Err(Errno::EXIST) => {}
                other => return other,
            }
        }
    }
}

/// Opens a directory to be emptied. One that nobody may read is still root's to read.
fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// One batch of names, from the start each time: POSIX leaves open what a listing shows of a directory
/// that changes under it.
fn list(directory: &OwnedFd) -> Result<Vec<(CString, FileType)>, Errno> {
    rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
        if names.len() == BATCH {
            break;
        }
    }
    Ok(names)
}

fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}
