//! gRPC with as little of a client as there can be: one call after the other on one connection, answers as bytes.
//!
//! What measures is part of what is measured. tests and tasks are built without optimisation, and in such a build the
//! usual client needs longer to read a list of 300 pods than berthd to write it. So this one only takes the frames
//! apart (RFC 9113); headers of answers are not read, since an answer that failed has no message.

use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use prost::Message;

/// Kinds of frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const INITIAL_WINDOW_SIZE: u16 = 4;
/// As large as there is: nobody shall wait for a window, as a kubelet's (grpc-go) grows with what it is sent, too.
const WINDOW: u32 = (1 << 31) - 1;
/// Of a connection, before it is told otherwise.
const FIRST_WINDOW: u32 = 65535;
const BUFFER: usize = 1 << 20;
/// A daemon that says nothing for so long never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    socket: UnixStream,
    next_stream: u32,
    /// Zeroes are written to it once, not before each read.
    buffer: Vec<u8>,
    /// What was received and not looked at lies here in `buffer`.
    unread: Range<usize>,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Wire {
    pub(super) fn connect(socket: &Path) -> Result<Wire> {
        let socket = UnixStream::connect(socket)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut wire = Wire { socket, next_stream: 1, buffer: vec![0; BUFFER], unread: 0..0 };
        let settings = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &WINDOW.to_be_bytes()].concat();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &settings));
        hello.extend(frame(WINDOW_UPDATE, 0, 0, &(WINDOW - FIRST_WINDOW).to_be_bytes()));
        wire.socket.write_all(&hello)?;
        Ok(wire)
    }

    /// The bytes of the answer's message. `method`: `RuntimeService/Version`.
    ///
    /// # Errors
    /// When the call fails, without the daemon's words: they are in headers.
    pub(super) fn call(&mut self, method: &str, request: &impl Message) -> Result<Vec<u8>> {
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut asked = frame(HEADERS, END_HEADERS, stream, &headers(method));
        asked.extend(frame(DATA, END_STREAM, stream, &message(request)));
        self.socket.write_all(&asked)?;
        let mut answer = Vec::new();
        loop {
            let frame = self.frame()?;
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, &[])?,
                PING if frame.flags & ACK == 0 => self.send(PING, ACK, &frame.payload)?,
                RST_STREAM | GOAWAY => bail!("{method} was broken off"),
                DATA if frame.stream == stream => {
                    ensure!(frame.flags & PADDED == 0, "{method} was answered with padding");
                    answer.extend(frame.payload);
                }
                _ => {}
            }
            let ends = matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0;
            if ends && frame.stream == stream {
                break;
            }
        }
        if !answer.is_empty() {
            self.send(WINDOW_UPDATE, 0, &u32::try_from(answer.len())?.to_be_bytes())?;
        }
        // Before each message: whether it is compressed, and its length.
        ensure!(answer.len() >= 5 && answer[0] == 0, "{method} was refused");
        answer.drain(..5);
        Ok(answer)
    }

    /// On the connection itself.
    fn send(&mut self, kind: u8, flags: u8, payload: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(&frame(kind, flags, 0, payload))?)
    }

    fn frame(&mut self) -> Result<Frame> {
        self.receive(9)?;
        let head = &self.buffer[self.unread.start..][..9];
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & WINDOW;
        self.receive(9 + length)?;
        let payload = self.buffer[self.unread.start + 9..][..length].to_vec();
        self.unread.start += 9 + length;
        Ok(Frame { kind, flags, stream, payload })
    }

    /// Until there are so many bytes that were not looked at.
    fn receive(&mut self, wanted: usize) -> Result<()> {
        ensure!(wanted <= BUFFER, "a frame of {wanted} bytes");
        if self.unread.is_empty() || self.unread.start + wanted > BUFFER {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        while self.unread.len() < wanted {
            let count = self.socket.read(&mut self.buffer[self.unread.end..])?;
            self.unread.end += count;
            ensure!(count > 0, "the daemon closed the connection");
        }
        Ok(())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("requests are small").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn message(request: &impl Message) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(request.encoded_len()).expect("requests are small").to_be_bytes());
    bytes.extend(request.encode_to_vec());
    bytes
}

/// HPACK without its compression (RFC 7541): names from the static table where it has them, the rest in letters.
fn headers(method: &str) -> Vec<u8> {
    const METHOD_POST: u8 = 0x80 | 3;
    const SCHEME_HTTP: u8 = 0x80 | 6;
    const PATH: u8 = 4;
    const AUTHORITY: u8 = 1;
    let mut bytes = vec![METHOD_POST, SCHEME_HTTP, PATH];
    bytes.extend(letters(&format!("/runtime.v1.{method}")));
    bytes.push(AUTHORITY);
    bytes.extend(letters("localhost"));
    for text in [("content-type", "application/grpc"), ("te", "trailers")] {
        bytes.push(0);
        bytes.extend(letters(text.0));
        bytes.extend(letters(text.1));
    }
    bytes
}

fn letters(text: &str) -> Vec<u8> {
    assert!(text.len() < 127, "longer ones have a longer length");
    let mut bytes = vec![text.len() as u8];
    bytes.extend(text.bytes());
    bytes
}
