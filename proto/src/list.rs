//! The answer of a list that is asked for again and again: its items may be given as the bytes they were encoded to
//! before.

use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, message, skip_field};
use prost::{DecodeError, Message};

/// The one field of such answers.
const ITEMS: u32 = 1;

/// `repeated M items = 1`, whatever name the interface has for the field. For whoever reads it, all are in `items`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct List<M> {
    pub items: Vec<M>,
    /// More of them, each by [`List::encoded`].
    pub encoded: Vec<Bytes>,
}

impl<M: Message> List<M> {
    /// The item as it is within the answer: field, length and message.
    pub fn encoded(item: &M) -> Bytes {
        let mut bytes = Vec::with_capacity(message::encoded_len(ITEMS, item));
        message::encode(ITEMS, item, &mut bytes);
        bytes.into()
    }
}

impl<M: Message + Default> Message for List<M> {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        message::encode_repeated(ITEMS, &self.items, buffer);
        for item in &self.encoded {
            buffer.put_slice(item);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            ITEMS => message::merge_repeated(wire_type, &mut self.items, buffer, context),
            _ => skip_field(wire_type, tag, buffer, context),
        }
    }

    fn encoded_len(&self) -> usize {
        message::encoded_len_repeated(ITEMS, &self.items) + self.encoded.iter().map(Bytes::len).sum::<usize>()
    }

    fn clear(&mut self) {
        self.items.clear();
        self.encoded.clear();
    }
}
