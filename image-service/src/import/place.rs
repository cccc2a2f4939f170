//! Where an archive's files lie: in a directory, or inside a tar file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::digest::Algorithm;
use crate::error::Error;
use crate::unpack::archive::Archive;
use crate::unpack::decrypt::Packed;
use crate::unpack::entry::{Kind, normalise};
use crate::unpack::stream::{self, Diff, Inflater, Source};
use crate::unpack::{Limits, open_root};

/// Files in an archive: a few for each layer.
const MAX_FILES: u64 = 100_000;
/// What all their names, and those that links among them give, may take in memory: an archive of a builder has a
/// hundred bytes for each.
const MAX_NAME_BYTES: usize = 16 << 20;
const READ_BYTES: usize = 256 << 10;
/// Where large files lie for a while (file-hierarchy(7)); `/tmp` is often memory.
const UNPACKED_DIR: &str = "/var/tmp";
/// As large as the largest layer may be.
const MAX_INFLATED_BYTES: u64 = 256 << 30;

#[derive(Debug)]
pub(crate) enum Place {
    Directory(OwnedFd),
    Tar(Tar),
}

#[derive(Debug)]
pub(crate) struct Tar {
    file: Arc<File>,
    files: HashMap<Vec<u8>, Member>,
}

#[derive(Debug, Clone)]
enum Member {
    Data {
        offset: u64,
        size: u64,
    },
    /// Older `docker save` links layers that several images share.
    Link(Vec<u8>),
}

impl Place {
    pub(crate) fn open(path: &Path) -> Result<Place, Error> {
        let failed = |error| Error::io("opening", path, error);
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if metadata.is_dir() {
            return Ok(Place::Directory(open_root(path).map_err(|errno| failed(errno.into()))?));
        }
        if !metadata.is_file() {
            return Err(Error::invalid(path.display().to_string(), "it is neither a file nor a directory"));
        }
        let file = Arc::new(File::open(path).map_err(failed)?);
        Ok(Place::Tar(Tar::index(file, path)?))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.file(name).is_ok()
    }

    /// A small file, whole.
    pub(crate) fn read(&self, name: &str, max: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut file = self.file(name)?.take(max + 1);
        file.read_to_end(&mut bytes).map_err(|error| Error::io("reading", Path::new(name), error))?;
        if bytes.len() as u64 > max {
            return Err(Error::invalid(name, format!("it is larger than {max} bytes")));
        }
        Ok(bytes)
    }

    /// Opens a file of the archive.
    pub(crate) fn file(&self, name: &str) -> Result<Range, Error> {
        match self {
            Place::Directory(directory) => {
                open_inside(directory, name).map_err(|error| Error::io("opening", Path::new(name), error))
            }
            Place::Tar(tar) => {
                tar.find(name).ok_or_else(|| Error::invalid(name, "the archive has no such file"))
            }
        }
    }
}

impl Tar {
    /// Reads through the archive once to learn where its files are.
    fn index(file: Arc<File>, path: &Path) -> Result<Tar, Error> {
        let shown = path.display().to_string();
        let whole = Range { file: file.clone(), offset: 0, end: u64::MAX };
        let source = Source::new(BufReader::with_capacity(READ_BYTES, whole), Algorithm::Sha256);
        let inflater = Inflater::new(Packed::new(source, None));
        let inflater = inflater.map_err(|error| Error::io("reading", path, error))?;
        if !inflater.is_plain() {
            return Tar::index(inflate(inflater, path)?, path);
        }
        let mut archive =
            Archive::new(Diff::new(inflater, Algorithm::Sha256, Limits::new(u64::MAX)), MAX_FILES);
        let mut files = HashMap::new();
        let mut left = MAX_NAME_BYTES;
        while let Some(entry) = archive.next_entry().map_err(|error| Error::invalid(&shown, error))? {
            let member = match entry.kind {
                Kind::File { size } => Member::Data { offset: archive.position(), size },
                Kind::HardLink { target } => Member::Link(target),
                Kind::Symlink { target } => match beside(&entry.path, &target) {
                    Some(target) => Member::Link(target),
                    None => continue,
                },
                Kind::Directory | Kind::Device { .. } | Kind::Fifo => continue,
            };
            let more = entry.path.len() + if let Member::Link(target) = &member { target.len() } else { 0 };
            left = left.checked_sub(more).ok_or_else(|| {
                let why = format!("the names of the files in it have more than {MAX_NAME_BYTES} bytes");
                Error::invalid(&shown, why)
            })?;
            files.insert(entry.path, member);
        }
        Ok(Tar { file, files })
    }

    fn find(&self, name: &str) -> Option<Range> {
        let mut member = self.files.get(&normalise(name.as_bytes()).ok()?)?;
        if let Member::Link(target) = member {
            member = self.files.get(target)?;
        }
        match member {
            Member::Data { offset, size } => {
                let end = offset.checked_add(*size)?;
                Some(Range { file: self.file.clone(), offset: *offset, end })
            }
            Member::Link(_) => None,
        }
    }
}

/// The archive as it was before it was compressed, in a file without a name: its files are read in any order.
fn inflate(inflater: Inflater<BufReader<Range>>, path: &Path) -> Result<Arc<File>, Error> {
    let dir = Path::new(UNPACKED_DIR);
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let made = rustix::fs::openat(rustix::fs::CWD, dir, flags, Mode::from_raw_mode(0o600));
    let mut file = File::from(made.map_err(|errno| Error::io("making a file in", dir, errno.into()))?);
    let mut plain = Diff::new(inflater, Algorithm::Sha256, Limits::new(MAX_INFLATED_BYTES));
    loop {
        let unreadable = |error| Error::invalid(path.display().to_string(), stream::error(error));
        let bytes = plain.fill_buf().map_err(unreadable)?;
        if bytes.is_empty() {
            break;
        }
        let count = bytes.len();
        file.write_all(bytes).map_err(|error| Error::io("writing a file in", dir, error))?;
        plain.consume(count);
    }
    // Unpacking until nothing is packed would let an archive decide how often.
    let mut start = [0; 4];
    let known = file.read_at(&mut start, 0).map_err(|error| Error::io("reading a file in", dir, error))?;
    match &start[..known] {
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] => {
            Err(Error::invalid(path.display().to_string(), "it is compressed twice"))
        }
        _ => Ok(Arc::new(file)),
    }
}

/// What a relative symbolic link beside `path` means; names are keys here, so `..` may be undone.
fn beside(path: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    parts.pop();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => _ = parts.pop()?,
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

fn open_inside(directory: &OwnedFd, name: &str) -> io::Result<Range> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(directory, name, flags, Mode::empty(), inside)?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL.into());
    }
    Ok(Range { file: Arc::new(File::from(file)), offset: 0, end: u64::MAX })
}

/// A part of a file, read without moving the file's own position.
#[derive(Debug)]
pub(crate) struct Range {
    file: Arc<File>,
    offset: u64,
    end: u64,
}

impl Range {
    /// How many bytes there are.
    pub(crate) fn size(&self) -> io::Result<u64> {
        let end = self.end.min(self.file.metadata()?.len());
        Ok(end.saturating_sub(self.offset))
    }

    /// Leaves the first `bytes` out.
    pub(crate) fn skip(&mut self, bytes: u64) {
        self.offset = self.offset.saturating_add(bytes).min(self.end);
    }
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let n = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_inside_an_archive_mean_other_members() {
        let check = |path: &str, target: &str, member: Option<&str>| {
            let member = member.map(|member| member.as_bytes().to_vec());
            assert_eq!(beside(path.as_bytes(), target.as_bytes()), member);
        };
        check("b/layer.tar", "../a/layer.tar", Some("a/layer.tar"));
        check("b/layer.tar", "x.tar", Some("b/x.tar"));
        check("layer.tar", "../../x", None);
    }
}
