//! Reads tar as Go's archive/tar does, since every layer is made and checked by that: ustar, PAX and GNU
//! long names. A PAX size overrides the header's (CVE-2025-62518); what has no data skips none.
//!
//! Nothing is held but one entry's header and its extensions, each bounded.

use std::io::{BufRead, Read};

use super::blocks::Blocks;
use super::entry::{Entry, Kind, Time, normalise};
use super::error::{Error, MAX_EXTENSION, MAX_NAME, Refusal};
use super::stream::{self, Diff};

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

/// What extension headers said about the entry after them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    /// GNU's long name and link are heard over PAX's, as in Go.
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: bool,
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
                    extensions.read_pax(&body).ok_or_else(|| header.refused(Refusal::BadExtension))?;
                }
                // A global header: Go hands it out as an entry of its own and applies nothing of it.
                b'g' => _ = self.extension(&header, MAX_EXTENSION, Refusal::LargeExtension)?,
                b'L' => extensions.gnu_path = Some(self.long_name(&header)?),
                b'K' => extensions.gnu_link = Some(self.long_name(&header)?),
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

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        let body = self.extension(header, MAX_NAME as u64 + 1, Refusal::LongName)?;
        Ok(until_nul(&body).to_vec())
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
            // Before POSIX a directory was told by its slash.
            0 | b'0' if name.ends_with(b"/") => Kind::Directory,
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

impl Extensions {
    /// Records are `LENGTH KEY=VALUE\n`. None when they are not.
    fn read_pax(&mut self, mut body: &[u8]) -> Option<()> {
        while !body.is_empty() {
            let space = body.iter().take(20).position(|b| *b == b' ')?;
            let length = usize::try_from(decimal(&body[..space])?).ok()?;
            let record = body.get(space + 1..length)?.strip_suffix(b"\n")?;
            body = &body[length..];
            let equals = record.iter().position(|b| *b == b'=')?;
            self.record(&record[..equals], &record[equals + 1..])?;
        }
        Some(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Some(());
        }
        if key.starts_with(b"GNU.sparse.") {
            self.sparse = true;
        }
        // An empty value takes back what an earlier record said.
        let given = (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = given.map(<[u8]>::to_vec),
            b"linkpath" => self.link = given.map(<[u8]>::to_vec),
            b"size" => self.size = given.map(decimal).map_or(Some(None), |n| n.map(Some))?,
            b"uid" => self.uid = given.map(decimal).map_or(Some(None), |n| n.map(Some))?,
            b"gid" => self.gid = given.map(decimal).map_or(Some(None), |n| n.map(Some))?,
            b"mtime" => self.mtime = given.map(time).map_or(Some(None), |n| n.map(Some))?,
            _ => {}
        }
        Some(())
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `-12.5`: seconds with any number of digits after the point; nanoseconds count forward.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..point])?).ok()?;
    let fraction = text.get(point + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |n, digit| n * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, nanoseconds) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// A raw header block, its checksum checked.
struct Header([u8; BLOCK]);

impl Header {
    /// POSIX sums unsigned bytes; some old programs summed signed ones.
    fn has_checksum(&self) -> bool {
        let Some(said) = self.number(148..156) else { return false };
        let bytes = || self.0[..148].iter().chain([b' '; 8].iter()).chain(&self.0[156..]);
        let unsigned: u64 = bytes().map(|b| u64::from(*b)).sum();
        let signed: i64 = bytes().map(|b| i64::from(*b as i8)).sum();
        said == unsigned || i64::try_from(said) == Ok(signed)
    }

    /// Octal text, or GNU's base 256 where the first bit is set. Empty is zero; None when it is neither,
    /// negative, or too large.
    fn number(&self, field: std::ops::Range<usize>) -> Option<u64> {
        let field = &self.0[field];
        if field[0] & 0x80 != 0 {
            return u64::try_from(base_256(field)?).ok();
        }
        let is_filler = |b: &u8| *b == b' ' || *b == 0;
        let start = field.iter().position(|b| !is_filler(b)).unwrap_or(field.len());
        let text = &field[start..];
        let end = text.iter().position(is_filler).unwrap_or(text.len());
        if end == 0 {
            return Some(0);
        }
        let text = std::str::from_utf8(&text[..end]).ok()?;
        if text.starts_with('+') { None } else { u64::from_str_radix(text, 8).ok() }
    }

    /// The modification time, the one number that may lie before 1970.
    fn seconds(&self) -> Option<i64> {
        let field = &self.0[136..148];
        if field[0] & 0x80 != 0 { base_256(field) } else { i64::try_from(self.number(136..148)?).ok() }
    }

    fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        let prefix = until_nul(&self.0[345..500]);
        // GNU's own format (`ustar  `) has other things where POSIX has the prefix.
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }

    fn link(&self) -> Vec<u8> {
        until_nul(&self.0[157..257]).to_vec()
    }

    fn refused(&self, why: Refusal) -> Error {
        Error::refused(&self.path(), why)
    }
}

/// Two's complement, big-endian, the marker bit taken off.
fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let start = if negative { -1i128 } else { 0 };
    let value = std::iter::once(first)
        .chain(field[1..].iter().copied())
        .try_fold(start, |value, byte| value.checked_mul(256).map(|value| value | i128::from(byte)))?;
    i64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_keep_their_fraction() {
        let check = |text: &str, seconds, nanoseconds| {
            assert_eq!(time(text.as_bytes()), Some(Time { seconds, nanoseconds }), "{text}");
        };
        check("12", 12, 0);
        check("12.5", 12, 500_000_000);
        check("12.0000000019", 12, 1);
        check("-1.25", -2, 750_000_000);
        check("-3", -3, 0);
        for bad in ["", ".", "1.x", "x", "99999999999999999999"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn malformed_extensions_are_no_extensions() {
        let read = |body: &[u8]| Extensions::default().read_pax(body).is_some();
        assert!(read(b"11 path=ab\n"));
        for bad in [
            &b"12 path=ab\n"[..],
            b"10 path=ab\n",
            b"path=ab\n",
            b"0 \n",
            b"3 \n",
            b"99999999999999999999999 path=ab\n",
            b"12 size=abc\n\n",
            b"9 pathab\n",
        ] {
            assert!(!read(bad), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        let check = |field: &[u8], number: Option<u64>| {
            let mut header = Header([0; BLOCK]);
            header.0[124..124 + field.len()].copy_from_slice(field);
            assert_eq!(header.number(124..136), number, "{field:?}");
        };
        check(b"00000000017\0", Some(15));
        check(b"   17 ", Some(15));
        check(b"", Some(0));
        check(b"18", None);
        check(b"-1", None);
        check(b"+1", None);
        check(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2], Some(258));
        check(&[0xff; 12], None);
        check(&[0xbf; 12], None);
    }
}
