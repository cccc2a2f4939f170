//! The bounded pipe between a download and the thread that unpacks it, and the download that fills it.

use std::io::{self, BufRead, Read};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, timeout_at};

use super::LayerWatch;
use super::behind::{Behind, MAGIC_BYTES};
use crate::manifest::Descriptor;
use crate::registry::{self, Blob, Repository};
use crate::unpack::stream::read_from_buffer;

/// Pieces in the pipe; with the registry's pieces of some 16 to 64 KiB at most a megabyte waits.
const PIECES: usize = 16;
/// A download that found the pipe full waits for room for so many: woken for each piece that is taken, it would make
/// two processors change what they do for every 64 KiB.
const ROOM: usize = PIECES / 2;

/// What goes through the pipe. The end is said: a pipe that only closes was cut.
pub(super) enum Piece {
    Bytes(Bytes),
    /// All that follows comes by way of the disk. Not sent when bytes have come, but too few to tell how the
    /// layer is packed.
    Behind(Behind),
    End,
}

pub(super) fn pipe() -> (mpsc::Sender<Piece>, Pipe) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (sender, Pipe { receiver, current: Bytes::new(), started: false, rest: Rest::Coming })
}

/// The reading end, for a thread that may block.
pub(super) struct Pipe {
    receiver: mpsc::Receiver<Piece>,
    current: Bytes,
    started: bool,
    rest: Rest,
}

/// What is to be read after the current piece.
enum Rest {
    Coming,
    Behind(Behind),
    Nothing,
}

impl Pipe {
    /// Nothing where the rest does not come through the pipe.
    fn next(&mut self) -> io::Result<Bytes> {
        match self.receiver.blocking_recv() {
            Some(Piece::Bytes(bytes)) => return Ok(bytes),
            Some(Piece::Behind(behind)) => self.rest = Rest::Behind(behind),
            Some(Piece::End) => self.rest = Rest::Nothing,
            None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download broke off")),
        }
        Ok(Bytes::new())
    }

    fn start(&mut self) -> io::Result<()> {
        self.started = true;
        while (self.current.len() as u64) < MAGIC_BYTES && self.is_coming() {
            let next = self.next()?;
            self.current = [&self.current[..], &next[..]].concat().into();
        }
        Ok(())
    }

    fn is_coming(&self) -> bool {
        matches!(self.rest, Rest::Coming)
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
        while self.current.is_empty() && self.is_coming() {
            self.current = self.next()?;
        }
        match &mut self.rest {
            Rest::Behind(behind) if self.current.is_empty() => behind.fill_buf(),
            _ => Ok(&self.current),
        }
    }

    fn consume(&mut self, n: usize) {
        match &mut self.rest {
            Rest::Behind(behind) if self.current.is_empty() => behind.consume(n),
            _ => self.current.advance(n),
        }
    }
}

/// How a download ended.
pub(super) enum Downloaded {
    Done,
    /// The thread gave up, and says why.
    Unwanted,
    Failed(registry::Error),
}

/// A blob on its way into the pipe.
pub(super) struct Download<'a> {
    pub(super) blob: Blob,
    sender: mpsc::Sender<Piece>,
    size: u64,
    watch: LayerWatch<'a>,
    pub(super) began: Instant,
    /// How long the registry was waited for.
    pub(super) waited: Duration,
}

impl<'a> Download<'a> {
    pub(super) async fn open(
        repository: &Repository,
        descriptor: &Descriptor,
        sender: mpsc::Sender<Piece>,
        watch: LayerWatch<'a>,
    ) -> Result<Download<'a>, registry::Error> {
        let blob = repository.blob(descriptor, 0).await?;
        let (size, began) = (descriptor.size, Instant::now());
        Ok(Download { blob, sender, size, watch, began, waited: Duration::ZERO })
    }

    /// Whether what is still to come may go another way: the reader can begin there, or has seen enough to go on there.
    pub(super) fn may_turn(&self) -> bool {
        let position = self.blob.position();
        position == 0 || (position >= MAGIC_BYTES && position < self.size)
    }

    /// Moves one piece, should one come in time; how the download ended, once it has.
    pub(super) async fn step(&mut self, until: Option<Instant>) -> Option<Downloaded> {
        let asked = Instant::now();
        let next = match until {
            Some(until) => timeout_at(until, self.blob.next()).await.ok(),
            None => Some(self.blob.next().await),
        };
        self.waited += asked.elapsed();
        let (piece, end) = match next? {
            Ok(Some(bytes)) => {
                self.watch.came(bytes.len());
                (Piece::Bytes(bytes), None)
            }
            Ok(None) => (Piece::End, Some(Downloaded::Done)),
            Err(error) => return Some(Downloaded::Failed(error)),
        };
        match send(&self.sender, piece).await {
            Some(()) => end,
            None => Some(Downloaded::Unwanted),
        }
    }
}

/// All of a blob into the pipe.
pub(super) async fn download(
    repository: &Repository,
    descriptor: &Descriptor,
    sender: mpsc::Sender<Piece>,
    watch: LayerWatch<'_>,
) -> Downloaded {
    let mut download = match Download::open(repository, descriptor, sender, watch).await {
        Ok(download) => download,
        Err(error) => return Downloaded::Failed(error),
    };
    loop {
        if let Some(end) = download.step(None).await {
            return end;
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
