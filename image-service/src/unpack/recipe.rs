//! What a layer's archive had beside the contents of its files: enough to write the same archive again, byte by
//! byte, from the unpacked directory. So what lies on the disk can be held against the diff ID at any time, and
//! given away as it came.
//!
//! ```text
//! zstd( { u32 length, bytes as they were; u32 length, path; u64 bytes of that file's content } … )
//! ```
//! An empty path is that of the last run. Nothing here is believed: what is written again is hashed. Before it may
//! lie what later entries replaced (`replaced`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::replaced::Kept;

/// What is gathered before it is packed. Most of it is headers of 512 bytes.
const GATHERED_BYTES: usize = 64 << 10;
/// Headers are much alike and lie close together: the fastest level packs them to a twentieth.
const LEVEL: i32 = 1;
const WINDOW_LOG: u32 = 17;
/// No path of an archive is longer (`error::MAX_NAME`), no run either: longer ones are split.
const MAX_RUN: usize = GATHERED_BYTES;
const MAX_PATH: usize = 64 << 10;

/// Writes a recipe while an archive is unpacked.
pub(crate) struct Tape {
    packed: zstd::stream::write::Encoder<'static, File>,
    gathered: Vec<u8>,
    /// Writing failed: then there is none. That the disk is full, the unpacking itself will tell.
    broken: bool,
}

impl Tape {
    /// Begins one in a file without a name, in the file system of the layer; None where there can be none.
    pub(crate) fn beside(root: &OwnedFd) -> Option<Tape> {
        let mut packed = zstd::stream::write::Encoder::new(nameless(root).ok()?, LEVEL).ok()?;
        packed.window_log(WINDOW_LOG).ok()?;
        Some(Tape { packed, gathered: Vec::with_capacity(GATHERED_BYTES), broken: false })
    }

    /// Bytes that are nowhere else.
    pub(crate) fn plain(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(MAX_RUN) {
            if self.gathered.len() + piece.len() > GATHERED_BYTES {
                self.run(&[], 0);
            }
            self.gathered.extend_from_slice(piece);
        }
    }

    /// The content of a file of the layer comes here.
    pub(crate) fn content(&mut self, path: &[u8], bytes: u64) {
        self.run(path, bytes);
    }

    /// All of it, as a file.
    pub(crate) fn finish(mut self) -> Recorded {
        self.run(&[], 0);
        let file = if self.broken { None } else { self.packed.finish().ok() };
        Recorded(file.map(Arc::new))
    }

    fn run(&mut self, path: &[u8], content: u64) {
        let lengths = (self.gathered.len() as u32).to_le_bytes();
        let parts: [&[u8]; 5] =
            [&lengths, &self.gathered, &(path.len() as u32).to_le_bytes(), path, &content.to_le_bytes()];
        for part in parts {
            self.broken = self.broken || self.packed.write_all(part).is_err();
        }
        self.gathered.clear();
    }
}

/// A file without a name, in the file system of the layer.
pub(super) fn nameless(root: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(root, ".", flags, Mode::from_raw_mode(0o600))?.into())
}

/// A recipe that may be kept. Whether there is one says nothing of what was unpacked, so all are equal.
#[derive(Debug, Clone, Default)]
pub struct Recorded(pub(crate) Option<Arc<File>>);

impl PartialEq for Recorded {
    fn eq(&self, _: &Recorded) -> bool {
        true
    }
}

impl Eq for Recorded {}

/// An archive as it was, made of a recipe and the layer.
pub(crate) struct Rebuilt {
    recipe: zstd::stream::read::Decoder<'static, BufReader<File>>,
    /// The same file, for what was replaced.
    file: Arc<File>,
    kept: Kept,
    root: OwnedFd,
    /// What is left of the run of plain bytes, and what comes after it.
    plain: usize,
    next: Option<(Vec<u8>, u64)>,
    content: Option<Content>,
    ended: bool,
}

/// A file's bytes that are still to come.
struct Content {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Rebuilt {
    pub(crate) fn open(mut recipe: File, root: OwnedFd) -> io::Result<Rebuilt> {
        let kept = Kept::read(&mut recipe)?;
        let file = Arc::new(recipe.try_clone()?);
        let mut recipe = zstd::stream::read::Decoder::new(recipe)?;
        recipe.window_log_max(WINDOW_LOG)?;
        Ok(Rebuilt { recipe, file, kept, root, plain: 0, next: None, content: None, ended: false })
    }

    /// How often something of a name was replaced by a later entry.
    pub(super) fn replaced(&self) -> BTreeMap<Vec<u8>, u32> {
        self.kept.times.clone()
    }

    /// How long the archive is, by its recipe alone.
    pub(crate) fn measure(mut recipe: File) -> io::Result<u64> {
        Kept::read(&mut recipe)?;
        let mut recipe = zstd::stream::read::Decoder::new(recipe)?;
        recipe.window_log_max(WINDOW_LOG)?;
        let mut total = 0u64;
        while let Some(plain) = length(&mut recipe)? {
            io::copy(&mut (&mut recipe).take(plain as u64), &mut io::sink())?;
            let (_, content) = file(&mut recipe)?;
            total = total.saturating_add(plain as u64).saturating_add(content);
        }
        Ok(total)
    }

    fn advance(&mut self) -> io::Result<()> {
        if let Some((path, bytes)) = self.next.take().filter(|(path, _)| !path.is_empty()) {
            self.content = Some(match self.kept.next(&path) {
                None => Content { file: Arc::new(open(&self.root, &path, bytes)?), at: 0, left: bytes },
                Some((at, kept)) if kept == bytes => Content { file: self.file.clone(), at, left: bytes },
                Some(_) => return Err(damaged()),
            });
            return Ok(());
        }
        match length(&mut self.recipe)? {
            None => self.ended = true,
            Some(plain) => self.plain = plain,
        }
        Ok(())
    }
}

impl Read for Rebuilt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buffer.is_empty() {
            if self.plain > 0 {
                let wanted = self.plain.min(buffer.len());
                self.recipe.read_exact(&mut buffer[..wanted])?;
                self.plain -= wanted;
                if self.plain == 0 {
                    self.next = Some(file(&mut self.recipe)?);
                }
                return Ok(wanted);
            }
            match &mut self.content {
                Some(Content { left: 0, .. }) => self.content = None,
                Some(content) => return content.read(buffer),
                None => {
                    self.advance()?;
                    // A run without plain bytes has its file right after it.
                    if self.plain == 0 && self.content.is_none() && !self.ended {
                        self.next = Some(file(&mut self.recipe)?);
                    }
                }
            }
        }
        Ok(0)
    }
}

impl Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter"));
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// The length of the next run; None at the end.
fn length(recipe: &mut impl Read) -> io::Result<Option<usize>> {
    let mut bytes = [0; 4];
    match recipe.read(&mut bytes[..1])? {
        0 => return Ok(None),
        _ => recipe.read_exact(&mut bytes[1..])?,
    }
    let length = u32::from_le_bytes(bytes) as usize;
    if length > MAX_RUN { Err(damaged()) } else { Ok(Some(length)) }
}

fn file(recipe: &mut impl Read) -> io::Result<(Vec<u8>, u64)> {
    let (mut length, mut content) = ([0; 4], [0; 8]);
    recipe.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_PATH {
        return Err(damaged());
    }
    let mut path = vec![0; length];
    recipe.read_exact(&mut path)?;
    recipe.read_exact(&mut content)?;
    Ok((path, u64::from_le_bytes(content)))
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the recipe is damaged")
}

/// A file of the layer, which must still be as long as it was.
fn open(root: &OwnedFd, path: &[u8], bytes: u64) -> io::Result<File> {
    let told = |why: String| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} {why}", String::from_utf8_lossy(path)))
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let opened = rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), inside);
    let opened = opened.map_err(|errno| told(format!("can't be opened: {errno}")))?;
    let stat = rustix::fs::fstat(&opened)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(told("is no file any more".to_owned()));
    }
    match u64::try_from(stat.st_size) {
        Ok(size) if size == bytes => Ok(File::from(opened)),
        _ => Err(told(format!("has {} bytes and not {bytes}", stat.st_size))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rebuilt(recorded: &Recorded, root: &std::path::Path) -> io::Result<Vec<u8>> {
        let file = recorded.0.as_ref().unwrap().try_clone()?;
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        let root = crate::unpack::open_root(root)?;
        Rebuilt::open(file, root)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn what_was_taken_apart_comes_together_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("d")).unwrap();
        std::fs::write(path("d/one"), "ONE").unwrap();
        std::fs::write(path("two"), vec![b'2'; 300_000]).unwrap();
        let mut tape = Tape::beside(&crate::unpack::open_root(dir.path()).unwrap()).unwrap();
        let long: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        tape.plain(b"head");
        tape.content(b"d/one", 3);
        tape.content(b"two", 300_000);
        tape.plain(&long);
        tape.plain(b"tail");
        let recorded = tape.finish();
        let whole = [b"headONE".to_vec(), vec![b'2'; 300_000], long, b"tail".to_vec()].concat();
        assert!(rebuilt(&recorded, dir.path()).unwrap() == whole);
        let file = recorded.0.as_ref().unwrap().try_clone().unwrap();
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
        assert_eq!(Rebuilt::measure(file).unwrap(), whole.len() as u64);
        // What is not as it was is named.
        std::fs::write(path("d/one"), "ONES").unwrap();
        let why = rebuilt(&recorded, dir.path()).unwrap_err().to_string();
        assert_eq!(why, "d/one has 4 bytes and not 3");
        std::fs::remove_file(path("d/one")).unwrap();
        std::os::unix::fs::symlink("../two", path("d/one")).unwrap();
        assert!(rebuilt(&recorded, dir.path()).unwrap_err().to_string().starts_with("d/one can't be opened"));
    }
}
