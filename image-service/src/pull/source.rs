//! The bounded pipe between a download and the thread that unpacks it, and the download that fills it.

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::LayerWatch;
use crate::manifest::Descriptor;
use crate::registry::{self, Repository};
use crate::unpack::stream::read_from_buffer;

/// Pieces in the pipe; with the registry's pieces of some 16 to 64 KiB at most a megabyte waits.
const PIECES: usize = 16;
/// A download that found the pipe full waits for room for so many: woken for each piece that is taken, it would make
/// two processors change what they do for every 64 KiB.
const ROOM: usize = PIECES / 2;
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

/// How a download ended.
pub(super) enum Downloaded {
    Done,
    /// The thread gave up, and says why.
    Unwanted,
    Failed(registry::Error),
}

/// All of a blob into the pipe.
pub(super) async fn download(
    repository: &Repository,
    descriptor: &Descriptor,
    sender: mpsc::Sender<Piece>,
    watch: LayerWatch<'_>,
) -> Downloaded {
    let mut blob = match repository.blob(descriptor, 0).await {
        Ok(blob) => blob,
        Err(error) => return Downloaded::Failed(error),
    };
    loop {
        let piece = match blob.next().await {
            Ok(Some(bytes)) => {
                watch.came(bytes.len());
                Piece::Bytes(bytes)
            }
            Ok(None) => Piece::End,
            Err(error) => return Downloaded::Failed(error),
        };
        let ended = matches!(piece, Piece::End);
        if send(&sender, piece).await.is_none() {
            return Downloaded::Unwanted;
        }
        if ended {
            return Downloaded::Done;
        }
    }
}

/// None when nobody reads any more.
async fn send(sender: &mpsc::Sender<Piece>, piece: Piece) -> Option<()> {
    match sender.try_send(piece) {
        Ok(()) => Some(()),
        Err(TrySendError::Closed(_)) => None,
        Err(TrySendError::Full(piece)) => {
            sender.reserve_many(ROOM).await.ok()?.next()?.send(piece);
            Some(())
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_full_pipe_is_filled_again_when_half_of_it_is_empty() {
        let (sender, mut pipe) = pipe();
        let piece = || Piece::Bytes(Bytes::from_static(b"x"));
        for at in 0..PIECES {
            assert_eq!(send(&sender, piece()).now_or_never(), Some(Some(())), "piece {at}");
        }
        let mut next = std::pin::pin!(send(&sender, piece()));
        for taken in 0..ROOM {
            assert_eq!(next.as_mut().now_or_never(), None, "{taken} taken");
            pipe.receiver.try_recv().unwrap();
        }
        assert_eq!(next.now_or_never(), Some(Some(())));
        // The rest of the room is there for the pieces after it.
        for at in 1..ROOM {
            assert_eq!(send(&sender, piece()).now_or_never(), Some(Some(())), "piece {at}");
        }
        assert_eq!(send(&sender, piece()).now_or_never(), None);
        drop(pipe);
        assert_eq!(send(&sender, piece()).now_or_never(), Some(None));
    }
}
