//! Reads a blob from the disk right behind the downloads that bring it.

use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::frontier::Frontier;
use crate::unpack::stream::read_from_buffer;

const BUFFER_BYTES: usize = 256 << 10;
/// The first read must show enough to tell how the layer is packed.
const MAGIC_BYTES: u64 = 8;

#[derive(Debug)]
pub(super) struct Behind {
    frontier: Arc<Frontier>,
    position: u64,
    buffer: Vec<u8>,
    consumed: usize,
}

impl Behind {
    pub(super) fn new(frontier: Arc<Frontier>) -> Behind {
        Behind { frontier, position: 0, buffer: Vec::new(), consumed: 0 }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.consumed = 0;
        let Some(available) = self.frontier.wait(self.position, MAGIC_BYTES)? else { return Ok(()) };
        let length = available.bytes.min(BUFFER_BYTES as u64) as usize;
        self.buffer.resize(length, 0);
        available.file.read_exact_at(&mut self.buffer, available.offset)?;
        self.position += length as u64;
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
        if self.consumed == self.buffer.len() {
            self.refill()?;
        }
        Ok(&self.buffer[self.consumed..])
    }

    fn consume(&mut self, n: usize) {
        self.consumed += n;
    }
}
