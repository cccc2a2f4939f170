//! Reads a file as it would be seen through an image's layers, without mounting them.
//!
//! Goes by single names from open directories, never through a link of the kernel's; links are followed
//! here, inside the layers. Whiteouts and opaque directories count as they do in overlay.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::unpack::tree::{OPAQUE, is_whiteout, open_child, open_root};

/// As many as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// Each directory on the way keeps a descriptor for each layer; an image could make the way long.
const MAX_DEPTH: usize = 32;

/// The roots of an image's layers, topmost first.
#[derive(Debug)]
pub(crate) struct Layered {
    roots: Merged,
}

/// One layer's part of a merged directory.
#[derive(Debug)]
pub(crate) struct Part {
    /// Which layer, counted from the topmost.
    pub(crate) layer: usize,
    pub(crate) directory: OwnedFd,
}

/// One directory of the merged view: what it is merged from, topmost first.
pub(crate) type Merged = Vec<Part>;

/// Why a file that is there was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it is not a regular file")]
    NotRegular,
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the way to it leads through too many symbolic links or directories")]
    Loop,
    #[error("something on the way to it is no directory")]
    NoDirectory,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<Errno> for Unreadable {
    fn from(errno: Errno) -> Unreadable {
        Unreadable::Io(errno.into())
    }
}

pub(crate) enum Found {
    Nothing,
    Directory(Merged),
    Link(Vec<u8>),
    File(OwnedFd),
}

/// How far a way leads.
#[derive(Debug)]
pub(crate) struct Way {
    /// The directories that are there, by their real names.
    pub(crate) there: Vec<(Vec<u8>, Merged)>,
    /// The names of what is not.
    pub(crate) missing: Vec<Vec<u8>>,
}

impl Layered {
    pub(crate) fn open(topmost_first: &[PathBuf]) -> Result<Layered, Errno> {
        let part = |(layer, path): (usize, &PathBuf)| Ok(Part { layer, directory: open_root(path)? });
        let roots = topmost_first.iter().enumerate().map(part).collect::<Result<_, Errno>>()?;
        Ok(Layered { roots })
    }

    /// A regular file of at most `max` bytes; None when there is nothing of this name.
    pub(crate) fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>, Unreadable> {
        let Some(file) = self.find(path)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Unreadable::NotRegular);
        }
        let mut bytes = Vec::new();
        File::from(file).take(max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max { Err(Unreadable::TooLarge(max)) } else { Ok(Some(bytes)) }
    }

    /// The parts of a directory that lies at exactly this path; None when there is no such directory.
    pub(crate) fn directory(&self, path: &str) -> Result<Option<Merged>, Unreadable> {
        let mut here: Option<Merged> = None;
        for part in path.split('/') {
            match look(here.as_ref().unwrap_or(&self.roots), part.as_bytes())? {
                Found::Directory(next) => here = Some(next),
                Found::Nothing | Found::Link(_) | Found::File(_) => return Ok(None),
            }
        }
        Ok(here)
    }

    /// The way to a directory, links followed, which nothing need be at.
    pub(crate) fn way(&self, path: &str) -> Result<Way, Unreadable> {
        let mut todo = parts(path.as_bytes());
        let mut way = Way { there: Vec::new(), missing: Vec::new() };
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if way.missing.pop().is_none() {
                        way.there.pop();
                    }
                    continue;
                }
                _ if !way.missing.is_empty() => {
                    way.missing.push(part);
                    continue;
                }
                _ if way.there.len() == MAX_DEPTH => return Err(Unreadable::Loop),
                _ => {}
            }
            let here = way.there.last().map_or(&self.roots, |(_, merged)| merged);
            match look(here, &part)? {
                Found::Nothing => way.missing.push(part),
                Found::Directory(next) => way.there.push((part, next)),
                Found::File(_) => return Err(Unreadable::NoDirectory),
                Found::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Unreadable::Loop);
                    }
                    if target.starts_with(b"/") {
                        way.there.clear();
                    }
                    todo.extend(parts(&target));
                }
            }
        }
        Ok(way)
    }

    fn find(&self, path: &str) -> Result<Option<OwnedFd>, Unreadable> {
        let mut todo = parts(path.as_bytes());
        let mut way: Vec<Merged> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    way.pop();
                    continue;
                }
                _ => {}
            }
            match look(way.last().unwrap_or(&self.roots), &part)? {
                Found::Nothing => return Ok(None),
                Found::Directory(_) if way.len() == MAX_DEPTH => return Err(Unreadable::Loop),
                Found::Directory(next) => way.push(next),
                Found::File(file) if todo.is_empty() => return Ok(Some(file)),
                Found::File(_) => return Ok(None),
                Found::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Unreadable::Loop);
                    }
                    if target.starts_with(b"/") {
                        way.clear();
                    }
                    todo.extend(parts(&target));
                }
            }
        }
        Err(Unreadable::NotRegular)
    }
}

/// The names of a way, the last first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect()
}

pub(crate) fn look(here: &Merged, name: &[u8]) -> Result<Found, Unreadable> {
    let mut merged = Merged::new();
    for Part { layer, directory } in here {
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            Err(Errno::NAMETOOLONG) => return Ok(Found::Nothing),
            other => other?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let child = open_child(directory, name)?;
                let opaque = is_opaque(&child);
                merged.push(Part { layer: *layer, directory: child });
                if opaque {
                    break;
                }
            }
            // Below a directory of an upper layer this is hidden.
            _ if !merged.is_empty() => break,
            _ if is_whiteout(&stat) => return Ok(Found::Nothing),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                return Ok(Found::Link(target.into_bytes()));
            }
            FileType::RegularFile => return open_file(directory, name).map(Found::File),
            _ => return Err(Unreadable::NotRegular),
        }
    }
    Ok(if merged.is_empty() { Found::Nothing } else { Found::Directory(merged) })
}

/// Without following, and without waiting should it be a FIFO after all.
fn open_file(directory: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Unreadable> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0u8; 1];
    matches!(rustix::fs::fgetxattr(directory, OPAQUE, &mut value[..]), Ok(1) if value == *b"y")
}
