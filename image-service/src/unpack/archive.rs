//! Reads tar as Go's archive/tar does, since every layer is made and checked by that: ustar, PAX and GNU
//! long names. A PAX size overrides the header's (CVE-2025-62518); what has no data skips none.
//!
//! Nothing is held but one entry's header and its extensions, each bounded.

mod extensions;
mod header;

use std::io::{BufRead, Read};

use super::blocks::Blocks;
use super::entry::{Entry, Kind, Time, normalise};
use super::error::{Error, MAX_EXTENSION, MAX_NAME, Refusal};
use super::stream::{self, Diff};
use extensions::Extensions;
use header::{Header, until_nul};

const BLOCK: usize = 512;

/// An archive, read from the front to the end once.
pub(crate) struct Archive<B> {
    source: Diff<B>,
    /// Data of the current entry that nobody took.
    data: u64,
    /// What fills the last block of that data.
    padding: u64,
    entries: u64,
    max_entries: u64,
}

impl<B: Blocks> Archive<B> {
    pub(crate) fn new(source: Diff<B>, max_entries: u64) -> Archive<B> {
        Archive { source, data: 0, padding: 0, entries: 0, max_entries }
    }

    pub(crate) fn into_inner(self) -> Diff<B> {
        self.source
    }

    /// Where the next unread byte lies; after [`Archive::next_entry`], the entry's data.
    pub(crate) fn position(&self) -> u64 {
        self.source.position()
    }

    /// The next entry; None at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else { return Ok(None) };
            self.count()?;
            match header.0[156] {
                b'x' => {
                    let body = self.extension(&header, MAX_EXTENSION, Refusal::LargeExtension)?;
                    extensions.replace_pax(&body).map_err(|why| header.refused(why))?;
                }
                // A global header: Go hands it out as an entry of its own, so what was said before it is
                // said of it, and applies nothing of it.
                b'g' => {
                    self.extension(&header, MAX_EXTENSION, Refusal::LargeExtension)?;
                    extensions = Extensions::default();
                }
                b'L' => extensions.gnu_path = self.long_name(&header)?,
                b'K' => extensions.gnu_link = self.long_name(&header)?,
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// Hands the current entry's data on as the content of the file that is made of it.
    pub(crate) fn content(
        &mut self,
        path: &[u8],
        sink: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.data == 0 {
            return Ok(());
        }
        self.source.begin_content(path, self.data);
        let taken = self.data(sink);
        self.source.end_content();
        taken
    }

    /// Hands the current entry's data on in pieces of the inflater's buffer.
    pub(crate) fn data(&mut self, mut sink: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        while self.data > 0 {
            let available = self.source.fill_buf().map_err(stream::error)?;
            if available.is_empty() {
                return Err(Error::Truncated);
            }
            let n = available.len().min(usize::try_from(self.data).unwrap_or(usize::MAX));
            sink(&available[..n])?;
            self.source.consume(n);
            self.data -= n as u64;
        }
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), Error> {
        self.data = self.data.saturating_add(std::mem::take(&mut self.padding));
        self.data(|_| Ok(()))
    }

    fn expect_data(&mut self, size: u64) {
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn count(&mut self) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > self.max_entries { Err(Error::TooMany(self.max_entries)) } else { Ok(()) }
    }

    /// The next header; None after two blocks of zeros, or where the bytes end between entries.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        let offset = self.source.position();
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|b| *b == 0) {
            return match self.block()? {
                Some(second) if second.iter().any(|b| *b != 0) => Err(Error::Header(offset)),
                _ => Ok(None),
            };
        }
        let header = Header(block);
        if header.has_checksum() { Ok(Some(header)) } else { Err(Error::Header(offset)) }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        if self.source.fill_buf().map_err(stream::error)?.is_empty() {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        self.read_exact(&mut block)?;
        Ok(Some(block))
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.source.read(&mut buffer[filled..]).map_err(stream::error)? {
                0 => return Err(Error::Truncated),
                n => filled += n,
            }
        }
        Ok(())
    }

    fn extension(&mut self, header: &Header, max: u64, why: Refusal) -> Result<Vec<u8>, Error> {
        let size = header.number(124..136).ok_or_else(|| header.refused(Refusal::Number))?;
        if size > max {
            return Err(header.refused(why));
        }
        let mut body = vec![0; size as usize];
        self.read_exact(&mut body)?;
        self.expect_data(size);
        self.data = 0;
        Ok(body)
    }

    /// None for an empty one, which says nothing.
    fn long_name(&mut self, header: &Header) -> Result<Option<Vec<u8>>, Error> {
        let body = self.extension(header, MAX_NAME as u64 + 1, Refusal::LongName)?;
        Ok(Some(until_nul(&body).to_vec()).filter(|name| !name.is_empty()))
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, Error> {
        let name = extensions.gnu_path.or(extensions.path).unwrap_or_else(|| header.path());
        let refused = |why| Error::refused(&name, why);
        let number = |field| header.number(field).ok_or_else(|| refused(Refusal::Number));
        if extensions.sparse || header.0[156] == b'S' {
            return Err(refused(Refusal::Sparse));
        }
        let path = normalise(&name)?;
        let link = extensions.gnu_link.or(extensions.link).unwrap_or_else(|| header.link());
        let size = extensions.size.map_or_else(|| number(124..136), Ok)?;
        if i64::try_from(size).is_err() {
            return Err(refused(Refusal::Number));
        }
        let kind = match header.0[156] {
            // Before POSIX a directory was told by its slash. Type '0' is a file whatever its name: it has data,
            // in which another reader would find entries.
            0 if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => Kind::File { size },
            b'1' => Kind::HardLink { target: normalise(&link)? },
            b'2' => Kind::Symlink { target: symlink_target(&name, link)? },
            kind @ (b'3' | b'4') => Kind::Device {
                character: kind == b'3',
                major: small(number(329..337)?).ok_or_else(|| refused(Refusal::Number))?,
                minor: small(number(337..345)?).ok_or_else(|| refused(Refusal::Number))?,
            },
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(refused(Refusal::Type(char::from(other)))),
        };
        let id = |text: u64| u32::try_from(text).ok().filter(|id| *id != u32::MAX);
        let uid = id(extensions.uid.map_or_else(|| number(108..116), Ok)?);
        let gid = id(extensions.gid.map_or_else(|| number(116..124), Ok)?);
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            None => {
                Time { seconds: header.seconds().ok_or_else(|| refused(Refusal::Number))?, nanoseconds: 0 }
            }
        };
        let mode = number(100..108)? as u32 & 0o7777;
        // Links, directories, devices and pipes have no data, whatever size they give: so in Go.
        self.expect_data(if let Kind::File { size } = kind { size } else { 0 });
        Ok(Entry {
            kind,
            mode,
            uid: uid.ok_or_else(|| refused(Refusal::Number))?,
            gid: gid.ok_or_else(|| refused(Refusal::Number))?,
            mtime,
            xattrs: extensions.xattrs,
            path,
        })
    }
}

/// Linux keeps 12 bits of major and 20 of minor.
fn small(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number < 1 << 20)
}

fn symlink_target(name: &[u8], target: Vec<u8>) -> Result<Vec<u8>, Error> {
    match () {
        () if target.len() > MAX_NAME => Err(Error::refused(name, Refusal::LongName)),
        () if target.contains(&0) => Err(Error::refused(name, Refusal::Nul)),
        () => Ok(target),
    }
}
