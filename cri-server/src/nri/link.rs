//! A connection with one plugin: our calls and its answers, its calls and our answers, over one socket.
//!
//! Whatever cannot be understood ends the connection, and nothing else: there is no way to find the next message in
//! a stream that has gone astray. The same goes for an answer that does not come in time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::mux::{self, Broken, Conversation};
use super::ttrpc::{self, Answer, Assembly, Head, Kind, Request, Status};

const SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
/// A plugin registers itself once and seldom asks for changes.
const CALLS_MAX: usize = 16;

/// Why a call came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The plugin's own words.
    #[error("{}", .0.message)]
    Refused(Status),
    #[error("the connection is closed")]
    Closed,
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the answer is not one")]
    Undecodable,
    #[error("the request of {bytes} bytes is longer than a plugin takes")]
    TooLong { bytes: usize },
}

impl CallError {
    /// Whether the plugin cannot be talked to any more.
    pub(super) fn is_fatal(&self) -> bool {
        match self {
            CallError::Refused(_) | CallError::TooLong { .. } => false,
            CallError::Closed | CallError::Silent(_) | CallError::Undecodable => true,
        }
    }

    pub(super) fn is_unimplemented(&self) -> bool {
        matches!(self, CallError::Refused(status) if status.code == ttrpc::code::UNIMPLEMENTED)
    }
}

/// What the plugin asks of us.
#[derive(Debug)]
pub(super) struct Call {
    stream: u32,
    pub(super) request: Request,
}

/// Cheap to clone; all are the same connection.
#[derive(Debug, Clone)]
pub(super) struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Answer>>>,
    next_stream: AtomicU32,
    closed: CancellationToken,
}

impl Link {
    /// Begins to hear. What the plugin asks comes by the receiver.
    pub(super) fn new(socket: UnixStream) -> (Self, mpsc::Receiver<Call>) {
        let (reader, writer) = socket.into_split();
        let shared = Arc::new(Shared {
            writer: tokio::sync::Mutex::new(writer),
            waiting: Mutex::default(),
            next_stream: AtomicU32::new(1),
            closed: CancellationToken::new(),
        });
        let (calls, receiver) = mpsc::channel(CALLS_MAX);
        tokio::spawn(hear(shared.clone(), reader, calls));
        (Self { shared }, receiver)
    }

    /// Calls a method of the plugin.
    ///
    /// # Errors
    /// What the plugin says against it, or that it does not answer, in which case the connection is closed.
    pub(super) async fn call<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        request: &Q,
        patience: Duration,
    ) -> Result<A, CallError> {
        let bytes = request.encoded_len();
        // A little less than the bound, for the envelope.
        if bytes > ttrpc::MESSAGE_MAX - 1024 {
            return Err(CallError::TooLong { bytes });
        }
        let asked = tokio::time::timeout(patience, self.ask(method, request, patience)).await;
        let answered = asked
            .unwrap_or(Err(CallError::Silent(patience)))
            .and_then(|payload| A::decode(payload.as_slice()).map_err(|_| CallError::Undecodable));
        if answered.as_ref().is_err_and(CallError::is_fatal) {
            self.close();
        }
        answered
    }

    async fn ask<Q: Message>(
        &self,
        method: &str,
        request: &Q,
        patience: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let request = Request {
            service: SERVICE.into(),
            method: method.into(),
            payload: request.encode_to_vec(),
            timeout_nano: i64::try_from(patience.as_nanos()).unwrap_or(i64::MAX),
        };
        let stream = self.shared.next_stream.fetch_add(2, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.shared.waiting().insert(stream, sender);
        let message = ttrpc::encode(stream, Kind::Request, &request);
        tokio::select! {
            sent = self.shared.send(Conversation::Plugin, &message) => sent?,
            () = self.shared.closed.cancelled() => return Err(CallError::Closed),
        }
        tokio::select! {
            answer = answer => answer.map_err(|_| CallError::Closed)?.outcome().map_err(CallError::Refused),
            () = self.shared.closed.cancelled() => Err(CallError::Closed),
        }
    }

    /// Answers what the plugin asked.
    pub(super) async fn answer(&self, call: &Call, outcome: Result<Vec<u8>, Status>, patience: Duration) {
        let message = ttrpc::encode(call.stream, Kind::Answer, &Answer::of(outcome));
        let sent = tokio::time::timeout(patience, self.shared.send(Conversation::Runtime, &message)).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.close();
        }
    }

    pub(super) fn close(&self) {
        self.shared.closed.cancel();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    pub(super) async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }
}

impl Shared {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u32, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, conversation: Conversation, message: &[u8]) -> Result<(), CallError> {
        let mut writer = self.writer.lock().await;
        writer.write_all(&mux::frames(conversation, message)).await.map_err(|_| CallError::Closed)
    }

    fn take(&self, head: Head, message: &[u8]) -> Result<(), Broken> {
        if head.kind != Kind::Answer {
            return Err(Broken::Kind { kind: 1 });
        }
        let waiting = self.waiting().remove(&head.stream).ok_or(Broken::Unasked)?;
        let answer = Answer::decode(message).map_err(|_| Broken::Undecodable)?;
        // Who asked may have given up.
        let _ = waiting.send(answer);
        Ok(())
    }
}

/// Hears until the connection ends, one way or the other.
async fn hear(shared: Arc<Shared>, reader: OwnedReadHalf, calls: mpsc::Sender<Call>) {
    tokio::select! {
        () = shared.closed.cancelled() => {}
        ended = hear_all(&shared, reader, &calls) => {
            if let Err(broken) = ended {
                tracing::warn!("an NRI plugin is cut off: it sent {broken}");
            }
        }
    }
    shared.closed.cancel();
    shared.waiting().clear();
    let _ = tokio::time::timeout(Duration::from_millis(100), async {
        shared.writer.lock().await.shutdown().await
    })
    .await;
}

async fn hear_all(
    shared: &Shared,
    mut reader: OwnedReadHalf,
    calls: &mpsc::Sender<Call>,
) -> Result<(), Broken> {
    let (mut answers, mut requests) = (Assembly::default(), Assembly::default());
    let mut frame = Vec::new();
    loop {
        let mut head = [0; mux::HEADER];
        if reader.read_exact(&mut head).await.is_err() {
            return Ok(());
        }
        let (conversation, bytes) = mux::header(head)?;
        frame.clear();
        // Grown by what comes, not by what is announced.
        if (&mut reader).take(bytes as u64).read_to_end(&mut frame).await.is_err() || frame.len() < bytes {
            return Ok(());
        }
        match conversation {
            Conversation::Plugin => {
                answers.add(&frame);
                while let Some((head, message)) = answers.next()? {
                    shared.take(head, &message)?;
                }
            }
            Conversation::Runtime => {
                requests.add(&frame);
                while let Some((head, message)) = requests.next()? {
                    calls.try_send(call(head, &message)?).map_err(|_| Broken::Calls(CALLS_MAX))?;
                }
            }
        }
        frame.shrink_to(64 << 10);
    }
}

fn call(head: Head, message: &[u8]) -> Result<Call, Broken> {
    match head.kind {
        Kind::Request => {
            let request = Request::decode(message).map_err(|_| Broken::Undecodable)?;
            Ok(Call { stream: head.stream, request })
        }
        Kind::Answer => Err(Broken::Kind { kind: 2 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::nri;

    const PATIENCE: Duration = Duration::from_millis(200);

    /// What the link does when the plugin sends `bytes` at once and then keeps quiet.
    async fn ends_after(bytes: &[u8]) -> bool {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (link, _calls) = Link::new(ours);
        theirs.write_all(bytes).await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), link.closed()).await.is_ok()
    }

    fn framed(conversation: Conversation, stream: u32, kind: Kind) -> Vec<u8> {
        mux::frames(conversation, &ttrpc::encode(stream, kind, &nri::Empty {}))
    }

    #[tokio::test]
    async fn a_stream_that_goes_astray_ends_the_connection() {
        assert!(ends_after(&[0, 0, 0, 9, 0, 0, 0, 1, 1]).await, "an unknown conversation");
        assert!(ends_after(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]).await, "a giant frame");
        assert!(
            ends_after(&[0, 0, 0, 2, 0, 0, 0, 10, 0xff, 0, 0, 0, 0, 0, 0, 1, 1, 0]).await,
            "a giant message"
        );
        assert!(ends_after(&framed(Conversation::Plugin, 1, Kind::Answer)).await, "an answer to nothing");
        assert!(ends_after(&framed(Conversation::Plugin, 1, Kind::Request)).await, "a call in our place");
        assert!(ends_after(&framed(Conversation::Runtime, 1, Kind::Answer)).await, "an answer in its place");
        let mut many = Vec::new();
        for _ in 0..=CALLS_MAX {
            many.extend(framed(Conversation::Runtime, 1, Kind::Request));
        }
        assert!(ends_after(&many).await, "too many calls at once");
        let mut garbage = ttrpc::encode(1, Kind::Request, &nri::Empty {});
        garbage[3] = 4;
        garbage.extend([0xff; 4]);
        assert!(ends_after(&mux::frames(Conversation::Runtime, &garbage)).await, "bytes that are no message");
    }

    #[tokio::test]
    async fn a_plugin_that_keeps_silent_is_cut_off_in_time() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (link, _calls) = Link::new(ours);
        let began = std::time::Instant::now();
        let answer: Result<nri::Empty, CallError> = link.call("Shutdown", &nri::Empty {}, PATIENCE).await;
        assert!(matches!(answer, Err(CallError::Silent(_))), "{answer:?}");
        assert!(began.elapsed() < 10 * PATIENCE && link.is_closed());
    }

    #[tokio::test]
    async fn a_plugin_that_does_not_read_is_cut_off_in_time() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (link, _calls) = Link::new(ours);
        let large = nri::ConfigureRequest { config: "x".repeat(3 << 20), ..Default::default() };
        let answer: Result<nri::Empty, CallError> = link.call("Configure", &large, PATIENCE).await;
        assert!(matches!(answer, Err(CallError::Silent(_))), "{answer:?}");
        let larger = nri::ConfigureRequest { config: "x".repeat(4 << 20), ..Default::default() };
        let answer: Result<nri::Empty, CallError> = link.call("Configure", &larger, PATIENCE).await;
        assert!(matches!(answer, Err(CallError::TooLong { .. })), "{answer:?}");
    }

    #[tokio::test]
    async fn both_sides_call_over_one_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (link, mut calls) = Link::new(ours);
        let (mut reader, mut writer) = theirs.into_split();
        let register = Request { method: "RegisterPlugin".into(), ..Default::default() };
        let message = ttrpc::encode(1, Kind::Request, &register);
        writer.write_all(&mux::frames(Conversation::Runtime, &message)).await.unwrap();
        let call = calls.recv().await.unwrap();
        assert_eq!(call.request, register);
        link.answer(&call, Ok(Vec::new()), PATIENCE).await;
        let asked = nri::ConfigureRequest { config: "y".repeat(9000), ..Default::default() };
        let (answer, ()) = tokio::join!(
            link.call::<_, nri::ConfigureResponse>("Configure", &asked, Duration::from_secs(5)),
            async {
                // Our answer to its call, and our own call in two frames.
                let mut bytes = vec![0; 8 + 10];
                reader.read_exact(&mut bytes).await.unwrap();
                let mut assembly = Assembly::default();
                let (head, message) = loop {
                    let mut head = [0; mux::HEADER];
                    reader.read_exact(&mut head).await.unwrap();
                    let (conversation, bytes) = mux::header(head).unwrap();
                    assert_eq!(conversation, Conversation::Plugin);
                    let mut frame = vec![0; bytes];
                    reader.read_exact(&mut frame).await.unwrap();
                    assembly.add(&frame);
                    if let Some(message) = assembly.next().unwrap() {
                        break message;
                    }
                };
                let request = Request::decode(message.as_slice()).unwrap();
                assert_eq!((request.service.as_str(), request.method.as_str()), (SERVICE, "Configure"));
                assert!(request.timeout_nano > 0);
                assert_eq!(nri::ConfigureRequest::decode(request.payload.as_slice()).unwrap(), asked);
                let payload = nri::ConfigureResponse { events: 5 }.encode_to_vec();
                let answer = ttrpc::encode(head.stream, Kind::Answer, &Answer::of(Ok(payload)));
                for part in mux::frames(Conversation::Plugin, &answer).chunks(3) {
                    writer.write_all(part).await.unwrap();
                }
            }
        );
        assert_eq!(answer.unwrap().events, 5);
    }
}
