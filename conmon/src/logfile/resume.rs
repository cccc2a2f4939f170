//! A log whose monitor was killed: what was half written is written once, and how its last lines were left is known again.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Change, HEADER, Log, MAX_TEXT, Stream, records_length, write_records};
use crate::stage::Batch;

/// As much of a log as holds the last record of a stream, unless the other one has written a page of records since.
const TAIL_BYTES: u64 = 4 * (MAX_TEXT + HEADER + 1) as u64;

impl Log {
    /// Goes on where a monitor was killed: a batch that is not in the log, or in part, is written again. Somebody may
    /// have rotated the log since; then it belongs to the file as it is called now.
    pub(crate) fn finish(&mut self, batch: &Batch, text: &[u8]) -> Change {
        if self.end.inode == batch.log.inode {
            let Some(file) = &self.file else {
                return Change::None;
            };
            self.end.bytes = match cut_off(file, self.end.bytes, batch, text) {
                Some(bytes) => bytes,
                None => return Change::None,
            };
            return self.write(batch.stream, text, batch.at_ns);
        }
        match self.path.as_deref().and_then(|path| rotated(path, batch.log.inode)) {
            Some((file, bytes)) => match cut_off(&file, bytes, batch, text) {
                Some(_) => {
                    let written = write_records(&file, batch.stream, text, batch.at_ns);
                    self.tell(written, text.len())
                }
                None => Change::None,
            },
            None => self.write(batch.stream, text, batch.at_ns),
        }
    }

    /// Learns from the file whether its last lines were left open.
    pub(crate) fn learn_cuts(&mut self) {
        if let Some(path) = &self.path {
            self.cut = cuts_in(&tail(path).unwrap_or_default());
        }
    }
}

/// Leaves a file as it was before the batch, and says how long that is; `None` when all of the batch is in it.
fn cut_off(file: &OwnedFd, bytes: u64, batch: &Batch, text: &[u8]) -> Option<u64> {
    if bytes >= batch.log.bytes + records_length(text) {
        return None;
    }
    if bytes > batch.log.bytes && rustix::fs::ftruncate(file, batch.log.bytes).is_ok() {
        return Some(batch.log.bytes);
    }
    Some(bytes)
}

/// A file of the log's directory by its inode, and its length: what the log was called before is called something else
/// now.
fn rotated(path: &Path, inode: u64) -> Option<(OwnedFd, u64)> {
    let dir = path.parent()?;
    let entry = std::fs::read_dir(dir).ok()?.flatten().find(|entry| entry.ino() == inode)?;
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file: OwnedFd = rustix::fs::open(entry.path(), flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    (stat.st_ino == inode).then_some((file, stat.st_size.unsigned_abs()))
}

fn tail(path: &Path) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let read = |file: &mut File| -> std::io::Result<Vec<u8>> {
        let length = file.metadata()?.size();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(tail)
    };
    read(&mut file).map_err(|_| Errno::IO)
}

/// By stream: whether its last record is a P.
fn cuts_in(tail: &[u8]) -> [bool; 2] {
    let mut cut = [false; 2];
    for record in tail.split(|byte| *byte == b'\n') {
        let Some(rest) = record.get(31..HEADER) else { continue };
        for stream in [Stream::Stdout, Stream::Stderr] {
            let name: &[u8] = match stream {
                Stream::Stdout => b"stdout ",
                Stream::Stderr => b"stderr ",
            };
            match rest.strip_prefix(name) {
                Some(b"P ") => cut[stream as usize] = true,
                Some(b"F ") => cut[stream as usize] = false,
                Some(_) | None => {}
            }
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logfile::tests::{T, log_in};

    #[test]
    fn a_batch_is_in_the_log_once_wherever_its_monitor_was_killed() {
        let text = b"one\ntwo\nthr";
        let whole = records_length(text) as usize;
        let check = |written: usize| {
            let dir = tempfile::tempdir().unwrap();
            let (mut log, path) = log_in(&dir);
            log.write(Stream::Stdout, b"zero\n", 0);
            let batch = Batch {
                stream: Stream::Stdout,
                length: text.len(),
                at_ns: 0,
                log: log.end_of_file().unwrap(),
            };
            log.write(Stream::Stdout, text, 0);
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_len(batch.log.bytes + written as u64).unwrap();
            let mut log = Log::open(Some(&path)).unwrap();
            log.finish(&batch, text);
            let expected = "@ stdout F zero\n@ stdout F one\n@ stdout F two\n@ stdout P thr\n";
            assert_eq!(
                std::fs::read_to_string(&path).unwrap(),
                expected.replace('@', T),
                "{written} were written"
            );
            assert_eq!(log.end_of_file().unwrap().bytes, std::fs::metadata(&path).unwrap().len());
        };
        (0..=whole).for_each(check);
    }

    #[test]
    fn a_batch_of_a_log_that_was_rotated_meanwhile_is_finished_under_its_new_name() {
        let text = b"one\ntwo\n";
        let check = |written: u64| {
            let dir = tempfile::tempdir().unwrap();
            let (mut log, path) = log_in(&dir);
            log.write(Stream::Stdout, b"zero\n", 0);
            let log_end = log.end_of_file().unwrap();
            let batch = Batch { stream: Stream::Stdout, length: text.len(), at_ns: 0, log: log_end };
            log.write(Stream::Stdout, text, 0);
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(batch.log.bytes + written).unwrap();
            let rotated = dir.path().join("0.log.20261121-120000");
            std::fs::rename(&path, &rotated).unwrap();
            let mut log = Log::open(Some(&path)).unwrap();
            log.finish(&batch, text);
            let expected = "@ stdout F zero\n@ stdout F one\n@ stdout F two\n";
            assert_eq!(
                std::fs::read_to_string(&rotated).unwrap(),
                expected.replace('@', T),
                "{written} were written"
            );
            assert_eq!(std::fs::read(&path).unwrap(), b"");
        };
        (0..=records_length(text)).step_by(7).for_each(check);
        check(records_length(text));
    }

    #[test]
    fn how_the_last_lines_were_left_is_learnt_from_the_file() {
        let check = |pieces: &[(Stream, &str)], end: &str| {
            let dir = tempfile::tempdir().unwrap();
            let (mut log, path) = log_in(&dir);
            for (stream, text) in pieces {
                log.write(*stream, text.as_bytes(), 0);
            }
            let before = std::fs::read_to_string(&path).unwrap();
            let mut log = Log::open(Some(&path)).unwrap();
            log.learn_cuts();
            log.end_lines(0);
            let after = std::fs::read_to_string(&path).unwrap();
            assert_eq!(after.strip_prefix(&before).unwrap(), end.replace('@', T), "{pieces:?}");
        };
        use Stream::{Stderr, Stdout};
        check(&[], "");
        check(&[(Stdout, "whole\n")], "");
        check(&[(Stdout, "open")], "@ stdout F \n");
        check(&[(Stderr, "open"), (Stdout, "whole\n")], "@ stderr F \n");
        check(&[(Stderr, "open"), (Stdout, "open"), (Stderr, "\n")], "@ stdout F \n");
        check(&[(Stdout, &"long".repeat(MAX_TEXT / 4)), (Stdout, "x")], "@ stdout F \n");
        check(&[(Stdout, "stderr P \n")], "");
    }
}
