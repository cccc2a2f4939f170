//! What SPDY and WebSocket connections have in common: channels to write on, bounded queues, and an end.
//!
//! ```text
//!   client ══► reader task ──► inlets (one bounded pipe per channel) ──► session
//!   client ◄══ writer task ◄── one bounded queue ◄── outlets ◄────────── session
//! ```
//! The reader waits for a session that does not take its input, so that TCP slows the client down; of many streams of a
//! SPDY connection that one waits in a queue of its own first (`spdy/feed.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::spdy::Frame;

/// Data is sent in pieces no larger than this.
pub(super) const CHUNK: usize = 32 << 10;
/// Pieces that may wait for the socket; with `CHUNK`, what a connection may cost while its client is slow.
const QUEUE: usize = 8;
/// Input that may wait for its session, per channel.
pub(super) const INLET: usize = 64 << 10;
/// How long a client may take to read what is left, and then to hang up.
const FLUSH: Duration = Duration::from_secs(10);
const LINGER: Duration = Duration::from_secs(2);

/// What the writer task is given.
#[derive(Debug)]
pub(super) enum Outgoing {
    Data {
        channel: u32,
        bytes: Bytes,
        last: bool,
    },
    /// SPDY only.
    Frame(Frame),
    /// Say goodbye and write no more.
    Finish,
}

/// The client is gone, or wants no more of this channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// The input of one channel.
pub(super) type Inlet = DuplexStream;

/// The output of one channel.
#[derive(Debug, Clone)]
pub(super) struct Outlet {
    channel: u32,
    queue: mpsc::Sender<Outgoing>,
    windows: Vec<Arc<Window>>,
    thrown: Thrown,
}

/// Whether a channel was thrown away, and by whom.
#[derive(Debug, Clone, Default)]
pub(super) struct Thrown {
    pub(super) by_client: CancellationToken,
    pub(super) by_us: CancellationToken,
}

impl Thrown {
    async fn wait(&self) {
        tokio::select! {
            () = self.by_client.cancelled() => {}
            () = self.by_us.cancelled() => {}
        }
    }
}

impl Outlet {
    pub(super) fn new(channel: u32, queue: mpsc::Sender<Outgoing>) -> Outlet {
        Outlet { channel, queue, windows: Vec::new(), thrown: Thrown::default() }
    }

    pub(super) fn with_flow(self, windows: Vec<Arc<Window>>, thrown: Thrown) -> Outlet {
        Outlet { windows, thrown, ..self }
    }

    /// Sends in pieces, waiting for the client as long as it takes.
    pub(super) async fn send(&self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let size = tokio::select! {
                size = self.credit(bytes.len().min(CHUNK)) => size,
                () = self.thrown.wait() => return Err(Gone),
            };
            self.put(bytes.split_to(size), false).await?;
        }
        Ok(())
    }

    /// An empty message: the channel is open.
    pub(super) async fn greet(&self) -> Result<(), Gone> {
        self.put(Bytes::new(), false).await
    }

    /// Nothing more will come on this channel.
    pub(super) async fn close(&self) {
        // A client that is gone needs no goodbye.
        let _ = self.put(Bytes::new(), true).await;
    }

    /// Resolves when this channel is thrown away.
    pub(super) async fn thrown_away(&self) {
        self.thrown.wait().await;
    }

    /// Whether it was not the client who did so.
    pub(super) fn is_given_up(&self) -> bool {
        self.thrown.by_us.is_cancelled()
    }

    /// SPDY: throws the stream away.
    pub(super) async fn refuse(&self, status: u32) {
        let _ = self.queue.send(Outgoing::Frame(Frame::Reset { id: self.channel, status })).await;
    }

    async fn put(&self, bytes: Bytes, last: bool) -> Result<(), Gone> {
        self.queue.send(Outgoing::Data { channel: self.channel, bytes, last }).await.map_err(|_| Gone)
    }

    /// How much of `want` may be sent now: the least that all windows allow.
    async fn credit(&self, want: usize) -> usize {
        let mut size = want;
        for (index, window) in self.windows.iter().enumerate() {
            let allowed = window.take(size).await;
            for before in &self.windows[..index] {
                before.grant((size - allowed) as i64);
            }
            size = allowed;
        }
        size
    }
}

/// How much the peer is ready to take (SPDY/3.1 section 2.6.8). It is counted always, and obeyed once the
/// peer has shown that it counts too: spdystream, which the kubelet uses, never sends a window update, and
/// with it an obedient sender would stop after 64 KiB for ever.
#[derive(Debug)]
pub(super) struct Window {
    credit: watch::Sender<i64>,
    obeyed: Arc<AtomicBool>,
}

impl Window {
    pub(super) fn new(initial: i64, obeyed: Arc<AtomicBool>) -> Window {
        Window { credit: watch::Sender::new(initial), obeyed }
    }

    pub(super) fn grant(&self, delta: i64) {
        self.credit.send_modify(|credit| *credit = credit.saturating_add(delta).min(i64::from(i32::MAX)));
    }

    async fn take(&self, want: usize) -> usize {
        let mut changes = self.credit.subscribe();
        loop {
            let mut taken = 0;
            self.credit.send_if_modified(|credit| {
                let obeyed = self.obeyed.load(Ordering::Relaxed);
                let allowed = usize::try_from(*credit).unwrap_or(0);
                taken = if obeyed { want.min(allowed) } else { want };
                *credit -= taken as i64;
                false
            });
            if taken > 0 {
                return taken;
            }
            // The sender is `self`, so this waits for a grant and nothing else.
            let _ = changes.changed().await;
        }
    }
}

/// A connection as its session holds it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) queue: mpsc::Sender<Outgoing>,
    /// Cancelled once the client is gone.
    pub(super) gone: CancellationToken,
    reader: AbortOnDropHandle<()>,
    writer: AbortOnDropHandle<()>,
}

impl Link {
    pub(super) fn queue() -> (mpsc::Sender<Outgoing>, mpsc::Receiver<Outgoing>) {
        mpsc::channel(QUEUE)
    }

    pub(super) fn new(
        queue: mpsc::Sender<Outgoing>,
        gone: CancellationToken,
        reader: JoinHandle<()>,
        writer: JoinHandle<()>,
    ) -> Link {
        let (reader, writer) = (AbortOnDropHandle::new(reader), AbortOnDropHandle::new(writer));
        Link { queue, gone, reader, writer }
    }

    /// Writes out what is queued, says goodbye, and waits for the client to hang up: closing a socket with
    /// unread input would reset the connection, and the client could lose the last bytes.
    pub(super) async fn finish(self) {
        let flush = async {
            let _ = self.queue.send(Outgoing::Finish).await;
            let _ = self.writer.await;
        };
        if tokio::time::timeout(FLUSH, flush).await.is_ok() {
            let _ = tokio::time::timeout(LINGER, self.reader).await;
        }
    }
}

/// When something last moved on a connection.
#[derive(Debug, Clone)]
pub(super) struct Activity {
    begun: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Activity {
    pub(super) fn new() -> Activity {
        Activity { begun: Instant::now(), last_ms: Arc::default() }
    }

    pub(super) fn touch(&self) {
        self.last_ms.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Waits until nothing has moved for `limit`.
    pub(super) async fn cease(&self, limit: Duration) {
        loop {
            let idle = self
                .begun
                .elapsed()
                .saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)));
            match limit.checked_sub(idle) {
                None | Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left).await,
            }
        }
    }
}
