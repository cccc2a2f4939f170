//! The server's side of a SPDY/3.1 connection: streams that a client opens, over any pair of byte streams.
//!
//! The kubelet, crictl and critest speak it (through spdystream) for exec, attach and port-forward. Only
//! what they need is here: clients open streams, we answer on them.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::wire::{Activity, INLET, Inlet, Link, Outgoing, Outlet, Thrown, Window};

mod dictionary;
mod feed;
mod frame;

pub(super) use feed::Feeding;
use feed::{Feed, Untaken};

pub(super) use frame::{Decoder, Encoder, Frame, Headers, Violation};

/// Streams open at once on one connection. Port-forward uses two for each TCP connection.
const STREAMS_MAX: usize = 512;
/// SPDY/3.1: both the connection and a stream begin with this much credit.
const INITIAL_WINDOW: i64 = 64 << 10;
/// Credit is given back in pieces of this.
const GIVE_BACK: u32 = 32 << 10;
const READ_BYTES: usize = 16 << 10;

const STATUS_PROTOCOL_ERROR: u32 = 1;
pub(super) const STATUS_REFUSED_STREAM: u32 = 3;
/// The peer sent more than anybody took.
const STATUS_FLOW_CONTROL_ERROR: u32 = 7;

/// A connection, and the streams that its client opens.
pub(super) struct Spdy {
    pub(super) incoming: mpsc::Receiver<Incoming>,
    pub(super) link: Link,
}

/// A stream that the client opened.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) id: u32,
    pub(super) headers: Headers,
    pub(super) inlet: Inlet,
    pub(super) outlet: Outlet,
}

/// What reader and writer both know of a stream. It goes when both sides have ended.
#[derive(Debug)]
struct Half {
    client_open: bool,
    our_side_open: bool,
    window: Arc<Window>,
    /// Credit not given back yet.
    owed: u32,
    thrown: Thrown,
}

type Streams = Arc<Mutex<HashMap<u32, Half>>>;

/// Serves a connection; its tasks end with the `Link`.
pub(super) fn serve(
    io: impl AsyncRead + AsyncWrite + Send + 'static,
    idle: Duration,
    feeding: Feeding,
) -> Spdy {
    let (read, write) = tokio::io::split(io);
    let (queue, outgoing) = Link::queue();
    let (announce, incoming) = mpsc::channel(STREAMS_MAX);
    let (gone, activity, streams) = (CancellationToken::new(), Activity::new(), Streams::default());
    let obeyed = Arc::new(AtomicBool::new(false));
    let reader = Reader {
        streams: streams.clone(),
        feeding,
        feeds: HashMap::new(),
        queue: queue.clone(),
        announce,
        connection: Arc::new(Window::new(INITIAL_WINDOW, obeyed.clone())),
        obeyed,
        initial_window: INITIAL_WINDOW,
        last_id: 0,
        owed: 0,
    };
    let reader =
        tokio::spawn(until_idle(reader.run(read, activity.clone()), gone.clone(), activity.clone(), idle));
    let writer = tokio::spawn(write_out(write, outgoing, streams, gone.clone(), activity));
    Spdy { incoming, link: Link::new(queue, gone, reader, writer) }
}

async fn until_idle(
    run: impl Future<Output = ()>,
    gone: CancellationToken,
    activity: Activity,
    idle: Duration,
) {
    let _gone = gone.drop_guard();
    tokio::select! {
        () = run => {}
        () = activity.cease(idle) => {}
    }
}

struct Reader {
    streams: Streams,
    feeding: Feeding,
    feeds: HashMap<u32, Feed>,
    queue: mpsc::Sender<Outgoing>,
    announce: mpsc::Sender<Incoming>,
    connection: Arc<Window>,
    obeyed: Arc<AtomicBool>,
    initial_window: i64,
    last_id: u32,
    /// Credit of the whole connection that was not given back yet.
    owed: u32,
}

/// Why the reader stops.
enum Stop {
    Violation(Violation),
    /// The client said goodbye, or our writer is gone.
    Over,
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Stop {
        Stop::Violation(violation)
    }
}

impl Reader {
    async fn run(mut self, mut read: impl AsyncRead + Unpin, activity: Activity) {
        let mut decoder = Decoder::new();
        loop {
            decoder.buffer.reserve(READ_BYTES);
            match read.read_buf(&mut decoder.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => activity.touch(),
            }
            match self.take_all(&mut decoder).await {
                Ok(()) => {}
                Err(Stop::Over) => return,
                Err(Stop::Violation(violation)) => {
                    tracing::warn!(%violation, "a streaming client broke SPDY/3.1; its connection is closed");
                    return;
                }
            }
        }
    }

    async fn take_all(&mut self, decoder: &mut Decoder) -> Result<(), Stop> {
        while let Some(frame) = decoder.next()? {
            self.take(frame).await?;
        }
        Ok(())
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Stop> {
        match frame {
            Frame::SynStream { id, headers, last } => self.open(id, headers, last).await,
            Frame::Data { id, bytes, last } => {
                self.data(id, bytes).await?;
                if last {
                    self.client_closed(id);
                }
                Ok(())
            }
            Frame::Headers { id, last: true, .. } => {
                self.client_closed(id);
                Ok(())
            }
            Frame::Reset { id, .. } => {
                self.reset(id);
                Ok(())
            }
            Frame::Settings { initial_window } => {
                self.settings(initial_window);
                Ok(())
            }
            Frame::WindowUpdate { id, delta } => {
                self.granted(id, delta);
                Ok(())
            }
            // Ours would have even numbers, but we send none.
            Frame::Ping { id } => self.answer(Frame::Ping { id }).await,
            Frame::GoAway { .. } => Err(Stop::Over),
            // Answers to streams that we never open, and further headers that nobody asked for.
            Frame::SynReply { .. } | Frame::Headers { .. } => Ok(()),
        }
    }

    async fn open(&mut self, id: u32, headers: Headers, last: bool) -> Result<(), Stop> {
        // Section 2.3.2: a client's ids are odd and grow.
        if id.is_multiple_of(2) || id <= self.last_id {
            return self.answer(Frame::Reset { id, status: STATUS_PROTOCOL_ERROR }).await;
        }
        self.last_id = id;
        if self.lock().len() >= STREAMS_MAX {
            return self.answer(Frame::Reset { id, status: STATUS_REFUSED_STREAM }).await;
        }
        let window = Arc::new(Window::new(self.initial_window, self.obeyed.clone()));
        let thrown = Thrown::default();
        let half = Half {
            client_open: !last,
            our_side_open: true,
            window: window.clone(),
            owed: 0,
            thrown: thrown.clone(),
        };
        self.lock().insert(id, half);
        let (inlet, ours) = tokio::io::duplex(INLET);
        if !last {
            self.feeds.insert(id, self.feed(id, ours));
        }
        let windows = vec![window, self.connection.clone()];
        let outlet = Outlet::new(id, self.queue.clone()).with_flow(windows, thrown);
        self.answer(Frame::SynReply { id, headers: Headers::default(), last: false }).await?;
        if self.announce.try_send(Incoming { id, headers, inlet, outlet }).is_err() {
            // The session has all the streams that it has a use for.
            self.feeds.remove(&id);
            return self.answer(Frame::Reset { id, status: STATUS_REFUSED_STREAM }).await;
        }
        Ok(())
    }

    async fn answer(&self, frame: Frame) -> Result<(), Stop> {
        self.queue.send(Outgoing::Frame(frame)).await.map_err(|_| Stop::Over)
    }

    /// A stream's credit comes back when its session has taken the bytes, the connection's when they are here: one stream
    /// must not use up what all of them have.
    fn feed(&self, id: u32, inlet: Inlet) -> Feed {
        let (streams, queue) = (self.streams.clone(), self.queue.clone());
        Feed::new(self.feeding, inlet, move |bytes| {
            let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(half) = streams.get_mut(&id) {
                give_back(&queue, id, &mut half.owed, bytes as u32);
            }
        })
    }

    async fn data(&mut self, id: u32, bytes: Bytes) -> Result<(), Stop> {
        give_back(&self.queue, 0, &mut self.owed, bytes.len() as u32);
        let Some(feed) = self.feeds.get(&id) else {
            // The session wants no more of it. Nothing is owed on streams that are not there, or a client could have as
            // much noted as it has numbers.
            if let Some(half) = self.lock().get_mut(&id) {
                give_back(&self.queue, id, &mut half.owed, bytes.len() as u32);
            }
            return Ok(());
        };
        match feed.put(bytes).await {
            Ok(()) => Ok(()),
            Err(Untaken::Gone) => {
                self.feeds.remove(&id);
                Ok(())
            }
            Err(Untaken::Stuck) => {
                tracing::warn!(
                    stream = id,
                    "nobody takes what a client sends on a stream; it is reset, since it holds all others"
                );
                self.end(id, |thrown| &thrown.by_us);
                self.answer(Frame::Reset { id, status: STATUS_FLOW_CONTROL_ERROR }).await
            }
        }
    }

    fn client_closed(&mut self, id: u32) {
        self.feeds.remove(&id);
        let mut streams = self.lock();
        if let Some(half) = streams.get_mut(&id) {
            half.client_open = false;
            if !half.our_side_open {
                streams.remove(&id);
            }
        }
    }

    fn reset(&mut self, id: u32) {
        self.end(id, |thrown| &thrown.by_client);
    }

    fn end(&mut self, id: u32, whose: impl Fn(&Thrown) -> &CancellationToken) {
        if let Some(feed) = self.feeds.remove(&id) {
            feed.discard();
        }
        if let Some(half) = self.lock().remove(&id) {
            whose(&half.thrown).cancel();
        }
    }

    fn settings(&mut self, initial_window: Option<u32>) {
        let Some(window) = initial_window.map(i64::from) else { return };
        self.obeyed.store(true, Ordering::Relaxed);
        for half in self.lock().values() {
            half.window.grant(window - self.initial_window);
        }
        self.initial_window = window;
    }

    fn granted(&self, id: u32, delta: u32) {
        self.obeyed.store(true, Ordering::Relaxed);
        if id == 0 {
            self.connection.grant(delta.into());
        } else if let Some(half) = self.lock().get(&id) {
            half.window.grant(delta.into());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Half>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Never waits for the writer: reader and writer must not wait for each other through a client that does the same. What
/// has no room now is given back with the next.
fn give_back(queue: &mpsc::Sender<Outgoing>, id: u32, owed: &mut u32, bytes: u32) {
    *owed = owed.saturating_add(bytes);
    if *owed >= GIVE_BACK {
        let update = Frame::WindowUpdate { id, delta: (*owed).min(i32::MAX as u32) };
        if queue.try_send(Outgoing::Frame(update)).is_ok() {
            *owed = 0;
        }
    }
}

async fn write_out(
    mut write: impl AsyncWrite + Unpin,
    mut outgoing: mpsc::Receiver<Outgoing>,
    streams: Streams,
    gone: CancellationToken,
    activity: Activity,
) {
    let _gone = gone.drop_guard_ref();
    let mut encoder = Encoder::new();
    let mut bytes = BytesMut::new();
    while let Some(first) = outgoing.recv().await {
        let mut finish = encode(first, &mut encoder, &streams, &mut bytes);
        // Small frames that wait go out together.
        while !finish
            && bytes.len() < READ_BYTES
            && let Ok(next) = outgoing.try_recv()
        {
            finish = encode(next, &mut encoder, &streams, &mut bytes);
        }
        if flush(&mut write, &mut bytes).await.is_err() {
            return;
        }
        activity.touch();
        if finish {
            let _ = write.shutdown().await;
            return;
        }
    }
}

async fn flush(write: &mut (impl AsyncWrite + Unpin), bytes: &mut BytesMut) -> io::Result<()> {
    write.write_all_buf(bytes).await?;
    write.flush().await
}

/// True when this was the last.
fn encode(outgoing: Outgoing, encoder: &mut Encoder, streams: &Streams, bytes: &mut BytesMut) -> bool {
    let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
    match outgoing {
        Outgoing::Data { channel: id, bytes: data, last } => {
            // A stream that was reset or closed takes no more data.
            let Some(half) = streams.get_mut(&id).filter(|half| half.our_side_open) else { return false };
            half.our_side_open = !last;
            if last && !half.client_open {
                streams.remove(&id);
            }
            encoder.encode(&Frame::Data { id, bytes: data, last }, bytes);
            false
        }
        Outgoing::Frame(frame) => {
            if let Frame::Reset { id, .. } = frame {
                streams.remove(&id);
            }
            encoder.encode(&frame, bytes);
            false
        }
        Outgoing::Finish => {
            encoder.encode(&Frame::GoAway { last_good_id: 0 }, bytes);
            true
        }
    }
}
