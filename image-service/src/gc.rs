//! The trash: what nothing uses any more goes there by a rename, and a thread of its own deletes it.
//!
//! A rename is all that a caller waits for. What a crash leaves in the trash is deleted at the next start.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::CWD;
use rustix::io::Errno;

use crate::unpack::{self, remove};

/// Deleting recurses 32 directories at most, each with a listing buffer.
const STACK_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    /// None once the thread is to end.
    queue: Option<mpsc::Sender<String>>,
    thread: Option<JoinHandle<()>>,
    /// Told when the service ends: what is left then is for the next start.
    ending: Arc<AtomicBool>,
}

impl Trash {
    /// Opens the trash in `dir` and starts to delete what is in it.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Trash> {
        let opened = unpack::open_root(&dir)?;
        let (queue, waiting) = mpsc::channel::<String>();
        for left in std::fs::read_dir(&dir)? {
            if let Ok(name) = left?.file_name().into_string() {
                _ = queue.send(name);
            }
        }
        let ending = Arc::new(AtomicBool::new(false));
        let told = ending.clone();
        let thread = std::thread::Builder::new()
            .name("image-trash".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || delete(&opened, &waiting, &told))?;
        Ok(Trash { dir, queue: Some(queue), thread: Some(thread), ending })
    }

    /// Takes `path` out of sight at once. Gone is done.
    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        let name = random_name();
        match rustix::fs::renameat(CWD, path, CWD, self.dir.join(&name)) {
            Ok(()) => {
                if let Some(queue) = &self.queue {
                    _ = queue.send(name);
                }
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            // The writable layers may lie on a file system of their own.
            Err(Errno::XDEV) => remove_here(path),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Trash {
    /// Waits for what is being deleted now.
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

fn delete(trash: &OwnedFd, waiting: &mpsc::Receiver<String>, ending: &AtomicBool) {
    for name in waiting {
        if ending.load(Ordering::Relaxed) {
            return;
        }
        if let Err(errno) = remove::tree_at(trash.as_fd(), name.as_bytes()) {
            tracing::warn!(%name, %errno, "something in the image trash can't be deleted; a restart tries again");
        }
    }
}

fn remove_here(path: &Path) -> io::Result<()> {
    let parent = unpack::open_root(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or(OsStr::new(".")).as_bytes();
    Ok(remove::tree_at(parent.as_fd(), name)?)
}

/// A name nobody else has: 128 random bits.
pub(crate) fn random_name() -> String {
    let mut bytes = [0u8; 16];
    // 128 bits come whole once the kernel's generator is seeded, which it is long before a daemon starts.
    _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
