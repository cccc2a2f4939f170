//! The trunk: one socket for the calls of both sides.
//!
//! A frame is eight bytes (whose conversation it belongs to, and how long it is, both big endian) and its bytes.
//! There is no opening and no closing of a conversation; which ones there are is agreed beforehand.

use super::ttrpc;

/// Before each frame.
pub(super) const HEADER: usize = 8;
/// The largest frame: a whole message with its own header.
pub(super) const FRAME_MAX: usize = ttrpc::HEADER + ttrpc::MESSAGE_MAX;
/// The other side hands a frame to a reader with a buffer of this size, and gives up when the beginning of a message
/// does not fit. What follows may be as large as it likes.
const FIRST_FRAME_MAX: usize = 4096;

/// Who is called over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conversation {
    /// The plugin answers.
    Plugin,
    /// We answer.
    Runtime,
}

/// Why a peer can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("a frame of the unknown conversation {0}")]
    Conversation(u32),
    #[error("a frame of {bytes} bytes; {FRAME_MAX} are allowed")]
    Frame { bytes: usize },
    #[error("a message of {bytes} bytes; {} are allowed", ttrpc::MESSAGE_MAX)]
    Message { bytes: usize },
    #[error("a message of type {kind} where none such belongs")]
    Kind { kind: u8 },
    #[error("an answer to nothing that was asked")]
    Unasked,
    #[error("more than {0} calls at once")]
    Calls(usize),
    #[error("bytes that are no message")]
    Undecodable,
}

impl Conversation {
    fn number(self) -> u32 {
        match self {
            Conversation::Plugin => 1,
            Conversation::Runtime => 2,
        }
    }

    fn of(number: u32) -> Result<Self, Broken> {
        match number {
            1 => Ok(Conversation::Plugin),
            2 => Ok(Conversation::Runtime),
            other => Err(Broken::Conversation(other)),
        }
    }
}

/// What a frame's header says.
///
/// # Errors
/// When the conversation is unknown or the frame too long.
pub(super) fn header(bytes: [u8; HEADER]) -> Result<(Conversation, usize), Broken> {
    let [a, b, c, d, e, f, g, h] = bytes;
    let conversation = Conversation::of(u32::from_be_bytes([a, b, c, d]))?;
    let bytes = u32::from_be_bytes([e, f, g, h]) as usize;
    if bytes > FRAME_MAX { Err(Broken::Frame { bytes }) } else { Ok((conversation, bytes)) }
}

/// A message as the frames that carry it.
pub(super) fn frames(conversation: Conversation, message: &[u8]) -> Vec<u8> {
    let (first, rest) = message.split_at(message.len().min(FIRST_FRAME_MAX));
    let mut bytes = Vec::with_capacity(message.len() + 2 * HEADER);
    for part in [first, rest].into_iter().filter(|part| !part.is_empty()) {
        bytes.extend(conversation.number().to_be_bytes());
        bytes.extend((part.len() as u32).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_whose_and_how_long_or_is_refused() {
        let check = |bytes: [u8; HEADER], expected| assert_eq!(header(bytes), expected);
        check([0, 0, 0, 1, 0, 0, 1, 2], Ok((Conversation::Plugin, 258)));
        check([0, 0, 0, 2, 0, 0, 0, 0], Ok((Conversation::Runtime, 0)));
        check([0, 0, 0, 2, 0, 0x40, 0, 10], Ok((Conversation::Runtime, FRAME_MAX)));
        check([0, 0, 0, 2, 0, 0x40, 0, 11], Err(Broken::Frame { bytes: FRAME_MAX + 1 }));
        check([0, 0, 0, 0, 0, 0, 0, 1], Err(Broken::Conversation(0)));
        check([9, 0, 0, 1, 0, 0, 0, 1], Err(Broken::Conversation(0x0900_0001)));
    }

    #[test]
    fn a_message_begins_in_a_frame_that_any_reader_takes() {
        let lengths = |bytes: usize| {
            let mut frames = frames(Conversation::Runtime, &vec![7; bytes]).into_iter();
            let mut lengths = Vec::new();
            while let Ok(head) = <[u8; HEADER]>::try_from(frames.by_ref().take(HEADER).collect::<Vec<u8>>()) {
                let (conversation, length) = header(head).unwrap();
                assert_eq!(conversation, Conversation::Runtime);
                assert!(frames.by_ref().take(length).eq(std::iter::repeat_n(7, length)));
                lengths.push(length);
            }
            lengths
        };
        assert_eq!(lengths(10), [10]);
        assert_eq!(lengths(4096), [4096]);
        assert_eq!(lengths(4097), [4096, 1]);
        assert_eq!(lengths(1 << 20), [4096, (1 << 20) - 4096]);
    }
}
