//! A container's log in the format the kubelet reads: `<time> <stream> <P|F> <text>\n`, where P says that the
//! line goes on in the next record (kubernetes/design-proposals, "CRI logging").
//!
//! What is read is written at once, a cut line as P: nothing is held back, so a killed monitor loses nothing.
//! A write that fails drops its bytes and keeps the container running; the next write tries again.

mod resume;

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::clock;
use crate::error::{Error, Named as _};
use crate::stage::LogEnd;

/// Longest text of one record; what containerd and CRI-O use, and what log readers expect. No more is read,
/// and so written, at once.
pub(crate) const MAX_TEXT: usize = 16 << 10;
/// Slices of one writev: enough for a page of short lines, and 1.5 KiB of stack.
const MAX_SLICES: usize = 96;
/// Time, stream, tag, and a space after each.
const HEADER: usize = 30 + 1 + 6 + 1 + 1 + 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

#[derive(Debug)]
pub(crate) struct Log {
    path: Option<PathBuf>,
    file: Option<OwnedFd>,
    /// Where the next record goes; nobody else writes there.
    end: LogEnd,
    /// Whether the last record of stdout and of stderr was a P.
    cut: [bool; 2],
    lost_bytes: u64,
}

/// What a write changed that somebody should hear of once, not at each line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Losing(Errno),
    Recovered { lost_bytes: u64 },
}

impl Log {
    /// With no path, a log that drops what it is given.
    pub(crate) fn open(path: Option<&Path>) -> Result<Log, Error> {
        let mut log = Log::without_file(path);
        log.reopen()?;
        Ok(log)
    }

    /// A log that drops what it is given until it is opened again by its path.
    pub(crate) fn without_file(path: Option<&Path>) -> Log {
        let end = LogEnd { inode: 0, bytes: 0 };
        Log { path: path.map(Path::to_path_buf), file: None, end, cut: [false; 2], lost_bytes: 0 }
    }

    /// Makes the file anew by its path, after somebody renamed the old one. On failure the old one stays in use.
    pub(crate) fn reopen(&mut self) -> Result<(), Error> {
        if let Some(path) = &self.path {
            let (file, end) = open_file(path)?;
            (self.file, self.end) = (Some(file), end);
        }
        Ok(())
    }

    /// Where the next batch will be, if anywhere.
    pub(crate) fn end_of_file(&self) -> Option<LogEnd> {
        self.file.is_some().then_some(self.end)
    }

    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8], at_ns: i64) -> Change {
        let Some(last) = bytes.last() else {
            return Change::None;
        };
        self.cut[stream as usize] = *last != b'\n';
        let Some(file) = &self.file else {
            return Change::None;
        };
        let result = write_records(file, stream, bytes, at_ns);
        match result {
            Ok(()) => self.end.bytes += records_length(bytes),
            // Rare, so here it may be asked.
            Err(_) => self.end = end_of(file).unwrap_or(self.end),
        }
        self.tell(result, bytes.len())
    }

    /// Ends a line that the container left open.
    pub(crate) fn end_lines(&mut self, at_ns: i64) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.cut[stream as usize] {
                self.write(stream, b"\n", at_ns);
            }
        }
    }

    fn tell(&mut self, result: Result<(), Errno>, bytes: usize) -> Change {
        let lost_before = self.lost_bytes;
        match result {
            Ok(()) => {
                self.lost_bytes = 0;
                if lost_before == 0 { Change::None } else { Change::Recovered { lost_bytes: lost_before } }
            }
            Err(errno) => {
                self.lost_bytes += bytes as u64;
                if lost_before == 0 { Change::Losing(errno) } else { Change::None }
            }
        }
    }
}

/// The log is the kubelet's to name, inside directories of the pod that no container sees. Still: no link is
/// followed, and nothing but a regular file is written to.
fn open_file(path: &Path) -> Result<(OwnedFd, LogEnd), Error> {
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::APPEND
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o640)).named("opening the log", path)?;
    let stat = rustix::fs::fstat(&file).named("opening the log", path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((file, end_of_stat(&stat))),
        _ => Err(Errno::INVAL).named("opening the log (not a regular file)", path),
    }
}

fn end_of(file: &OwnedFd) -> Result<LogEnd, Errno> {
    rustix::fs::fstat(file).map(|stat| end_of_stat(&stat))
}

fn end_of_stat(stat: &rustix::fs::Stat) -> LogEnd {
    LogEnd { inode: stat.st_ino, bytes: stat.st_size.unsigned_abs() }
}

/// How many bytes [`write_records`] makes of a text.
fn records_length(text: &[u8]) -> u64 {
    let ends = text.iter().filter(|byte| **byte == b'\n').count();
    let is_cut = text.last().is_some_and(|byte| *byte != b'\n');
    (text.len() + ends * HEADER + usize::from(is_cut) * (HEADER + 1)) as u64
}

fn write_records(file: &OwnedFd, stream: Stream, bytes: &[u8], at_ns: i64) -> Result<(), Errno> {
    let time = clock::rfc3339(at_ns);
    let (whole, cut) = (header(&time, stream, b'F'), header(&time, stream, b'P'));
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let mut used = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if used + 3 > MAX_SLICES {
            write_whole(file, &mut slices[..used])?;
            used = 0;
        }
        let ends = line.ends_with(b"\n");
        slices[used] = IoSlice::new(if ends { &whole } else { &cut });
        slices[used + 1] = IoSlice::new(line);
        slices[used + 2] = IoSlice::new(if ends { b"" } else { b"\n" });
        used += 3;
    }
    write_whole(file, &mut slices[..used])
}

fn header(time: &[u8; 30], stream: Stream, tag: u8) -> [u8; HEADER] {
    let mut header = [b' '; HEADER];
    header[..30].copy_from_slice(time);
    header[31..37].copy_from_slice(match stream {
        Stream::Stdout => b"stdout",
        Stream::Stderr => b"stderr",
    });
    header[38] = tag;
    header
}

/// Writes all of it or, as far as the file system lets us, nothing: a torn record would spoil the next line.
fn write_whole(file: &OwnedFd, mut slices: &mut [IoSlice<'_>]) -> Result<(), Errno> {
    let mut written = 0;
    while !slices.is_empty() {
        match rustix::io::writev(file, slices) {
            Ok(0) => return undo(file, written, Errno::NOSPC),
            Ok(count) => {
                written += count as u64;
                IoSlice::advance_slices(&mut slices, count);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return undo(file, written, errno),
        }
    }
    Ok(())
}

fn undo(file: &OwnedFd, written: u64, errno: Errno) -> Result<(), Errno> {
    if written > 0
        && let Ok(stat) = rustix::fs::fstat(file)
    {
        // A truncation that fails leaves a torn line, which is no worse than the full disk that caused it.
        let _ = rustix::fs::ftruncate(file, (stat.st_size as u64).saturating_sub(written));
    }
    Err(errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) const T: &str = "1970-01-01T00:00:00.000000000Z";

    pub(super) fn log_in(dir: &tempfile::TempDir) -> (Log, PathBuf) {
        let path = dir.path().join("0.log");
        (Log::open(Some(&path)).unwrap(), path)
    }

    fn check(pieces: &[(Stream, &str)], expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = log_in(&dir);
        for (stream, text) in pieces {
            assert_eq!(log.write(*stream, text.as_bytes(), 0), Change::None);
        }
        log.end_lines(0);
        assert_eq!(std::fs::read_to_string(path).unwrap(), expected.replace('@', T));
    }

    #[test]
    fn lines_are_tagged_f_and_cut_lines_p() {
        use Stream::{Stderr, Stdout};
        check(&[], "");
        check(&[(Stdout, "")], "");
        check(&[(Stdout, "hello\n")], "@ stdout F hello\n");
        check(&[(Stderr, "a\n\nb\n")], "@ stderr F a\n@ stderr F \n@ stderr F b\n");
        check(&[(Stdout, "he"), (Stdout, "llo\n")], "@ stdout P he\n@ stdout F llo\n");
        check(&[(Stdout, "x"), (Stderr, "y\n")], "@ stdout P x\n@ stderr F y\n@ stdout F \n");
        check(&[(Stdout, "open")], "@ stdout P open\n@ stdout F \n");
        check(&[(Stdout, "tty\r\n")], "@ stdout F tty\r\n");
    }

    #[test]
    fn a_log_without_a_path_takes_everything_and_keeps_nothing() {
        let mut log = Log::open(None).unwrap();
        assert_eq!(log.write(Stream::Stdout, b"x\n", 0), Change::None);
        log.reopen().unwrap();
        log.end_lines(0);
    }

    #[test]
    fn reopening_follows_a_rotation_and_a_failed_one_makes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = log_in(&dir);
        log.write(Stream::Stdout, b"one\n", 0);
        let rotated = dir.path().join("0.log.1");
        std::fs::rename(&path, &rotated).unwrap();
        log.write(Stream::Stdout, b"two\n", 0);
        log.reopen().unwrap();
        assert!(path.exists());
        log.write(Stream::Stdout, b"three\n", 0);
        assert_eq!(std::fs::read_to_string(&rotated).unwrap().lines().count(), 2);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);

        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/tmp/berth-elsewhere", &path).unwrap();
        assert!(log.reopen().unwrap_err().chain().contains("opening the log"));
        assert!(!Path::new("/tmp/berth-elsewhere").exists());
    }

    #[test]
    fn only_a_regular_file_is_a_log() {
        let check = |path: &str| assert!(Log::open(Some(Path::new(path))).is_err(), "{path}");
        check("/dev/null");
        check("/nowhere/0.log");
        check("/tmp");
    }

    #[test]
    fn a_full_disk_drops_bytes_and_is_told_once_each_way() {
        let mut log = Log::open(None).unwrap();
        assert_eq!(log.tell(Err(Errno::NOSPC), 10), Change::Losing(Errno::NOSPC));
        assert_eq!(log.tell(Err(Errno::NOSPC), 5), Change::None);
        assert_eq!(log.tell(Ok(()), 7), Change::Recovered { lost_bytes: 15 });
        assert_eq!(log.tell(Ok(()), 7), Change::None);
    }

    #[test]
    fn the_end_of_the_log_is_known_without_asking() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = log_in(&dir);
        for text in ["", "a", "b\n", "\n\n", "c\nd", "\n"] {
            log.write(Stream::Stderr, text.as_bytes(), 0);
            assert_eq!(log.end_of_file().unwrap().bytes, std::fs::metadata(&path).unwrap().len(), "{text:?}");
        }
    }

    /// What a reader of the log makes of one stream.
    fn read_back(log: &str, stream: &str) -> String {
        let mut text = String::new();
        for record in log.split_terminator('\n') {
            let mut parts = record.splitn(4, ' ');
            let (_, of, tag, rest) =
                (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            assert!(rest.len() <= MAX_TEXT);
            if of == stream {
                text.push_str(rest);
                if tag == "F" {
                    text.push('\n');
                }
            }
        }
        text
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_byte_comes_back_in_order(pieces in prop::collection::vec("[a-c\n]{0,300}", 1..20), long in 0usize..40_000) {
            let dir = tempfile::tempdir().unwrap();
            let (mut log, path) = log_in(&dir);
            let mut all = String::new();
            for piece in pieces.iter().chain([&"z".repeat(long)]) {
                for bytes in piece.as_bytes().chunks(MAX_TEXT) {
                    log.write(Stream::Stdout, bytes, 0);
                }
                all.push_str(piece);
            }
            log.end_lines(0);
            if !all.is_empty() && !all.ends_with('\n') {
                all.push('\n');
            }
            prop_assert_eq!(read_back(&std::fs::read_to_string(path).unwrap(), "stdout"), all);
        }
    }
}
