//! Reading: from the front, in the byte order that the sender has.

use super::Failure;

/// A message, read from the front.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) big: bool,
}

impl Reader<'_> {
    pub(super) fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    pub(super) fn byte(&mut self) -> Result<u8, Failure> {
        let byte = *self.bytes.get(self.at).ok_or(Failure::CUT)?;
        self.at += 1;
        Ok(byte)
    }

    pub(super) fn u32_at(&self, at: usize) -> Result<u32, Failure> {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(Failure::CUT)?;
        Ok(if self.big { u32::from_be_bytes(*bytes) } else { u32::from_le_bytes(*bytes) })
    }

    pub(super) fn u32(&mut self) -> Result<u32, Failure> {
        self.align(4);
        let number = self.u32_at(self.at)?;
        self.at += 4;
        Ok(number)
    }

    pub(super) fn text(&mut self) -> Result<String, Failure> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub(super) fn short_text(&mut self) -> Result<String, Failure> {
        let length = self.byte()?.into();
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Result<String, Failure> {
        let bytes = self.bytes.get(self.at..).and_then(|rest| rest.get(..length)).ok_or(Failure::CUT)?;
        self.at += length + 1;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    pub(super) fn words(&mut self, signature: &str) -> Result<Vec<String>, Failure> {
        let mut words = Vec::new();
        for kind in signature.chars() {
            match kind {
                's' | 'o' => words.push(self.text()?),
                'u' => words.push(self.u32()?.to_string()),
                _ => break,
            }
        }
        Ok(words)
    }
}
