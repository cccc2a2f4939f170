//! The way of the bytes: counted and hashed as they come, inflated, counted and hashed again.

use std::io::{self, BufRead, Read};

use crate::digest::{Algorithm, Digest, Hasher};

use super::Limits;
use super::error::Error;

/// One write of a large file, and what one step of inflating fills.
const BUFFER_BYTES: usize = 256 << 10;
/// gzip reaches 1032 at most; zstd goes further only with long runs of one byte.
const MAX_RATIO: u64 = 4096;
/// The largest window a zstd frame may ask for (128 MiB, the format's own default for decoders).
const ZSTD_WINDOW_LOG: u32 = 27;

/// The bytes as they came. Hashes what it hands on.
pub(crate) struct Source<R> {
    inner: R,
    hasher: Hasher,
    count: u64,
}

impl<R: BufRead> Source<R> {
    pub(crate) fn new(inner: R, algorithm: Algorithm) -> Source<R> {
        Source { inner, hasher: Hasher::new(algorithm), count: 0 }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

impl<R: BufRead> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        // The bytes are still in the buffer: asking again gives them without reading.
        if n > 0
            && let Ok(bytes) = self.inner.fill_buf()
        {
            self.hasher.update(&bytes[..n]);
            self.count += n as u64;
        }
        self.inner.consume(n);
    }
}

/// The packing is told by the bytes themselves, as containerd and containers/image do: media types lie
/// more often, and a wrong guess ends at the diff ID.
pub(crate) enum Inflater<R: BufRead> {
    Plain(Box<Source<R>>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Source<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Source<R>>>),
}

impl<R: BufRead> Inflater<R> {
    pub(crate) fn new(mut source: Source<R>) -> io::Result<Inflater<R>> {
        match source.fill_buf()? {
            [0x1f, 0x8b, ..] => Ok(Inflater::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source)))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Ok(Inflater::Zstd(Box::new(decoder)))
            }
            _ => Ok(Inflater::Plain(Box::new(source))),
        }
    }

    fn compressed(&self) -> u64 {
        match self {
            Inflater::Plain(source) => source.count(),
            Inflater::Gzip(decoder) => decoder.get_ref().count(),
            Inflater::Zstd(decoder) => decoder.get_ref().count(),
        }
    }

    fn into_source(self) -> Source<R> {
        match self {
            Inflater::Plain(source) => *source,
            Inflater::Gzip(decoder) => decoder.into_inner(),
            Inflater::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl<R: BufRead> Read for Inflater<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Inflater::Plain(source) => source.read(buffer),
            Inflater::Gzip(decoder) => decoder.read(buffer),
            Inflater::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// The inflated bytes, hashed and bounded.
pub(crate) struct Diff<R: BufRead> {
    inner: Inflater<R>,
    hasher: Hasher,
    buffer: Box<[u8]>,
    /// What of the buffer is filled and not yet consumed.
    filled: std::ops::Range<usize>,
    count: u64,
    limits: Limits,
}

impl<R: BufRead> Diff<R> {
    pub(crate) fn new(inner: Inflater<R>, algorithm: Algorithm, limits: Limits) -> Diff<R> {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Diff { inner, hasher: Hasher::new(algorithm), buffer, filled: 0..0, count: 0, limits }
    }

    /// How many bytes were handed on.
    pub(crate) fn position(&self) -> u64 {
        self.count - self.filled.len() as u64
    }

    pub(crate) fn drain(&mut self) -> io::Result<()> {
        loop {
            match self.fill_buf()?.len() {
                0 => return Ok(()),
                n => self.consume(n),
            }
        }
    }

    /// The diff ID, and the source for its own digest.
    pub(crate) fn finish(self) -> (Digest, Source<R>) {
        (self.hasher.finish(), self.inner.into_source())
    }

    fn check(&self) -> Result<(), Error> {
        if self.count > self.limits.bytes {
            return Err(Error::TooLarge(self.limits.bytes));
        }
        let compressed = self.inner.compressed();
        if self.count > self.limits.unsuspicious.saturating_add(compressed.saturating_mul(MAX_RATIO)) {
            return Err(Error::Bomb { compressed, unpacked: self.count });
        }
        Ok(())
    }

    /// Fills the whole buffer where it can: small reads would become small writes.
    fn refill(&mut self) -> io::Result<()> {
        let mut end = 0;
        while end < self.buffer.len() {
            match self.inner.read(&mut self.buffer[end..]) {
                Ok(0) => break,
                Ok(n) => end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.hasher.update(&self.buffer[..end]);
        self.count += end as u64;
        self.filled = 0..end;
        self.check().map_err(io::Error::other)
    }
}

impl<R: BufRead> Read for Diff<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Diff<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.filled.is_empty() {
            self.refill()?;
        }
        Ok(&self.buffer[self.filled.clone()])
    }

    fn consume(&mut self, n: usize) {
        self.filled.start += n;
    }
}

/// What a failed read means. Our own bounds travel inside `io::Error`, since `Read` knows no other.
pub(crate) fn error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(other) => Error::Stream(other),
    }
}
