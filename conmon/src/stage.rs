//! The one read buffer of a monitor, on a file, so that what was read and not yet logged outlives a `kill -9`.
//!
//! Between the read of a FIFO and the write of a log the bytes are nowhere else. A busy container keeps its monitor
//! there most of the time, and a SIGKILL would lose them. The next monitor finds them here, and sees by the log's
//! length how much of them was written.
//!
//! A process killed in a system call dies as it comes out of it, before it can note what it got. So what is about to
//! be read is noted first, and a mark is put where it will be: the mark is still there, or the bytes are.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, compiler_fence};

use kernel::SharedBytes;
use rustix::fs::{FallocateFlags, Mode, OFlags};

use crate::logfile::{MAX_TEXT, Stream};

/// Bytes before the text: a page, of which little is used.
const HEADER: usize = 4096;
const LENGTH: usize = HEADER + MAX_TEXT;
/// No container's id is longer; the log of one whose is goes without this.
const MAX_ID: usize = 256;

/// What is being logged, as far as the next monitor must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) stream: Stream,
    pub(crate) length: usize,
    pub(crate) at_ns: i64,
    /// The log before it.
    pub(crate) log: LogEnd,
}

/// A log file, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogEnd {
    pub(crate) inode: u64,
    pub(crate) bytes: u64,
}

/// What an earlier monitor had in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) container_id: String,
    pub(crate) batch: Batch,
    pub(crate) text: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Stage {
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Shared(SharedBytes),
    /// Where no file can be had, a kill may lose what is in hand.
    Private(Vec<u8>),
}

/// Stands where the first bytes will be. Not to be found in text, for which one byte of it must do.
const MARK: [u8; 16] = *b"\xff\xfe\xfd\xfc\xfb\xf9\xf8\xf7\xf6\xf5\xff\xfe\xfd\xfc\xfb\xf9";

/// One word in the header; together they are a [`Batch`].
#[derive(Debug, Clone, Copy)]
enum Word {
    /// Length of the text, or 0 when nothing is in hand. Written last.
    Length,
    Stream,
    AtNs,
    Inode,
    LogBytes,
    IdLength,
    Id,
}

impl Default for Stage {
    /// A place-holder that allocates nothing.
    fn default() -> Stage {
        Stage { memory: Memory::Private(Vec::new()) }
    }
}

impl Stage {
    pub(crate) fn path(pod_dir: &Path) -> PathBuf {
        pod_dir.join("monitor.stage")
    }

    pub(crate) fn open(pod_dir: &Path) -> (Stage, rustix::io::Result<()>) {
        match map(&Self::path(pod_dir)) {
            Ok(bytes) => (Stage { memory: Memory::Shared(bytes) }, Ok(())),
            Err(errno) => (Stage { memory: Memory::Private(vec![0; LENGTH]) }, Err(errno)),
        }
    }

    /// Where to read to.
    pub(crate) fn text(&mut self) -> &mut [u8] {
        &mut self.bytes()[HEADER..]
    }

    /// What is to be read to the text next; it is in hand from then until [`Stage::clear`].
    pub(crate) fn expect(&mut self, container_id: &str, batch: &Batch) {
        if container_id.len() > MAX_ID {
            return;
        }
        let marked = batch.length.min(MARK.len());
        self.text()[..marked].copy_from_slice(&MARK[..marked]);
        let id = Word::Id as usize * 8;
        self.bytes()[id..id + container_id.len()].copy_from_slice(container_id.as_bytes());
        self.set(Word::IdLength, container_id.len() as u64);
        self.set(Word::Stream, batch.stream as u64);
        self.set(Word::AtNs, batch.at_ns.cast_unsigned());
        self.set(Word::Inode, batch.log.inode);
        self.set(Word::LogBytes, batch.log.bytes);
        compiler_fence(Ordering::SeqCst);
        self.set(Word::Length, batch.length as u64);
        compiler_fence(Ordering::SeqCst);
    }

    pub(crate) fn clear(&mut self) {
        compiler_fence(Ordering::SeqCst);
        self.set(Word::Length, 0);
        compiler_fence(Ordering::SeqCst);
    }

    pub(crate) fn unfinished(&mut self) -> Option<Unfinished> {
        let length = usize::try_from(self.get(Word::Length)).ok().filter(|length| *length > 0)?;
        let id_length = usize::try_from(self.get(Word::IdLength)).ok().filter(|length| *length <= MAX_ID)?;
        let stream = match self.get(Word::Stream) {
            0 => Stream::Stdout,
            1 => Stream::Stderr,
            _ => return None,
        };
        let log = LogEnd { inode: self.get(Word::Inode), bytes: self.get(Word::LogBytes) };
        let batch = Batch { stream, length, at_ns: self.get(Word::AtNs).cast_signed(), log };
        let id = Word::Id as usize * 8;
        let container_id = String::from_utf8(self.bytes()[id..id + id_length].to_vec()).ok()?;
        let text = self.text().get(..length)?.to_vec();
        if text.iter().zip(MARK).all(|(byte, mark)| *byte == mark) {
            return None;
        }
        Some(Unfinished { container_id, batch, text })
    }

    fn bytes(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Shared(bytes) => bytes,
            Memory::Private(bytes) => bytes,
        }
    }

    fn set(&mut self, word: Word, value: u64) {
        let at = word as usize * 8;
        self.bytes()[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }

    fn get(&mut self, word: Word) -> u64 {
        let at = word as usize * 8;
        let mut value = [0; 8];
        value.copy_from_slice(&self.bytes()[at..at + 8]);
        u64::from_ne_bytes(value)
    }
}

/// Its space is taken now: a full tmpfs would else be a SIGBUS later.
fn map(path: &Path) -> rustix::io::Result<SharedBytes> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file: OwnedFd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, LENGTH as u64)?;
    SharedBytes::map(file.as_fd(), LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Batch =
        Batch { stream: Stream::Stderr, length: 5, at_ns: -7, log: LogEnd { inode: 3, bytes: u64::MAX } };

    #[test]
    fn what_was_in_hand_is_found_by_the_next_and_what_was_finished_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mut stage, opened) = Stage::open(dir.path());
        opened.unwrap();
        assert_eq!(stage.unfinished(), None);
        assert_eq!(stage.text().len(), MAX_TEXT);
        stage.expect("c1", &BATCH);
        assert_eq!(stage.unfinished(), None, "nothing was read yet");
        stage.text()[..5].copy_from_slice(b"hello");
        drop(stage);
        let (mut stage, _) = Stage::open(dir.path());
        let expected = Unfinished { container_id: "c1".into(), batch: BATCH, text: b"hello".to_vec() };
        assert_eq!(stage.unfinished(), Some(expected));
        stage.clear();
        assert_eq!(Stage::open(dir.path()).0.unfinished(), None);
    }

    #[test]
    fn a_damaged_file_is_no_batch_and_a_missing_one_no_trouble() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(Stage::path(dir.path()), [0xff; LENGTH]).unwrap();
        assert_eq!(Stage::open(dir.path()).0.unfinished(), None);
        let (mut stage, opened) = Stage::open(Path::new("/nowhere"));
        opened.unwrap_err();
        stage.expect("c1", &BATCH);
        assert_eq!(stage.text().len(), MAX_TEXT);
    }
}
