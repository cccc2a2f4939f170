//! One connection's two directions, and who waits for what.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use conmon_protocol::{Answer, Event, Message, Refusal};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::keep::Keeping;
use super::link;

/// Events that a slow listener may fall behind; beyond that it asks with Hello for what it missed.
const EVENTS: usize = 256;

pub(super) type Answered = (Result<Answer, Refusal>, Vec<OwnedFd>);

#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// Who waits for what. Emptied when the connection ends, which tells them that the monitor is gone.
#[derive(Debug)]
pub(super) struct Pending {
    answers: Mutex<Waiting<u64, Answered>>,
    pub(super) events: broadcast::Sender<Event>,
}

/// `None` once the connection has ended.
type Waiting<K, V> = Option<HashMap<K, oneshot::Sender<V>>>;

impl Pending {
    pub(super) fn new() -> Self {
        let (events, _) = broadcast::channel(EVENTS);
        Self { answers: Mutex::new(Some(HashMap::new())), events }
    }

    pub(super) fn expect_answer(&self, seq: u64) -> oneshot::Receiver<Answered> {
        expect(&self.answers, seq)
    }

    fn hear(&self, message: Message, fds: Vec<OwnedFd>) {
        match message {
            Message::Answer { seq, answer } => {
                if let Some(waiting) = take(&self.answers, &seq) {
                    let _ = waiting.send((answer, fds));
                }
            }
            // Nobody listening is fine: what matters is asked for with Hello.
            Message::Event(event) => drop(self.events.send(event)),
            Message::Keep { .. } | Message::KeepExec(_) | Message::ExecBegins { .. } => {}
        }
    }

    fn end(&self) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn expect<K: std::hash::Hash + Eq, V>(waiting: &Mutex<Waiting<K, V>>, key: K) -> oneshot::Receiver<V> {
    let (sender, receiver) = oneshot::channel();
    if let Some(map) = waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        map.insert(key, sender);
    }
    receiver
}

fn take<K: std::hash::Hash + Eq, V>(waiting: &Mutex<Waiting<K, V>>, key: &K) -> Option<oneshot::Sender<V>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.remove(key)
}

/// Forgets a question whose asker went away before the answer came.
pub(super) struct Forget<'a> {
    pub(super) pending: &'a Pending,
    pub(super) seq: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        take(&self.pending.answers, &self.seq);
    }
}

/// Sends until all handles are gone or the socket is, and then ends the connection.
pub(super) async fn write(stream: Arc<UnixStream>, mut outgoing: mpsc::Receiver<Outgoing>) {
    while let Some(Outgoing { bytes, fds }) = outgoing.recv().await {
        if link::send(&stream, &bytes, &fds).await.is_err() {
            break;
        }
    }
    let _ = rustix::net::shutdown(&stream, rustix::net::Shutdown::Both);
}

/// Hears until the socket ends, and then tells all who wait.
pub(super) async fn read(
    stream: Arc<UnixStream>,
    pending: Arc<Pending>,
    keeping: Arc<Keeping>,
    closing: watch::Sender<bool>,
) {
    let mut receiver = link::Receiver::default();
    while let Ok(Some((frame, mut fds))) = receiver.next(&stream).await {
        match frame.parse::<Message>() {
            Ok(message) => {
                keeping.hear(&message, &mut fds);
                pending.hear(message, fds);
            }
            Err(error) => {
                tracing::warn!(%error, "a monitor spoke nonsense; leaving it");
                break;
            }
        }
    }
    let _ = rustix::net::shutdown(&stream, rustix::net::Shutdown::Both);
    // First, so that whoever hears of the death from an answer finds it so.
    let _ = closing.send(true);
    pending.end();
}
