//! The way of the bytes: counted and hashed as they come, inflated, counted and hashed again.

use std::io::{self, BufRead, Read};

use crate::digest::{Algorithm, Digest, Hasher};

use super::Limits;
use super::blocks::{Block, Blocks};
use super::decrypt::Packed;
use super::error::Error;
use super::gzip::Gzip;
use super::recipe::{Recorded, Tape};
use super::window::LARGEST_LOG;

/// gzip reaches 1032 at most; zstd goes further only with long runs of one byte.
const MAX_RATIO: u64 = 4096;
/// What zstd says of a frame whose window is larger than allowed (`ZSTD_error_frameParameter_windowTooLarge`).
const LARGE_WINDOW: &str = "Frame requires too much memory for decoding";

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
        read_from_buffer(self, buffer)
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
    Plain(Box<Packed<R>>),
    Gzip(Box<Gzip<Packed<R>>>),
    Zstd { decoder: Box<zstd::stream::read::Decoder<'static, Packed<R>>>, window_log: u32 },
}

impl<R: BufRead> Inflater<R> {
    /// For archives that an operator names, and layers that have a process of their own.
    pub(crate) fn new(packed: Packed<R>) -> io::Result<Inflater<R>> {
        Inflater::within(packed, LARGEST_LOG)
    }

    /// The same, with windows of at most two to the power of `window_log` bytes.
    pub(crate) fn within(mut packed: Packed<R>, window_log: u32) -> io::Result<Inflater<R>> {
        match packed.fill_buf()? {
            [0x1f, 0x8b, ..] => Ok(Inflater::Gzip(Box::new(Gzip::new(packed)))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
                decoder.window_log_max(window_log)?;
                Ok(Inflater::Zstd { decoder: Box::new(decoder), window_log })
            }
            _ => Ok(Inflater::Plain(Box::new(packed))),
        }
    }

    /// Nothing is there to inflate.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Inflater::Plain(_))
    }

    pub(crate) fn compressed(&self) -> u64 {
        match self {
            Inflater::Plain(packed) => packed.count(),
            Inflater::Gzip(decoder) => decoder.get_ref().count(),
            Inflater::Zstd { decoder, .. } => decoder.get_ref().count(),
        }
    }

    pub(crate) fn into_packed(self) -> Packed<R> {
        match self {
            Inflater::Plain(packed) => *packed,
            Inflater::Gzip(decoder) => decoder.into_inner(),
            Inflater::Zstd { decoder, .. } => decoder.finish(),
        }
    }
}

impl<R: BufRead> Read for Inflater<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Inflater::Plain(packed) => packed.read(buffer),
            Inflater::Gzip(decoder) => decoder.read(buffer),
            Inflater::Zstd { decoder, window_log } => {
                decoder.read(buffer).map_err(|error| match error.to_string() == LARGE_WINDOW {
                    true => io::Error::other(Error::Window(1 << *window_log)),
                    false => error,
                })
            }
        }
    }
}

/// The inflated bytes, hashed and bounded.
pub(crate) struct Diff<B> {
    blocks: B,
    hasher: Hasher,
    block: Block,
    /// How much of the block is consumed.
    consumed: usize,
    count: u64,
    limits: Limits,
    /// Where the bytes go that are not the content of a file.
    tape: Option<Tape>,
    /// What is handed on now is the content of a file.
    in_content: bool,
}

impl<B: Blocks> Diff<B> {
    pub(crate) fn new(blocks: B, algorithm: Algorithm, limits: Limits) -> Diff<B> {
        let hasher = Hasher::new(algorithm);
        let (tape, in_content) = (None, false);
        Diff { blocks, hasher, block: Block::default(), consumed: 0, count: 0, limits, tape, in_content }
    }

    /// From now on keeps what would otherwise be lost.
    pub(crate) fn record(&mut self, tape: Option<Tape>) {
        self.tape = tape;
    }

    /// The next so many bytes are the content of a file of the layer.
    pub(crate) fn begin_content(&mut self, path: &[u8], bytes: u64) {
        if let Some(tape) = &mut self.tape {
            tape.content(path, bytes);
        }
        self.in_content = true;
    }

    pub(crate) fn end_content(&mut self) {
        self.in_content = false;
    }

    /// What was kept.
    pub(crate) fn recorded(&mut self) -> Recorded {
        self.tape.take().map(Tape::finish).unwrap_or_default()
    }

    /// How many bytes were handed on.
    pub(crate) fn position(&self) -> u64 {
        self.count - (self.block.bytes.len() - self.consumed) as u64
    }

    pub(crate) fn drain(&mut self) -> io::Result<()> {
        loop {
            match self.fill_buf()?.len() {
                0 => return Ok(()),
                n => self.consume(n),
            }
        }
    }

    /// The diff ID, and what was packed for its own digest.
    pub(crate) fn finish(self) -> io::Result<(Digest, Packed<B::Source>)> {
        Ok((self.hasher.finish(), self.blocks.finish()?))
    }

    fn refill(&mut self) -> io::Result<()> {
        self.block = self.blocks.next(std::mem::take(&mut self.block))?;
        self.consumed = 0;
        self.hasher.update(&self.block.bytes);
        self.count += self.block.bytes.len() as u64;
        self.check().map_err(io::Error::other)
    }

    fn check(&self) -> Result<(), Error> {
        if self.count > self.limits.bytes {
            return Err(Error::TooLarge(self.limits.bytes));
        }
        let compressed = self.block.compressed;
        if self.count > self.limits.unsuspicious.saturating_add(compressed.saturating_mul(MAX_RATIO)) {
            return Err(Error::Bomb { compressed, unpacked: self.count });
        }
        Ok(())
    }
}

impl<B: Blocks> Read for Diff<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_from_buffer(self, buffer)
    }
}

impl<B: Blocks> BufRead for Diff<B> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.block.bytes.len() {
            self.refill()?;
        }
        Ok(&self.block.bytes[self.consumed..])
    }

    fn consume(&mut self, n: usize) {
        if let Some(tape) = self.tape.as_mut().filter(|_| !self.in_content) {
            tape.plain(&self.block.bytes[self.consumed..self.consumed + n]);
        }
        self.consumed += n;
    }
}

/// `Read::read` for whatever has a buffer.
pub(crate) fn read_from_buffer(source: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let available = source.fill_buf()?;
    let n = available.len().min(buffer.len());
    buffer[..n].copy_from_slice(&available[..n]);
    source.consume(n);
    Ok(n)
}

/// What a failed read means. Our own bounds travel inside `io::Error`, since `Read` knows no other.
pub(crate) fn error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(other) => Error::Stream(other),
    }
}
