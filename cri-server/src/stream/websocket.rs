//! The server's side of a WebSocket connection: numbered channels, or a tunnel for SPDY.
//!
//! A message is one byte that names the channel, and its data. In the base64 forms it is text: the channel
//! as a digit, then the data encoded. `v5.channel.k8s.io` adds a message that ends a channel: 255 and its
//! number.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::wire::{Activity, CHUNK, INLET, Inlet, Link, Outgoing, Outlet};

/// Clients send pieces of some 32 KiB; nothing needs more.
const MESSAGE_MAX_BYTES: usize = 4 << 20;
/// Ends a channel, in version 5.
const CLOSE_CHANNEL: u8 = 255;
/// How long the two sides of a tunnel may take to say goodbye.
const LINGER: Duration = Duration::from_secs(2);

/// How channel and data lie in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Binary,
    /// Binary, with a message that ends a channel.
    BinaryClosing,
    Base64,
}

/// A connection, and the channels that its session asked for.
pub(super) struct WebSocket {
    pub(super) link: Link,
    inlets: HashMap<u8, Inlet>,
}

impl WebSocket {
    pub(super) fn inlet(&mut self, channel: u8) -> Option<Inlet> {
        self.inlets.remove(&channel)
    }

    pub(super) fn outlet(&self, channel: u8) -> Outlet {
        Outlet::new(channel.into(), self.link.queue.clone())
    }
}

type Socket<T> = WebSocketStream<T>;

async fn socket<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> Socket<T> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX_BYTES))
        .max_frame_size(Some(MESSAGE_MAX_BYTES))
        .read_buffer_size(16 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MESSAGE_MAX_BYTES);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Serves a connection on which the client may write to these channels.
pub(super) async fn serve<T>(io: T, format: Format, inputs: &[u8], idle: Duration) -> WebSocket
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, stream) = socket(io).await.split();
    let (queue, outgoing) = Link::queue();
    let (gone, activity) = (CancellationToken::new(), Activity::new());
    let mut inlets = HashMap::new();
    let mut ours = HashMap::new();
    for channel in inputs {
        let (inlet, our_end) = tokio::io::duplex(INLET);
        inlets.insert(*channel, inlet);
        ours.insert(*channel, our_end);
    }
    let reader = tokio::spawn(read_in(stream, format, ours, gone.clone(), activity.clone(), idle));
    let writer = tokio::spawn(write_out(sink, format, outgoing, gone.clone(), activity));
    WebSocket { link: Link::new(queue, gone, reader, writer), inlets }
}

async fn read_in<T: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SplitStream<Socket<T>>,
    format: Format,
    mut inlets: HashMap<u8, Inlet>,
    gone: CancellationToken,
    activity: Activity,
    idle: Duration,
) {
    let _gone = gone.drop_guard();
    let hear = async {
        while let Some(Ok(message)) = stream.next().await {
            activity.touch();
            match decode(format, message) {
                Heard::Data { channel, bytes } => give(&mut inlets, channel, &bytes).await,
                Heard::End { channel } => drop(inlets.remove(&channel)),
                Heard::Nothing => {}
                Heard::Over => return,
            }
        }
    };
    tokio::select! {
        () = hear => {}
        () = activity.cease(idle) => {}
    }
}

async fn give(inlets: &mut HashMap<u8, Inlet>, channel: u8, bytes: &[u8]) {
    if let Some(inlet) = inlets.get_mut(&channel)
        && inlet.write_all(bytes).await.is_err()
    {
        // The session wants no more of it.
        inlets.remove(&channel);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Data { channel: u8, bytes: Bytes },
    End { channel: u8 },
    Nothing,
    Over,
}

fn decode(format: Format, message: Message) -> Heard {
    match (format, message) {
        (Format::BinaryClosing, Message::Binary(bytes)) if bytes.first() == Some(&CLOSE_CHANNEL) => {
            bytes.get(1).map_or(Heard::Nothing, |channel| Heard::End { channel: *channel })
        }
        (Format::Binary | Format::BinaryClosing, Message::Binary(mut bytes)) if !bytes.is_empty() => {
            let channel = bytes.split_to(1)[0];
            Heard::Data { channel, bytes }
        }
        (Format::Base64, Message::Text(text)) => decode_text(text.as_str()),
        (Format::Binary | Format::BinaryClosing, Message::Binary(_)) => Heard::Nothing,
        (_, Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Heard::Nothing,
        // The wrong kind of message for this protocol, or goodbye.
        (_, Message::Text(_) | Message::Binary(_) | Message::Close(_)) => Heard::Over,
    }
}

fn decode_text(text: &str) -> Heard {
    let Some((channel, data)) = text.split_at_checked(1) else { return Heard::Nothing };
    match (channel.as_bytes()[0], STANDARD.decode(data)) {
        (digit @ b'0'..=b'9', Ok(data)) => Heard::Data { channel: digit - b'0', bytes: data.into() },
        _ => Heard::Over,
    }
}

fn encode(format: Format, channel: u8, data: &[u8]) -> Message {
    match format {
        Format::Binary | Format::BinaryClosing => {
            let mut message = BytesMut::with_capacity(1 + data.len());
            message.extend_from_slice(&[channel]);
            message.extend_from_slice(data);
            Message::Binary(message.freeze())
        }
        Format::Base64 => {
            let mut text = String::with_capacity(1 + data.len() * 4 / 3 + 4);
            text.push(char::from(b'0' + channel.min(9)));
            STANDARD.encode_string(data, &mut text);
            Message::Text(text.into())
        }
    }
}

async fn write_out<T: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<Socket<T>, Message>,
    format: Format,
    mut outgoing: mpsc::Receiver<Outgoing>,
    gone: CancellationToken,
    activity: Activity,
) {
    let _gone = gone.drop_guard();
    while let Some(next) = outgoing.recv().await {
        let sent = match next {
            // A message cannot say that a channel ends; the client learns it from the status.
            Outgoing::Data { last: true, .. } | Outgoing::Frame(_) => Ok(()),
            Outgoing::Data { channel, bytes, .. } => sink.send(encode(format, channel as u8, &bytes)).await,
            Outgoing::Finish => {
                let _ = sink.send(goodbye()).await;
                return;
            }
        };
        if sent.is_err() {
            return;
        }
        activity.touch();
    }
}

fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// A byte stream through binary messages, and the task that carries it. The task ends with either side.
pub(super) async fn tunnel<T>(io: T) -> (DuplexStream, AbortOnDropHandle<()>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (inner, ours) = tokio::io::duplex(INLET);
    let carry = carry(socket(io).await, ours);
    (inner, AbortOnDropHandle::new(tokio::spawn(carry)))
}

async fn carry<T: AsyncRead + AsyncWrite + Unpin>(socket: Socket<T>, ours: DuplexStream) {
    let (mut sink, mut stream) = socket.split();
    let (mut from_inner, mut to_inner) = tokio::io::split(ours);
    let inward = async {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(bytes) => {
                    if to_inner.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                Message::Text(_) | Message::Close(_) => break,
            }
        }
        let _ = to_inner.shutdown().await;
    };
    let outward = async {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        while let Ok(1..) = from_inner.read_buf(&mut chunk).await {
            if sink.send(Message::Binary(chunk.split().freeze())).await.is_err() {
                return;
            }
            chunk.reserve(CHUNK);
        }
        let _ = sink.send(goodbye()).await;
    };
    let (mut inward, mut outward) = (std::pin::pin!(inward), std::pin::pin!(outward));
    tokio::select! {
        // What the session still writes goes out, or fails by itself.
        () = &mut inward => outward.await,
        () = &mut outward => drop(tokio::time::timeout(LINGER, inward).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_channel() {
        for format in [Format::Binary, Format::BinaryClosing, Format::Base64] {
            for channel in 0..5 {
                let heard = decode(format, encode(format, channel, b"da\xffta"));
                assert_eq!(heard, Heard::Data { channel, bytes: Bytes::from_static(b"da\xffta") });
            }
        }
        assert_eq!(encode(Format::Base64, 1, b"hi"), Message::Text("1aGk=".into()));
    }

    #[test]
    fn only_version_five_closes_channels() {
        let close = || Message::Binary(Bytes::from_static(&[255, 0]));
        assert_eq!(decode(Format::BinaryClosing, close()), Heard::End { channel: 0 });
        let data = Heard::Data { channel: 255, bytes: Bytes::from_static(&[0]) };
        assert_eq!(decode(Format::Binary, close()), data);
    }

    #[test]
    fn nonsense_ends_the_connection_or_is_passed_over() {
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        assert_eq!(decode(Format::Binary, binary(&[])), Heard::Nothing);
        assert_eq!(decode(Format::BinaryClosing, binary(&[255])), Heard::Nothing);
        assert_eq!(decode(Format::Binary, Message::Text("0aGk=".into())), Heard::Over);
        assert_eq!(decode(Format::Base64, binary(b"0aGk=")), Heard::Over);
        assert_eq!(decode(Format::Base64, Message::Text("0!!".into())), Heard::Over);
        assert_eq!(decode(Format::Base64, Message::Text("äaGk=".into())), Heard::Nothing);
        assert_eq!(decode(Format::Base64, Message::Text("xaGk=".into())), Heard::Over);
        assert_eq!(decode(Format::Base64, Message::Text("".into())), Heard::Nothing);
    }
}
