//! criu's messages, as bytes: the few of rpc.proto that are needed here, written by hand. Each field is a number with
//! a kind, and a value: a varint, or bytes with their length in front (protobuf.dev, "Encoding").

/// Kinds of fields.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// A message while it is written.
#[derive(Debug, Default, Clone)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn number(&mut self, field: u64, value: u64) -> &mut Message {
        self.varint(field << 3 | VARINT);
        self.varint(value);
        self
    }

    /// Only a truth: absent is false for criu.
    pub(super) fn flag(&mut self, field: u64, value: bool) -> &mut Message {
        if value { self.number(field, 1) } else { self }
    }

    pub(super) fn text(&mut self, field: u64, text: &str) -> &mut Message {
        self.blob(field, text.as_bytes())
    }

    pub(super) fn message(&mut self, field: u64, message: &Message) -> &mut Message {
        self.blob(field, &message.0)
    }

    fn blob(&mut self, field: u64, bytes: &[u8]) -> &mut Message {
        self.varint(field << 3 | BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A field that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; what is cut off or of an unknown kind ends it with `None`.
pub(super) fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            VARINT => Value::Number(varint(&mut bytes)?),
            BYTES => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                Value::Bytes(take(&mut bytes, length)?)
            }
            FIXED64 => Value::Bytes(take(&mut bytes, 8)?),
            FIXED32 => Value::Bytes(take(&mut bytes, 4)?),
            _ => return None,
        };
        fields.push((tag >> 3, value));
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut inner = Message::default();
        inner.text(2, "/a");
        let mut message = Message::default();
        message.number(1, 300).flag(3, true).flag(4, false).message(5, &inner);
        let bytes = message.bytes();
        // 300 is the example of the encoding's own description.
        assert_eq!(bytes[..3], [0x08, 0xac, 0x02]);
        let fields = fields(&bytes).unwrap();
        assert_eq!(fields[0], (1, Value::Number(300)));
        assert_eq!(fields[1], (3, Value::Number(1)));
        assert_eq!(fields[2], (5, Value::Bytes(&[0x12, 2, b'/', b'a'])));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_bytes_are_a_surprise(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            let _ = fields(&bytes);
        }
    }
}
