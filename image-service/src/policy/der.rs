//! DER, as far as keys and certificates need it: elements one after another, each a tag and its content.
//! What is no DER gives None, never a panic.

/// What is left of a content.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Der<'a>(pub(crate) &'a [u8]);

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;

impl<'a> Der<'a> {
    /// The next element: its tag and its content.
    pub(crate) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // Longer lengths are of nothing that is read here.
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which must have this tag.
    pub(crate) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content) = self.next()?;
        (found == tag).then_some(content)
    }

    /// The same when it is there at all; else nothing is taken.
    pub(crate) fn maybe(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.take(tag) } else { None }
    }

    /// A sequence that is all there is.
    pub(crate) fn only(bytes: &'a [u8]) -> Option<Der<'a>> {
        let mut whole = Der(bytes);
        let content = whole.take(SEQUENCE)?;
        whole.0.is_empty().then_some(Der(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_lie_give_nothing() {
        assert_eq!(Der(&[0x04, 1, 7]).take(OCTET_STRING), Some(&[7][..]));
        assert_eq!(Der(&[0x04, 0x81, 1, 7]).take(OCTET_STRING), Some(&[7][..]));
        for bad in [
            &[][..],
            &[4],
            &[4, 1],
            &[4, 0x80],
            &[4, 0x84, 0, 0, 0, 0],
            &[4, 0x82, 1],
            &[4, 0x83, 255, 255, 255],
        ] {
            assert_eq!(Der(bad).take(OCTET_STRING), None, "{bad:?}");
        }
        assert!(Der::only(&[0x30, 0]).is_some() && Der::only(&[0x30, 0, 0]).is_none());
    }
}
