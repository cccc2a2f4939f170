//! The bounded pipe between a download and the thread that unpacks it.

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::unpack::stream::read_from_buffer;

/// Pieces in the pipe; with the registry's pieces of some 16 to 64 KiB at most a megabyte waits.
const PIECES: usize = 16;
/// The first read must show enough to tell how the layer is packed.
const MAGIC_BYTES: usize = 8;

/// What goes through the pipe. The end is said: a pipe that only closes was cut.
pub(crate) enum Piece {
    Bytes(Bytes),
    End,
}

pub(crate) fn pipe() -> (mpsc::Sender<Piece>, Pipe) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (sender, Pipe { receiver, current: Bytes::new(), started: false, ended: false })
}

/// The reading end, for a thread that may block.
pub(crate) struct Pipe {
    receiver: mpsc::Receiver<Piece>,
    current: Bytes,
    started: bool,
    ended: bool,
}

impl Pipe {
    fn next(&mut self) -> io::Result<Bytes> {
        if self.ended {
            return Ok(Bytes::new());
        }
        match self.receiver.blocking_recv() {
            Some(Piece::Bytes(bytes)) => Ok(bytes),
            Some(Piece::End) => {
                self.ended = true;
                Ok(Bytes::new())
            }
            None => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download broke off")),
        }
    }

    fn start(&mut self) -> io::Result<()> {
        self.started = true;
        while self.current.len() < MAGIC_BYTES && !self.ended {
            let next = self.next()?;
            self.current = [&self.current[..], &next[..]].concat().into();
        }
        Ok(())
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_from_buffer(self, buffer)
    }
}

impl BufRead for Pipe {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if !self.started {
            self.start()?;
        }
        while self.current.is_empty() && !self.ended {
            self.current = self.next()?;
        }
        Ok(&self.current)
    }

    fn consume(&mut self, n: usize) {
        self.current.advance(n);
    }
}
