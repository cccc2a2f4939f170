//! A SPDY/3.1 client: opens streams, counts windows when told to, and says what it got.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stream::spdy::{Decoder, Encoder, Frame, Headers};

/// What came on one stream.
#[derive(Debug, Default)]
pub(super) struct Got {
    pub(super) bytes: Vec<u8>,
    pub(super) last: bool,
    pub(super) replied: bool,
    pub(super) reset: bool,
}

pub(super) struct Client<T> {
    io: T,
    encoder: Encoder,
    decoder: Decoder,
    next_id: u32,
    pub(super) got: HashMap<u32, Got>,
    pub(super) pongs: usize,
    /// Credit that came back, by stream; 0 is the connection.
    pub(super) credit: HashMap<u32, u32>,
    /// Give credit back for every piece of data.
    pub(super) counts: bool,
    /// The most data that was ever on its way without our leave.
    pub(super) most_outstanding: usize,
    outstanding: HashMap<u32, usize>,
}

/// The head of an HTTP answer, and the connection after it.
pub(super) async fn upgrade(url: &str, protocols: &str) -> (String, TcpStream) {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocols}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub(super) fn on(io: T) -> Client<T> {
        Client {
            io,
            encoder: Encoder::new(),
            decoder: Decoder::new(),
            next_id: 1,
            got: HashMap::new(),
            pongs: 0,
            credit: HashMap::new(),
            counts: false,
            most_outstanding: 0,
            outstanding: HashMap::new(),
        }
    }

    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next_id;
        self.next_id += 2;
        let headers: Headers = headers.iter().copied().collect();
        self.send(Frame::SynStream { id, headers, last: false }).await;
        id
    }

    pub(super) async fn write(&mut self, id: u32, bytes: &[u8], last: bool) {
        self.send(Frame::Data { id, bytes: Bytes::copy_from_slice(bytes), last }).await;
    }

    pub(super) async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.encoder.encode(&frame, &mut bytes);
        // A server that is done takes nothing more; what it said matters.
        let _ = self.io.write_all(&bytes).await;
    }

    pub(super) async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.io.write_all(bytes).await;
    }

    /// Reads until this holds. False when the server ended the connection before.
    pub(super) async fn until(&mut self, mut enough: impl FnMut(&Client<T>) -> bool) -> bool {
        loop {
            while let Some(frame) = self.decoder.next().unwrap() {
                self.take(frame).await;
            }
            if enough(self) {
                return true;
            }
            if self.io.read_buf(&mut self.decoder.buffer).await.unwrap_or(0) == 0 {
                return false;
            }
        }
    }

    /// Reads to the end of the connection.
    pub(super) async fn read_to_end(&mut self) {
        assert!(!self.until(|_| false).await);
    }

    pub(super) fn text(&self, id: u32) -> String {
        String::from_utf8_lossy(&self.got[&id].bytes).into_owned()
    }

    pub(super) fn ended(&self, id: u32) -> bool {
        self.got.get(&id).is_some_and(|got| got.last)
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::SynReply { id, .. } => self.got.entry(id).or_default().replied = true,
            Frame::Reset { id, .. } => self.got.entry(id).or_default().reset = true,
            Frame::Ping { .. } => self.pongs += 1,
            Frame::WindowUpdate { id, delta } => *self.credit.entry(id).or_default() += delta,
            Frame::Data { id, bytes, last } => {
                let got = self.got.entry(id).or_default();
                assert!(got.replied && !got.last, "data before the reply or after the end");
                got.bytes.extend_from_slice(&bytes);
                got.last |= last;
                self.count(id, bytes.len()).await;
            }
            _ => {}
        }
    }

    async fn count(&mut self, id: u32, bytes: usize) {
        if !self.counts || bytes == 0 {
            return;
        }
        let outstanding = self.outstanding.entry(id).or_default();
        *outstanding += bytes;
        self.most_outstanding = self.most_outstanding.max(*outstanding);
        // Leave is given late, so that a sender that ignores windows would be seen.
        if *outstanding >= 8000 {
            let delta = *outstanding as u32;
            *outstanding = 0;
            self.send(Frame::WindowUpdate { id, delta }).await;
            self.send(Frame::WindowUpdate { id: 0, delta }).await;
        }
    }
}
