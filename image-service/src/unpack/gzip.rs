//! Members of a gzip file one after another (RFC 1952), inflated.
//!
//! Their CRC-32 is not computed: a layer's bytes are held against two SHA-256 digests, before and after
//! inflating, and a twentieth of a pull's time bought nothing more. Their lengths are compared, so that a
//! member that was cut or glued is told as what it is.

use std::io::{self, BufRead, Read};

use flate2::{Decompress, FlushDecompress, Status};

const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// RFC 1952, 2.3.1, "FLG".
const HEADER_CRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;
/// A name or a comment longer than this is there to keep us busy.
const MAX_TEXT: usize = 64 << 10;

pub(crate) struct Gzip<R> {
    inner: R,
    inflate: Decompress,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A member or the end comes; the first member must.
    Between {
        first: bool,
    },
    Inside,
    Ended,
}

impl<R: BufRead> Gzip<R> {
    pub(crate) fn new(inner: R) -> Gzip<R> {
        Gzip { inner, inflate: Decompress::new(false), state: State::Between { first: true } }
    }

    pub(crate) fn get_ref(&self) -> &R {
        &self.inner
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// Into the next member, unless there is none.
    fn begin(&mut self, first: bool) -> io::Result<()> {
        if !first && self.inner.fill_buf()?.is_empty() {
            self.state = State::Ended;
            return Ok(());
        }
        header(&mut self.inner)?;
        self.inflate.reset(false);
        self.state = State::Inside;
        Ok(())
    }

    /// One step; 0 bytes mean that it was one without output.
    fn inflate(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let input = self.inner.fill_buf()?;
        let is_end = input.is_empty();
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(input, buffer, FlushDecompress::None);
        let consumed = self.inflate.total_in() - before_in;
        let made = self.inflate.total_out() - before_out;
        self.inner.consume(consumed as usize);
        match status.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            Status::StreamEnd => self.finish_member()?,
            Status::Ok | Status::BufError if is_end && made == 0 => return Err(cut()),
            Status::Ok | Status::BufError => {}
        }
        Ok(made as usize)
    }

    fn finish_member(&mut self) -> io::Result<()> {
        let mut trailer = [0; 8];
        self.inner.read_exact(&mut trailer)?;
        let [.., a, b, c, d] = trailer;
        // The length is of the lowest 32 bits only (RFC 1952, "ISIZE").
        if u32::from_le_bytes([a, b, c, d]) != self.inflate.total_out() as u32 {
            return Err(invalid("a gzip member has another length than it says"));
        }
        self.state = State::Between { first: false };
        Ok(())
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.state {
                State::Ended => return Ok(0),
                State::Between { first } => self.begin(first)?,
                State::Inside => match self.inflate(buffer)? {
                    0 => {}
                    made => return Ok(made),
                },
            }
        }
    }
}

fn header(source: &mut impl BufRead) -> io::Result<()> {
    let mut fixed = [0; 10];
    source.read_exact(&mut fixed)?;
    let flags = fixed[3];
    if fixed[..3] != MAGIC || flags & RESERVED != 0 {
        return Err(invalid("what should be a gzip member is none"));
    }
    if flags & EXTRA != 0 {
        let mut length = [0; 2];
        source.read_exact(&mut length)?;
        skip(source, usize::from(u16::from_le_bytes(length)))?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            skip_text(source)?;
        }
    }
    if flags & HEADER_CRC != 0 { skip(source, 2) } else { Ok(()) }
}

fn skip(source: &mut impl BufRead, mut bytes: usize) -> io::Result<()> {
    while bytes > 0 {
        let there = source.fill_buf()?.len().min(bytes);
        if there == 0 {
            return Err(cut());
        }
        source.consume(there);
        bytes -= there;
    }
    Ok(())
}

fn skip_text(source: &mut impl BufRead) -> io::Result<()> {
    for _ in 0..MAX_TEXT {
        let first = source.fill_buf()?.first().copied().ok_or_else(cut)?;
        source.consume(1);
        if first == 0 {
            return Ok(());
        }
    }
    Err(invalid("a gzip member has an endless name"))
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a gzip member ends in the middle")
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write};

    use flate2::{Compression, GzBuilder};

    use super::*;

    fn member(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Whatever the sizes of the pieces in which it is read.
    fn inflate(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut results = [1, 7, 1 << 16].into_iter().map(|size| {
            let mut plain = Vec::new();
            Gzip::new(BufReader::with_capacity(size, packed)).read_to_end(&mut plain).map(|_| plain)
        });
        let first = results.next().unwrap();
        for other in results {
            assert_eq!(other.as_ref().ok(), first.as_ref().ok());
        }
        first
    }

    #[test]
    fn members_follow_one_another_with_all_that_a_header_may_have() {
        let mut named = GzBuilder::new().filename("name").comment("words").extra(vec![7; 300]);
        named = named.mtime(9);
        let mut encoder = named.write(Vec::new(), Compression::best());
        encoder.write_all(b"second").unwrap();
        let named = encoder.finish().unwrap();
        let packed = [&member(b"first, ")[..], &named, &member(b""), &member(&b"x".repeat(100_000))].concat();
        assert_eq!(inflate(&packed).unwrap(), [b"first, second", &b"x".repeat(100_000)[..]].concat());
        // The header's own sum (FHCRC) is passed over.
        let mut summed = member(b"sum");
        summed[3] = HEADER_CRC;
        summed.splice(10..10, [0, 0]);
        assert_eq!(inflate(&summed).unwrap(), b"sum");
    }

    #[test]
    fn what_is_cut_or_followed_by_something_else_is_an_error() {
        let packed = member(b"some text, some text");
        for cut in 0..packed.len() {
            assert!(inflate(&packed[..cut]).is_err(), "cut at {cut}");
        }
        for more in [&[0][..], b"more", &[0x1f], &packed[..5]] {
            assert!(inflate(&[&packed, more].concat()).is_err(), "{more:?}");
        }
        let length = packed.len() - 1;
        for at in [0, 1, 2, 3, length] {
            let mut other = packed.clone();
            other[at] ^= 0x80;
            assert!(inflate(&other).is_err(), "another byte at {at}");
        }
        let mut endless = vec![0x1f, 0x8b, 8, NAME, 0, 0, 0, 0, 0, 0];
        endless.extend([b'n'; MAX_TEXT + 1]);
        assert!(inflate(&endless).unwrap_err().to_string().contains("endless"));
    }
}
