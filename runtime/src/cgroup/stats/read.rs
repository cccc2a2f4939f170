//! The shapes of the files that both versions have.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::files;
use super::{PidsStats, Pressure, Stall};

/// The file's number; "max" and what is missing as `absent`.
pub(super) fn number(dir: &Path, file: &str, absent: u64) -> u64 {
    files::read_line(dir, file).ok().and_then(|line| line.parse().ok()).unwrap_or(absent)
}

/// A file of `KEY NUMBER` lines.
pub(super) fn table(dir: &Path, file: &str) -> BTreeMap<String, u64> {
    let text = files::read(dir, file).unwrap_or_default();
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// A list such as `0-3,7`.
pub(super) fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

pub(super) fn pids(dir: &Path) -> PidsStats {
    PidsStats { current: number(dir, "pids.current", 0), limit: number(dir, "pids.max", 0) }
}

/// The sizes of huge pages that the directory has files for.
pub(super) fn page_sizes(dir: &Path, end: &str) -> Vec<String> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let size = |name: std::ffi::OsString| {
        let name = name.into_string().ok()?;
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(end)?;
        (!size.contains('.')).then(|| size.to_owned())
    };
    names.filter_map(size).collect()
}

pub(super) fn pressure(dir: &Path, file: &str) -> Option<Pressure> {
    let text = files::read(dir, file).ok()?;
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        let value = |key: &str| rest.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let average = |key: &str| value(key).and_then(|value| value.parse().ok()).unwrap_or(0.0);
        let stall = Stall {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total: value("total").and_then(|value| value.parse().ok()).unwrap_or(0),
        };
        match kind {
            "some" => pressure.some = stall,
            "full" => pressure.full = stall,
            _ => {}
        }
    }
    Some(pressure)
}
