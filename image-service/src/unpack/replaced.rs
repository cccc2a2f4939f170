//! What later entries of an archive replaced, kept with its recipe: it is not in the layer's directory any more,
//! and without it nobody could write the archive again.
//!
//! ```text
//! magic; u64 length of the list; { u32 length, path; u64 bytes of content } …; the contents; the recipe
//! ```
//! The list is in the order in which things were replaced. Most layers replace nothing, and have the recipe alone.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};

use super::prove::prove;
use super::recipe::{Recorded, nameless};
use super::tree::{is_whiteout, open_child};
use crate::digest::Digest;

/// Unlike the beginning of any zstd frame.
const MAGIC: &[u8; 8] = b"replaced";
/// Honest archives have a few files twice. One that replaces more goes without a recipe.
const MAX_LIST_BYTES: usize = 1 << 20;
const MAX_CONTENT_BYTES: u64 = 64 << 20;
const MAX_DEPTH: usize = 32;
const LISTING_BYTES: usize = 4 << 10;
const MAX_PATH: usize = 64 << 10;

/// Gathers it while an archive is unpacked.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    list: Vec<u8>,
    contents: Option<File>,
    content_bytes: u64,
    /// It was too much, or could not be read.
    lost: bool,
}

impl Replaced {
    /// Whether nothing was.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty() && !self.lost
    }

    /// Keeps what has a name in `parent`, which is about to go. `path` is what the archive calls it.
    pub(super) fn keep(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8], stat: &Stat) {
        self.lost = self.lost || self.add(parent, name, path, stat, 0).is_err();
    }

    fn add(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
        depth: usize,
    ) -> io::Result<()> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
                self.content(parent, path, File::from(file))
            }
            FileType::Directory if depth == MAX_DEPTH => Err(too_much()),
            FileType::Directory => {
                self.note(path, 0)?;
                self.add_all(&open_child(parent, name)?, path, depth + 1)
            }
            // The mark of another entry, which made nothing of this name.
            _ if is_whiteout(stat) => Ok(()),
            _ => self.note(path, 0),
        }
    }

    fn add_all(&mut self, directory: &OwnedFd, path: &[u8], depth: usize) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                self.add(directory, name, &[path, b"/", name].concat(), &stat, depth)?;
            }
        }
        Ok(())
    }

    fn content(&mut self, beside: &OwnedFd, path: &[u8], mut file: File) -> io::Result<()> {
        let bytes = file.metadata()?.len();
        self.content_bytes = self.content_bytes.saturating_add(bytes);
        if self.content_bytes > MAX_CONTENT_BYTES {
            return Err(too_much());
        }
        self.note(path, bytes)?;
        if self.contents.is_none() {
            self.contents = Some(nameless(beside)?);
        }
        let contents = self.contents.as_mut().ok_or_else(too_much)?;
        if io::copy(&mut file, contents)? == bytes { Ok(()) } else { Err(too_much()) }
    }

    fn note(&mut self, path: &[u8], bytes: u64) -> io::Result<()> {
        if self.list.len() + path.len() > MAX_LIST_BYTES {
            return Err(too_much());
        }
        self.list.extend_from_slice(&(path.len() as u32).to_le_bytes());
        self.list.extend_from_slice(path);
        self.list.extend_from_slice(&bytes.to_le_bytes());
        Ok(())
    }

    /// The recipe with what it needs; none when even so it does not give the archive, which is tried.
    /// A name may lead through a link that another entry replaced.
    pub(super) fn join(self, recipe: &Recorded, root: OwnedFd, diff_id: &Digest) -> Recorded {
        if self.lost {
            return Recorded::default();
        }
        let proven = self.write(recipe, &root).ok().flatten().filter(|whole| {
            let opened = whole.try_clone().and_then(|mut file| file.rewind().map(|()| file));
            opened.is_ok_and(|file| prove(file, root, diff_id).is_ok())
        });
        Recorded(proven.map(Arc::new))
    }

    fn write(self, recipe: &Recorded, root: &OwnedFd) -> io::Result<Option<File>> {
        let Some(recipe) = &recipe.0 else { return Ok(None) };
        let mut whole = nameless(root)?;
        whole.write_all(MAGIC)?;
        whole.write_all(&(self.list.len() as u64).to_le_bytes())?;
        whole.write_all(&self.list)?;
        let recipe = recipe.try_clone()?;
        for mut part in self.contents.into_iter().chain([recipe]) {
            part.rewind()?;
            io::copy(&mut part, &mut whole)?;
        }
        Ok(Some(whole))
    }
}

/// What was kept, to be read again.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// How often something of a name was replaced.
    pub(super) times: BTreeMap<Vec<u8>, u32>,
    /// Where its contents are and how long, the first replaced first.
    contents: BTreeMap<Vec<u8>, VecDeque<(u64, u64)>>,
}

impl Kept {
    /// Reads what lies before a recipe, if something does, and goes to the recipe.
    pub(super) fn read(file: &mut File) -> io::Result<Kept> {
        let mut kept = Kept::default();
        let mut start = [0; 16];
        let mut input = BufReader::new(&mut *file);
        if input.read_exact(&mut start).is_err() || start[..8] != MAGIC[..] {
            drop(input);
            file.rewind()?;
            return Ok(kept);
        }
        let [.., a, b, c, d, e, f, g, h] = start;
        let length = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        if length > 2 * MAX_LIST_BYTES as u64 {
            return Err(damaged());
        }
        let mut list = vec![0; length as usize];
        input.read_exact(&mut list)?;
        drop(input);
        let end = kept.take_list(&list, start.len() as u64 + length).ok_or_else(damaged)?;
        file.seek(SeekFrom::Start(end))?;
        Ok(kept)
    }

    /// The list, whose contents begin at `at`; where they end. None when it is no list.
    fn take_list(&mut self, mut list: &[u8], mut at: u64) -> Option<u64> {
        while !list.is_empty() {
            let (length, rest) = list.split_first_chunk()?;
            let length = u32::from_le_bytes(*length) as usize;
            let (path, rest) = rest.split_at_checked(length).filter(|_| length <= MAX_PATH)?;
            let (bytes, rest) = rest.split_first_chunk()?;
            let bytes = u64::from_le_bytes(*bytes);
            *self.times.entry(path.to_vec()).or_default() += 1;
            if bytes > 0 {
                self.contents.entry(path.to_vec()).or_default().push_back((at, bytes));
            }
            at = at.checked_add(bytes)?;
            list = rest;
        }
        Some(at)
    }

    /// Where the content lies that an archive's next entry of this name had; None when it is on the disk.
    pub(super) fn next(&mut self, path: &[u8]) -> Option<(u64, u64)> {
        self.contents.get_mut(path)?.pop_front()
    }
}

fn too_much() -> io::Error {
    io::Error::other("more is replaced than is kept")
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the list of what was replaced is damaged")
}
