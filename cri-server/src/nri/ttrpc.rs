//! ttrpc: gRPC's words without HTTP, as containerd's family speaks it over sockets of one machine.
//!
//! A message is ten bytes (length, stream and flags, big endian) and a protobuf. Only calls with one request and one
//! answer are here: plugins have no others. Our own few lines, since the crate of this name cannot share its socket
//! with a second conversation and brings a second prost.

use prost::Message;

use super::mux::Broken;

/// Before each message.
pub(super) const HEADER: usize = 10;
/// What the protocol's own library allows.
pub(super) const MESSAGE_MAX: usize = 4 << 20;

/// gRPC's numbers, as far as anybody here looks at them.
pub(super) mod code {
    pub(in crate::nri) const OK: i32 = 0;
    pub(in crate::nri) const INVALID_ARGUMENT: i32 = 3;
    pub(in crate::nri) const UNIMPLEMENTED: i32 = 12;
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Answer,
}

/// A message without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) bytes: usize,
    /// Odd, since only who calls opens streams.
    pub(super) stream: u32,
    pub(super) kind: Kind,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    pub(super) service: String,
    #[prost(string, tag = "2")]
    pub(super) method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(super) timeout_nano: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Answer {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) payload: Vec<u8>,
}

/// google.rpc.Status, save its details.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
}

impl Status {
    pub(super) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Answer {
    /// What was answered, or why not.
    pub(super) fn outcome(self) -> Result<Vec<u8>, Status> {
        match self.status {
            Some(status) if status.code != code::OK => Err(status),
            Some(_) | None => Ok(self.payload),
        }
    }

    pub(super) fn of(outcome: Result<Vec<u8>, Status>) -> Self {
        match outcome {
            Ok(payload) => Self { status: None, payload },
            Err(status) => Self { status: Some(status), payload: Vec::new() },
        }
    }
}

impl Head {
    /// # Errors
    /// When the message is too long or of a type that has no place here.
    pub(super) fn parse(bytes: [u8; HEADER]) -> Result<Self, Broken> {
        let [a, b, c, d, e, f, g, h, kind, _flags] = bytes;
        let bytes = u32::from_be_bytes([a, b, c, d]) as usize;
        if bytes > MESSAGE_MAX {
            return Err(Broken::Message { bytes });
        }
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Answer,
            kind => return Err(Broken::Kind { kind }),
        };
        Ok(Self { bytes, stream: u32::from_be_bytes([e, f, g, h]), kind })
    }
}

/// A message with its head.
pub(super) fn encode(stream: u32, kind: Kind, message: &impl Message) -> Vec<u8> {
    let kind = match kind {
        Kind::Request => 1,
        Kind::Answer => 2,
    };
    let mut bytes = Vec::with_capacity(HEADER + message.encoded_len());
    bytes.extend((message.encoded_len() as u32).to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind, 0]);
    message.encode(&mut bytes).expect("a vector grows");
    bytes
}

/// Messages of one conversation, put together again from what frames bring.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    bytes: Vec<u8>,
}

impl Assembly {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if it is there.
    ///
    /// # Errors
    /// When its head is none.
    pub(super) fn next(&mut self) -> Result<Option<(Head, Vec<u8>)>, Broken> {
        let Some(head) = self.bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let head = Head::parse(*head)?;
        let end = HEADER + head.bytes;
        if self.bytes.len() < end {
            return Ok(None);
        }
        let message = self.bytes[HEADER..end].to_vec();
        self.bytes.drain(..end);
        Ok(Some((head, message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_as_it_went_in_however_it_is_cut() {
        let request = Request {
            service: "s".into(),
            method: "m".into(),
            payload: vec![1; 5000],
            timeout_nano: 2_000_000_000,
        };
        let mut bytes = encode(3, Kind::Request, &request);
        bytes.extend(encode(5, Kind::Answer, &Answer::of(Err(Status::new(code::INVALID_ARGUMENT, "no")))));
        for size in [1, 9, 10, 11, 4096, 20_000] {
            let mut assembly = Assembly::default();
            let mut out = Vec::new();
            for part in bytes.chunks(size) {
                assembly.add(part);
                while let Some(message) = assembly.next().unwrap() {
                    out.push(message);
                }
            }
            let [(one, first), (other, second)] = out.as_slice() else { panic!("{size}: {}", out.len()) };
            assert_eq!((one.stream, one.kind), (3, Kind::Request));
            assert_eq!(Request::decode(first.as_slice()).unwrap(), request);
            assert_eq!((other.stream, other.kind), (5, Kind::Answer));
            let outcome = Answer::decode(second.as_slice()).unwrap().outcome();
            assert_eq!(outcome, Err(Status::new(code::INVALID_ARGUMENT, "no")));
        }
    }

    #[test]
    fn a_head_that_is_none_is_refused() {
        let check = |bytes: [u8; HEADER], broken| assert_eq!(Head::parse(bytes), Err(broken));
        check([0, 0x40, 0, 1, 0, 0, 0, 1, 1, 0], Broken::Message { bytes: MESSAGE_MAX + 1 });
        check([0, 0, 0, 1, 0, 0, 0, 1, 0, 0], Broken::Kind { kind: 0 });
        check([0, 0, 0, 1, 0, 0, 0, 1, 3, 0], Broken::Kind { kind: 3 });
    }
}
