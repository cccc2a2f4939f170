//! What a directory takes on the disk, whatever is in it: by descriptors, never through a link.

use std::mem::MaybeUninit;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, RawDir};

use super::tree::open_child;

/// Each level holds a descriptor and a listing buffer. What lies deeper is not counted: nobody's
/// programs build such trees, and one built to hide bytes still pays for its directories.
const MAX_DEPTH: usize = 128;
const LISTING_BYTES: usize = 8 << 10;
/// `st_blocks` counts in these, whatever the file system's own blocks are (stat(2)).
const BLOCK: u64 = 512;

/// (bytes, inodes) of everything below `directory`. What vanishes meanwhile is not counted.
pub(crate) fn of(directory: &OwnedFd) -> (u64, u64) {
    let mut total = (0, 0);
    add(directory, 0, &mut total);
    total
}

fn add(directory: &OwnedFd, depth: usize, total: &mut (u64, u64)) {
    let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        // A file with several names is shared out among them.
        let links = if is_directory(&stat) { 1 } else { stat.st_nlink.max(1) };
        total.0 += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK / links;
        total.1 += 1;
        if is_directory(&stat)
            && depth < MAX_DEPTH
            && let Ok(child) = open_child(directory, name.to_bytes())
        {
            add(&child, depth + 1, total);
        }
    }
}

fn is_directory(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}
