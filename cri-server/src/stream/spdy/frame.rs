//! SPDY/3.1 frames: bytes to values and back, and nothing else.
//!
//! The decoder trusts nobody: every length is bounded before anything is kept or inflated for it
//! (CVE-2026-35469 was a peer that made a server allocate gigabytes with a few control frames). Data is
//! handed on in the pieces that it arrives in, so a frame's length costs no memory.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::dictionary;

const VERSION: u16 = 3;
const HEADER_BYTES: usize = 8;
const FLAG_FIN: u8 = 1;
/// Control frames of our clients are a few hundred bytes.
const CONTROL_MAX_BYTES: usize = 16 << 10;
/// Headers of one frame once inflated.
const HEADERS_MAX_BYTES: usize = 32 << 10;
const HEADERS_MAX: usize = 64;
/// SPDY/3.1 defines eight settings.
const SETTINGS_MAX: usize = 64;
const SETTING_INITIAL_WINDOW: u32 = 7;
/// Stream ids and window sizes have 31 bits.
const LOW_31: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Name and value pairs; names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::stream) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value under this lower-case name.
    pub(in crate::stream) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Headers {
        Headers(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// A frame, or (data only) a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::stream) enum Frame {
    SynStream {
        id: u32,
        headers: Headers,
        last: bool,
    },
    SynReply {
        id: u32,
        headers: Headers,
        last: bool,
    },
    Reset {
        id: u32,
        status: u32,
    },
    /// The only setting that concerns us.
    Settings {
        initial_window: Option<u32>,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last_good_id: u32,
    },
    Headers {
        id: u32,
        headers: Headers,
        last: bool,
    },
    /// Id 0 is the connection.
    WindowUpdate {
        id: u32,
        delta: u32,
    },
    Data {
        id: u32,
        bytes: Bytes,
        last: bool,
    },
}

/// Why a connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::stream) enum Violation {
    #[error("a control frame of version {0}, not 3")]
    Version(u16),
    #[error("a control frame of {0} bytes")]
    TooLong(usize),
    #[error("a frame of type {0} that is cut short")]
    Short(u16),
    #[error("a frame for stream 0")]
    StreamZero,
    #[error("headers that cannot be inflated")]
    Deflate,
    #[error("headers larger than {HEADERS_MAX_BYTES} bytes")]
    HeadersTooLarge,
    #[error("headers that are not well formed")]
    HeadersMalformed,
    #[error("{0} settings in one frame")]
    TooManySettings(u32),
}

/// Turns what arrives into frames.
#[derive(Debug)]
pub(in crate::stream) struct Decoder {
    /// What arrived and was not decoded yet.
    pub(in crate::stream) buffer: BytesMut,
    inflate: Inflate,
    state: State,
}

#[derive(Debug)]
enum State {
    Header,
    /// The rest of a data frame.
    Data {
        id: u32,
        left: usize,
        last: bool,
    },
    /// The rest of a control frame of a type that is not ours to know.
    Skip {
        left: usize,
    },
}

impl Decoder {
    pub(in crate::stream) fn new() -> Decoder {
        Decoder { buffer: BytesMut::new(), inflate: Inflate::new(), state: State::Header }
    }

    /// The next frame, when enough has arrived.
    pub(in crate::stream) fn next(&mut self) -> Result<Option<Frame>, Violation> {
        loop {
            match self.state {
                State::Data { id, left, last } => return Ok(self.data(id, left, last)),
                State::Skip { left } => {
                    let skipped = left.min(self.buffer.len());
                    self.buffer.advance(skipped);
                    self.state =
                        if left == skipped { State::Header } else { State::Skip { left: left - skipped } };
                    if left > skipped {
                        return Ok(None);
                    }
                }
                State::Header => match self.header()? {
                    Step::More => return Ok(None),
                    Step::Again => {}
                    Step::Frame(frame) => return Ok(Some(frame)),
                },
            }
        }
    }

    fn data(&mut self, id: u32, left: usize, last: bool) -> Option<Frame> {
        let here = left.min(self.buffer.len());
        if here == 0 && left > 0 {
            return None;
        }
        let bytes = self.buffer.split_to(here).freeze();
        self.state = match left - here {
            0 => State::Header,
            left => State::Data { id, left, last },
        };
        Some(Frame::Data { id, bytes, last: last && here == left })
    }

    fn header(&mut self) -> Result<Step, Violation> {
        if self.buffer.len() < HEADER_BYTES {
            return Ok(Step::More);
        }
        let mut head = &self.buffer[..HEADER_BYTES];
        let (first, flags_and_length) = (head.get_u32(), head.get_u32());
        let (flags, length) = ((flags_and_length >> 24) as u8, (flags_and_length & 0x00ff_ffff) as usize);
        if first >> 31 == 0 {
            self.buffer.advance(HEADER_BYTES);
            let id = stream_id(first)?;
            self.state = State::Data { id, left: length, last: flags & FLAG_FIN != 0 };
            return Ok(Step::Again);
        }
        self.control((first >> 16) as u16 & 0x7fff, first as u16, flags, length)
    }

    fn control(&mut self, version: u16, kind: u16, flags: u8, length: usize) -> Result<Step, Violation> {
        if version != VERSION {
            return Err(Violation::Version(version));
        }
        if !known(kind) {
            self.buffer.advance(HEADER_BYTES);
            self.state = State::Skip { left: length };
            return Ok(Step::Again);
        }
        if length > CONTROL_MAX_BYTES {
            return Err(Violation::TooLong(length));
        }
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(Step::More);
        }
        self.buffer.advance(HEADER_BYTES);
        let body = self.buffer.split_to(length).freeze();
        self.body(kind, flags & FLAG_FIN != 0, body).map(Step::Frame)
    }

    fn body(&mut self, kind: u16, last: bool, body: Bytes) -> Result<Frame, Violation> {
        let mut body = Body { kind, bytes: body };
        Ok(match kind {
            SYN_STREAM => {
                let id = stream_id(body.number()?)?;
                body.skip(6)?; // Associated stream, priority, slot: nothing to us.
                Frame::SynStream { id, headers: self.inflate.headers(&body.bytes)?, last }
            }
            SYN_REPLY => {
                let id = stream_id(body.number()?)?;
                Frame::SynReply { id, headers: self.inflate.headers(&body.bytes)?, last }
            }
            HEADERS => {
                let id = stream_id(body.number()?)?;
                Frame::Headers { id, headers: self.inflate.headers(&body.bytes)?, last }
            }
            RST_STREAM => Frame::Reset { id: stream_id(body.number()?)?, status: body.number()? },
            SETTINGS => Frame::Settings { initial_window: body.initial_window()? },
            PING => Frame::Ping { id: body.number()? },
            GOAWAY => Frame::GoAway { last_good_id: body.number()? & LOW_31 },
            _ => Frame::WindowUpdate { id: body.number()? & LOW_31, delta: body.number()? & LOW_31 },
        })
    }
}

enum Step {
    More,
    Again,
    Frame(Frame),
}

fn known(kind: u16) -> bool {
    matches!(kind, SYN_STREAM..=SETTINGS | PING..=WINDOW_UPDATE)
}

fn stream_id(word: u32) -> Result<u32, Violation> {
    match word & LOW_31 {
        0 => Err(Violation::StreamZero),
        id => Ok(id),
    }
}

/// What a control frame says after its header.
struct Body {
    kind: u16,
    bytes: Bytes,
}

impl Body {
    fn number(&mut self) -> Result<u32, Violation> {
        self.bytes.try_get_u32().map_err(|_| Violation::Short(self.kind))
    }

    fn skip(&mut self, count: usize) -> Result<(), Violation> {
        if self.bytes.len() < count {
            return Err(Violation::Short(self.kind));
        }
        self.bytes.advance(count);
        Ok(())
    }

    fn initial_window(&mut self) -> Result<Option<u32>, Violation> {
        let count = self.number()?;
        if count as usize > SETTINGS_MAX {
            return Err(Violation::TooManySettings(count));
        }
        let mut window = None;
        for _ in 0..count {
            let (id, value) = (self.number()? & 0x00ff_ffff, self.number()?);
            if id == SETTING_INITIAL_WINDOW {
                window = Some(value & LOW_31);
            }
        }
        Ok(window)
    }
}

/// One zlib stream for all headers that come; it must see every block, in order.
#[derive(Debug)]
struct Inflate {
    stream: Decompress,
}

impl Inflate {
    fn new() -> Inflate {
        Inflate { stream: Decompress::new(true) }
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, Violation> {
        let mut text = Vec::with_capacity(1024);
        self.inflate(block, &mut text)?;
        parse(&text)
    }

    fn inflate(&mut self, mut block: &[u8], text: &mut Vec<u8>) -> Result<(), Violation> {
        let mut chunk = [0; 1024];
        loop {
            let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
            let outcome = self.stream.decompress(block, &mut chunk, FlushDecompress::Sync);
            let taken = (self.stream.total_in() - before_in) as usize;
            let made = (self.stream.total_out() - before_out) as usize;
            block = &block[taken.min(block.len())..];
            text.extend_from_slice(&chunk[..made]);
            if text.len() > HEADERS_MAX_BYTES {
                return Err(Violation::HeadersTooLarge);
            }
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.stream.set_dictionary(&dictionary()).map_err(|_| Violation::Deflate)?;
                }
                Err(_) => return Err(Violation::Deflate),
                // The end of the zlib stream, while there are headers to come.
                Ok(Status::StreamEnd) => return Err(Violation::Deflate),
                // All is in and there was room for more: all is out.
                Ok(_) if block.is_empty() && made < chunk.len() => return Ok(()),
                Ok(_) if taken == 0 && made == 0 => return Err(Violation::Deflate),
                Ok(_) => {}
            }
        }
    }
}

fn parse(mut text: &[u8]) -> Result<Headers, Violation> {
    let count = text.try_get_u32().map_err(|_| Violation::HeadersMalformed)?;
    if count as usize > HEADERS_MAX {
        return Err(Violation::HeadersTooLarge);
    }
    let mut headers = Headers::default();
    for _ in 0..count {
        let name = word(&mut text)?.to_ascii_lowercase();
        headers.0.push((name, word(&mut text)?));
    }
    if text.is_empty() { Ok(headers) } else { Err(Violation::HeadersMalformed) }
}

fn word(text: &mut &[u8]) -> Result<String, Violation> {
    let length = text.try_get_u32().map_err(|_| Violation::HeadersMalformed)? as usize;
    let (word, rest) = text.split_at_checked(length).ok_or(Violation::HeadersMalformed)?;
    *text = rest;
    String::from_utf8(word.to_vec()).map_err(|_| Violation::HeadersMalformed)
}

/// Turns frames into bytes.
#[derive(Debug)]
pub(in crate::stream) struct Encoder {
    deflate: Compress,
}

impl Encoder {
    pub(in crate::stream) fn new() -> Encoder {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&dictionary()).expect("a fresh zlib stream takes a dictionary");
        Encoder { deflate }
    }

    pub(in crate::stream) fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::Data { id, bytes, last } => {
                out.put_u32(*id);
                out.put_u32(u32::from(*last) << 24 | bytes.len() as u32);
                out.extend_from_slice(bytes);
            }
            Frame::SynStream { id, headers, last } => {
                let block = self.deflate(headers);
                control(out, SYN_STREAM, *last, &[&id.to_be_bytes(), &[0; 6], &block]);
            }
            Frame::SynReply { id, headers, last } => {
                let block = self.deflate(headers);
                control(out, SYN_REPLY, *last, &[&id.to_be_bytes(), &block]);
            }
            Frame::Headers { id, headers, last } => {
                let block = self.deflate(headers);
                control(out, HEADERS, *last, &[&id.to_be_bytes(), &block]);
            }
            Frame::Reset { id, status } => {
                control(out, RST_STREAM, false, &[&id.to_be_bytes(), &status.to_be_bytes()]);
            }
            Frame::Settings { initial_window: None } => control(out, SETTINGS, false, &[&[0; 4]]),
            Frame::Settings { initial_window: Some(window) } => {
                let body = [1u32, SETTING_INITIAL_WINDOW, *window].map(u32::to_be_bytes).concat();
                control(out, SETTINGS, false, &[&body]);
            }
            Frame::Ping { id } => control(out, PING, false, &[&id.to_be_bytes()]),
            Frame::GoAway { last_good_id } => {
                control(out, GOAWAY, false, &[&last_good_id.to_be_bytes(), &[0; 4]])
            }
            Frame::WindowUpdate { id, delta } => {
                control(out, WINDOW_UPDATE, false, &[&id.to_be_bytes(), &delta.to_be_bytes()]);
            }
        }
    }

    fn deflate(&mut self, headers: &Headers) -> Vec<u8> {
        let mut text = BytesMut::new();
        text.put_u32(headers.0.len() as u32);
        for word in headers.0.iter().flat_map(|(name, value)| [name, value]) {
            text.put_u32(word.len() as u32);
            text.extend_from_slice(word.as_bytes());
        }
        let mut block = Vec::with_capacity(text.len() + 64);
        let mut rest = &text[..];
        loop {
            let before = self.deflate.total_in();
            block.reserve(256);
            self.deflate
                .compress_vec(rest, &mut block, FlushCompress::Sync)
                .expect("compressing into memory cannot fail");
            rest = &rest[(self.deflate.total_in() - before) as usize..];
            // With room left over, the flush is complete.
            if rest.is_empty() && block.len() < block.capacity() {
                return block;
            }
        }
    }
}

fn control(out: &mut BytesMut, kind: u16, last: bool, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(last) << 24 | length as u32);
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> Headers {
        [("streamtype", "error"), ("port", "80"), ("requestid", "0")].into_iter().collect()
    }

    fn all() -> Vec<Frame> {
        vec![
            Frame::SynStream { id: 1, headers: headers(), last: true },
            Frame::SynReply { id: 1, headers: Headers::default(), last: false },
            Frame::Data { id: 1, bytes: Bytes::from_static(b"hello"), last: false },
            Frame::Data { id: 1, bytes: Bytes::new(), last: true },
            Frame::Headers { id: 3, headers: headers(), last: false },
            Frame::SynStream { id: 5, headers: headers(), last: false },
            Frame::Reset { id: 3, status: 5 },
            Frame::Settings { initial_window: Some(70000) },
            Frame::Settings { initial_window: None },
            Frame::Ping { id: 2 },
            Frame::WindowUpdate { id: 0, delta: 4096 },
            Frame::GoAway { last_good_id: 7 },
        ]
    }

    fn encoded(frames: &[Frame]) -> BytesMut {
        let (mut encoder, mut bytes) = (Encoder::new(), BytesMut::new());
        frames.iter().for_each(|frame| encoder.encode(frame, &mut bytes));
        bytes
    }

    fn decoded(bytes: &[u8], piece: usize) -> Result<Vec<Frame>, Violation> {
        let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            decoder.buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.next()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(decoded(&encoded(&all()), usize::MAX).unwrap(), all());
    }

    #[test]
    fn data_comes_in_the_pieces_that_it_arrives_in() {
        let frames = decoded(&encoded(&all()), 1).unwrap();
        let of_one = frames.iter().filter_map(|frame| match frame {
            Frame::Data { bytes, last, .. } => Some((bytes.clone(), *last)),
            _ => None,
        });
        let (pieces, ends): (Vec<_>, Vec<_>) = of_one.unzip();
        assert_eq!(pieces.concat(), b"hello");
        assert_eq!(ends, [false, false, false, false, false, true]);
        assert_eq!(frames.len(), all().len() + 4);
    }

    /// As spdystream 0.5.1 (the kubelet's) writes its first frame on a connection: zlib by Go, and
    /// the name in the spelling of Go's headers.
    #[test]
    fn names_are_heard_in_any_case() {
        let mixed = [("StreamType", "stdin")].into_iter().collect();
        let frames =
            decoded(&encoded(&[Frame::SynStream { id: 1, headers: mixed, last: false }]), 7).unwrap();
        let [Frame::SynStream { headers, .. }] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!(headers.get("streamtype"), Some("stdin"));
    }

    fn raw(kind: u16, length: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        bytes.put_u16(0x8003);
        bytes.put_u16(kind);
        bytes.put_u32(length);
        bytes.extend_from_slice(body);
        bytes.to_vec()
    }

    #[track_caller]
    fn refuses(bytes: &[u8], violation: Violation) {
        assert_eq!(decoded(bytes, usize::MAX), Err(violation));
    }

    #[test]
    fn bounds_are_held_before_anything_is_kept() {
        refuses(&raw(SYN_STREAM, 0x00ff_ffff, &[]), Violation::TooLong(0x00ff_ffff));
        refuses(&raw(SETTINGS, 4, &[0xff; 4]), Violation::TooManySettings(u32::MAX));
        refuses(&raw(PING, 2, &[0; 2]), Violation::Short(PING));
        refuses(&raw(RST_STREAM, 8, &[0; 8]), Violation::StreamZero);
        refuses(&raw(SYN_REPLY, 8, &[1; 8]), Violation::Deflate);
        refuses(&[0x80, 2, 0, 1, 0, 0, 0, 0], Violation::Version(2));
        refuses(&[0; 8], Violation::StreamZero);
        assert_eq!(decoded(&raw(77, 3, b"abc"), 2), Ok(vec![]), "an unknown type is passed over");
    }

    #[test]
    fn a_header_bomb_is_refused_early() {
        let bomb = [("a", "x".repeat(10 << 20).as_str())].into_iter().collect();
        let bytes = encoded(&[Frame::SynStream { id: 1, headers: bomb, last: false }]);
        assert!(bytes.len() > CONTROL_MAX_BYTES, "deflate is not that good: {}", bytes.len());
        let smaller = [("a", "x".repeat(1 << 20).as_str())].into_iter().collect();
        refuses(
            &encoded(&[Frame::SynStream { id: 1, headers: smaller, last: false }]),
            Violation::HeadersTooLarge,
        );
        let pairs: Vec<(&str, &str)> = vec![("", ""); 65];
        let many = pairs.into_iter().collect();
        refuses(
            &encoded(&[Frame::SynStream { id: 1, headers: many, last: false }]),
            Violation::HeadersTooLarge,
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), piece in 1usize..64) {
            let _ = decoded(&bytes, piece);
        }

        #[test]
        fn no_damage_makes_the_decoder_panic(at in 0usize..400, value in any::<u8>(), piece in 1usize..64) {
            let mut bytes = encoded(&all());
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = decoded(&bytes, piece);
        }

        #[test]
        fn any_split_gives_the_same_data(data in proptest::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
            let frame = Frame::Data { id: 9, bytes: Bytes::from(data.clone()), last: true };
            let frames = decoded(&encoded(&[frame]), piece).unwrap();
            let joined: Vec<u8> = frames.iter().flat_map(|frame| match frame {
                Frame::Data { bytes, .. } => bytes.to_vec(),
                other => panic!("{other:?}"),
            }).collect();
            prop_assert_eq!(joined, data);
        }
    }
}
