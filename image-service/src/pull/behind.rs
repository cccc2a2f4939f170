//! Reads a blob from the disk right behind the downloads that bring it.

use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::frontier::Frontier;
use crate::unpack::stream::read_from_buffer;
use crate::unpack::window;

const BUFFER_BYTES: usize = 256 << 10;
/// The first read must show enough to tell how the layer is packed, and what memory that takes.
pub(super) const MAGIC_BYTES: u64 = window::HEADER_BYTES as u64;

#[derive(Debug)]
pub(super) struct Behind {
    frontier: Arc<Frontier>,
    position: u64,
    buffer: Box<[u8]>,
    filled: usize,
    consumed: usize,
}

impl Behind {
    pub(super) fn new(frontier: Arc<Frontier>, position: u64) -> Behind {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Behind { frontier, position, buffer, filled: 0, consumed: 0 }
    }

    fn refill(&mut self) -> io::Result<()> {
        (self.filled, self.consumed) = (0, 0);
        let Some(available) = self.frontier.wait(self.position, MAGIC_BYTES)? else { return Ok(()) };
        let length = available.bytes.min(BUFFER_BYTES as u64) as usize;
        available.file.read_exact_at(&mut self.buffer[..length], available.offset)?;
        self.position += length as u64;
        self.filled = length;
        Ok(())
    }
}

impl Read for Behind {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_from_buffer(self, buffer)
    }
}

impl BufRead for Behind {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.filled {
            self.refill()?;
        }
        Ok(&self.buffer[self.consumed..self.filled])
    }

    fn consume(&mut self, n: usize) {
        self.consumed += n;
    }
}
