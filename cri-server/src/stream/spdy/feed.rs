//! What a client sends on one stream, on its way to the session.
//!
//! ```text
//!   reader ──► queue, bounded by bytes ──► task ──► pipe ──► session
//! ```
//! A stream whose session takes nothing fills its own queue first, while the reader goes on with the others. When it is
//! full the reader waits, so that TCP slows the client down: spdystream, which kubectl and the kubelet use, counts no
//! windows. Where one stream must not hold the rest for ever, the wait has an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc};
use tokio::task::AbortHandle;

use crate::stream::wire::Inlet;

/// A piece of data that room is asked for; less than any queue has.
const PIECE: usize = 16 << 10;

/// How much of a stream may wait, and how long for a session that takes nothing.
#[derive(Debug, Clone, Copy)]
pub(in crate::stream) struct Feeding {
    pub(in crate::stream) bytes: usize,
    /// None: for ever, as a program may leave its input alone for as long as it likes.
    pub(in crate::stream) patience: Option<Duration>,
}

/// The session did not take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Untaken {
    /// It wants no more.
    Gone,
    /// Nothing was taken for as long as we wait, and no room is left.
    Stuck,
}

/// The queue of one stream. Dropped, it lets the session have what is in it, and then the end.
#[derive(Debug)]
pub(super) struct Feed {
    pieces: mpsc::UnboundedSender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    taken: Arc<Taken>,
    patience: Option<Duration>,
    task: AbortHandle,
}

/// When the session last took something.
#[derive(Debug)]
struct Taken {
    begun: Instant,
    last_ms: AtomicU64,
}

impl Taken {
    fn note(&self) {
        self.last_ms.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn ago(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }
}

impl Feed {
    /// `told` hears how many bytes the session's pipe took.
    pub(super) fn new(feeding: Feeding, mut inlet: Inlet, told: impl Fn(usize) + Send + 'static) -> Feed {
        let (pieces, mut queue) = mpsc::unbounded_channel::<(Bytes, OwnedSemaphorePermit)>();
        let room = Arc::new(Semaphore::new(feeding.bytes.max(PIECE)));
        let taken = Arc::new(Taken { begun: Instant::now(), last_ms: AtomicU64::new(0) });
        let (rooms, taking) = (room.clone(), taken.clone());
        let task = tokio::spawn(async move {
            while let Some((mut piece, _room)) = queue.recv().await {
                while !piece.is_empty() {
                    let Ok(count @ 1..) = inlet.write(&piece).await else { return rooms.close() };
                    taking.note();
                    told(count);
                    drop(piece.split_to(count));
                }
            }
        });
        Feed { pieces, room, taken, patience: feeding.patience, task: task.abort_handle() }
    }

    /// Waits for room.
    pub(super) async fn put(&self, mut bytes: Bytes) -> Result<(), Untaken> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let room = self.room_for(piece.len() as u32).await?;
            self.pieces.send((piece, room)).map_err(|_| Untaken::Gone)?;
        }
        Ok(())
    }

    async fn room_for(&self, bytes: u32) -> Result<OwnedSemaphorePermit, Untaken> {
        match self.room.clone().try_acquire_many_owned(bytes) {
            Ok(room) => return Ok(room),
            Err(TryAcquireError::Closed) => return Err(Untaken::Gone),
            Err(TryAcquireError::NoPermits) => {}
        }
        loop {
            let asked = self.room.clone().acquire_many_owned(bytes);
            let Some(patience) = self.patience else { return asked.await.map_err(|_| Untaken::Gone) };
            // One that takes little, and takes it, is not stuck.
            let left = patience.checked_sub(self.taken.ago()).ok_or(Untaken::Stuck)?;
            if let Ok(room) = tokio::time::timeout(left, asked).await {
                return room.map_err(|_| Untaken::Gone);
            }
        }
    }

    /// What is in the queue goes nowhere.
    pub(super) fn discard(self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::io::AsyncReadExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    fn feed(patience: Option<Duration>) -> (Feed, Inlet, Arc<AtomicUsize>) {
        let (session, ours) = tokio::io::duplex(1 << 10);
        let told = Arc::new(AtomicUsize::new(0));
        let counting = told.clone();
        let count = move |bytes| {
            counting.fetch_add(bytes, Ordering::Relaxed);
        };
        (Feed::new(Feeding { bytes: 2 * PIECE, patience }, ours, count), session, told)
    }

    #[tokio::test]
    async fn a_session_that_takes_nothing_is_waited_for_and_then_given_up() {
        let (feed, session, _) = feed(Some(PATIENCE));
        // Two pieces wait, and of them as much as the pipe holds is on its way: room comes only with a whole piece.
        assert_eq!(feed.put(Bytes::from(vec![0; 2 * PIECE])).await, Ok(()));
        let begun = Instant::now();
        assert_eq!(feed.put(Bytes::from_static(b"more")).await, Err(Untaken::Stuck));
        assert!(begun.elapsed() >= PATIENCE / 2, "{:?}", begun.elapsed());
        drop(session);
    }

    #[tokio::test]
    async fn a_slow_session_gets_everything_and_then_the_end() {
        let (feed, mut session, told) = feed(Some(PATIENCE));
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            let mut chunk = [0; 1 << 10];
            // 64 reads, each of them well within the patience, together long past it.
            while let Ok(count @ 1..) = session.read(&mut chunk).await {
                all.extend_from_slice(&chunk[..count]);
                tokio::time::sleep(PATIENCE / 20).await;
            }
            all
        });
        let sent: Vec<u8> = (0..64 << 10).map(|at| (at / 7) as u8).collect();
        assert_eq!(feed.put(Bytes::from(sent.clone())).await, Ok(()));
        drop(feed);
        assert!(reading.await.unwrap() == sent);
        assert_eq!(told.load(Ordering::Relaxed), sent.len());
    }

    #[tokio::test]
    async fn a_program_may_leave_its_input_alone_for_ever() {
        let (feed, mut session, _) = feed(None);
        assert_eq!(feed.put(Bytes::from(vec![0; 2 * PIECE])).await, Ok(()));
        let waiting = tokio::time::timeout(PATIENCE * 3, feed.put(Bytes::from_static(b"more")));
        assert!(waiting.await.is_err(), "it waits");
        let mut all = vec![0; PIECE + 1];
        session.read_exact(&mut all).await.unwrap();
        assert_eq!(feed.put(Bytes::from_static(b"more")).await, Ok(()));
        drop(session);
        tokio::time::sleep(PATIENCE).await;
        assert_eq!(feed.put(Bytes::from_static(b"more")).await, Err(Untaken::Gone));
    }
}
