//! How a message lies in a byte stream: u32 length (little endian), u8 number of descriptors, JSON body.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// No message is longer; a longer one is a mistake or an attack, and the connection is given up.
pub const MAX_FRAME: usize = 4 << 20;
/// No message carries more descriptors.
pub const MAX_FDS: u8 = 8;
/// Bytes before the body.
pub const HEADER: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a message of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(usize),
    #[error("a message with {0} descriptors has more than {MAX_FDS}")]
    TooManyFds(u8),
    #[error("encoding a message")]
    Encode(#[source] serde_json::Error),
    #[error("decoding a message")]
    Decode(#[source] serde_json::Error),
}

/// The bytes of a message. The caller sends `fd_count` descriptors with the first of them.
///
/// # Errors
/// When the message is too long, has too many descriptors, or holds a path that is not UTF-8.
pub fn encode<T: Serialize>(message: &T, fd_count: u8) -> Result<Vec<u8>, FrameError> {
    if fd_count > MAX_FDS {
        return Err(FrameError::TooManyFds(fd_count));
    }
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&[0; HEADER]);
    serde_json::to_writer(&mut bytes, message).map_err(FrameError::Encode)?;
    let length = bytes.len() - HEADER;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[4] = fd_count;
    Ok(bytes)
}

/// One whole message as it came off the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub body: Vec<u8>,
    /// How many of the descriptors received so far belong to it; the oldest ones do.
    pub fd_count: u8,
}

impl Frame {
    /// The message inside.
    ///
    /// # Errors
    /// When the body is not such a message.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        serde_json::from_slice(&self.body).map_err(FrameError::Decode)
    }
}

/// Takes bytes as they come and gives frames as they get whole.
///
/// Holds at most one frame and what one push brought; an idle decoder holds no memory.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what was read. Take all frames out with [`Decoder::next_frame`] before the next push.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// When the peer breaks the bounds. The stream has no meaning from then on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((length, fd_count)) = self.header()? else {
            return Ok(None);
        };
        if self.bytes.len() < HEADER + length {
            return Ok(None);
        }
        let rest = self.bytes.split_off(HEADER + length);
        let mut body = std::mem::replace(&mut self.bytes, rest);
        body.drain(..HEADER);
        Ok(Some(Frame { body, fd_count }))
    }

    /// True when the stream may end here without a message being cut.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.bytes.is_empty()
    }

    fn header(&self) -> Result<Option<(usize, u8)>, FrameError> {
        let Some((&[a, b, c, d, fd_count], _)) = self.bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        if fd_count > MAX_FDS {
            return Err(FrameError::TooManyFds(fd_count));
        }
        Ok(Some((length, fd_count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answer, ContainerState, Event, ExecPlan, Scope};
    use crate::{Ask, Exit, Message, Phase, PodState, Refusal, RefusalKind, Request};
    use proptest::prelude::*;

    fn round_trip<T>(message: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let mut decoder = Decoder::new();
        decoder.push(&encode(message, 3).unwrap());
        let frame = decoder.next_frame().unwrap().unwrap();
        assert_eq!(frame.fd_count, 3);
        assert_eq!(&frame.parse::<T>().unwrap(), message);
        assert!(decoder.is_idle());
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let exit = Exit { code: 137, oom_killed: true, finished_at_ns: 5 };
        round_trip(&Request { seq: 1, ask: Ask::Hello { version: crate::VERSION } });
        round_trip(&Request {
            seq: u64::MAX,
            ask: Ask::Signal { container_id: "c".into(), signal: 9, scope: Scope::All },
        });
        round_trip(&Request {
            seq: 2,
            ask: Ask::Exec(ExecPlan {
                exec_id: "e".into(),
                container_id: "c".into(),
                process: serde_json::json!({"args": ["true"], "cwd": "/"}),
                terminal: false,
                stdin: false,
                stdout: true,
                stderr: true,
                timeout_ms: Some(1000),
            }),
        });
        round_trip(&Message::Event(Event::Exited { container_id: "c".into(), exit }));
        let containers = vec![ContainerState { container_id: "c".into(), phase: Phase::Exited(exit) }];
        round_trip(&Message::Answer {
            seq: 3,
            answer: Ok(Answer::Hello(PodState { made: true, containers, execs: vec!["e".into()] })),
        });
        let kept = vec![crate::Kept::Process, crate::Kept::Console];
        round_trip(&Request { seq: 0, ask: Ask::TakeBack { container_id: "c".into(), kept: kept.clone() } });
        round_trip(&Message::Keep { container_id: "c".into(), kept });
        let exec =
            crate::KeptExec { exec_id: "e".into(), container_id: "c".into(), pid: 7, deadline_ns: Some(8) };
        round_trip(&Message::KeepExec(exec));
        let refusal = Refusal { kind: RefusalKind::NotFound, message: "no".into() };
        round_trip(&Message::Answer { seq: 4, answer: Err(refusal) });
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_come_in() {
        let mut stream = Vec::new();
        for seq in 0..5 {
            stream.extend(encode(&Request { seq, ask: Ask::UnmakePod }, seq as u8).unwrap());
        }
        for step in 1..stream.len() {
            let mut decoder = Decoder::new();
            let mut seen = Vec::new();
            for piece in stream.chunks(step) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push((frame.parse::<Request>().unwrap().seq, frame.fd_count));
                }
            }
            assert_eq!(seen, [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)], "in pieces of {step}");
        }
    }

    #[test]
    fn a_peer_that_breaks_the_bounds_is_refused_by_its_header() {
        let check = |header: [u8; HEADER], text: &str| {
            let mut decoder = Decoder::new();
            decoder.push(&header);
            assert_eq!(decoder.next_frame().unwrap_err().to_string(), text);
        };
        check([1, 0, 64, 0, 0], "a message of 4194305 bytes is longer than 4194304");
        check([2, 0, 0, 0, 9], "a message with 9 descriptors has more than 8");
        assert!(matches!(encode(&"x".repeat(MAX_FRAME), 0), Err(FrameError::TooLong(_))));
        assert!(matches!(encode(&1, 9), Err(FrameError::TooManyFds(9))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..32)) {
            let mut decoder = Decoder::new();
            'stream: for piece in pieces {
                decoder.push(&piece);
                loop {
                    match decoder.next_frame() {
                        Ok(Some(frame)) => drop(frame.parse::<Request>()),
                        Ok(None) => break,
                        Err(_) => break 'stream,
                    }
                }
            }
        }

        #[test]
        fn small_frames_of_any_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200), fds in 0u8..=MAX_FDS) {
            let mut decoder = Decoder::new();
            decoder.push(&(body.len() as u32).to_le_bytes());
            decoder.push(&[fds]);
            decoder.push(&body);
            let frame = decoder.next_frame().unwrap().unwrap();
            prop_assert_eq!(frame.fd_count, fds);
            prop_assert_eq!(&frame.body, &body);
            drop(frame.parse::<Message>());
        }
    }
}
