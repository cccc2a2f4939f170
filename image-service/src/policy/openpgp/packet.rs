//! Packets (RFC 9580, 4.2): a tag and a body, with lengths of the old and the new form.

use super::Bad;

pub(super) const SIGNATURE: u8 = 2;
pub(super) const ONE_PASS: u8 = 4;
pub(super) const PUBLIC_KEY: u8 = 6;
pub(super) const COMPRESSED: u8 = 8;
pub(super) const MARKER: u8 = 10;
pub(super) const LITERAL: u8 = 11;
pub(super) const USER_ID: u8 = 13;
pub(super) const PUBLIC_SUBKEY: u8 = 14;
pub(super) const USER_ATTRIBUTE: u8 = 17;

/// The packets of some bytes, one after another; ends after the first that is none.
pub(super) struct Packets<'a> {
    rest: &'a [u8],
}

enum Length {
    Whole(usize),
    /// More is to come after so many bytes.
    Part(usize),
    /// To the end of everything.
    Rest,
}

impl<'a> Packets<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Packets<'a> {
        Packets { rest: bytes }
    }

    fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.bytes(1)?[0];
        match first >> 6 {
            0b11 => Some((first & 0x3f, self.new_body()?)),
            0b10 => {
                let length = self.old_length(first & 3)?;
                Some((first >> 2 & 0xf, self.body(&length)?.to_vec()))
            }
            _ => None,
        }
    }

    fn new_body(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let length = self.new_length()?;
            body.extend_from_slice(self.body(&length)?);
            match length {
                Length::Part(_) => {}
                Length::Whole(_) | Length::Rest => return Some(body),
            }
        }
    }

    fn old_length(&mut self, kind: u8) -> Option<Length> {
        match kind {
            3 => Some(Length::Rest),
            kind => self.number(1 << kind).map(Length::Whole),
        }
    }

    fn new_length(&mut self) -> Option<Length> {
        let first = self.number(1)?;
        match first {
            0..192 => Some(Length::Whole(first)),
            192..224 => Some(Length::Whole(((first - 192) << 8) + self.number(1)? + 192)),
            224..255 => Some(Length::Part(1 << (first & 0x1f))),
            _ => self.number(4).map(Length::Whole),
        }
    }

    fn body(&mut self, length: &Length) -> Option<&'a [u8]> {
        match *length {
            Length::Whole(length) | Length::Part(length) => self.bytes(length),
            Length::Rest => Some(std::mem::take(&mut self.rest)),
        }
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.bytes(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }
}

impl Iterator for Packets<'_> {
    type Item = Result<(u8, Vec<u8>), Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let packet = self.packet();
        if packet.is_none() {
            self.rest = &[];
        }
        Some(packet.ok_or(Bad::Form))
    }
}

/// A big number as OpenPGP writes it: its bits, then its bytes. Gives it without leading zeros.
pub(super) fn mpi<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (bits, after) = rest.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*bits)).div_ceil(8);
    let (number, after) = after.split_at_checked(length)?;
    *rest = after;
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    Some(&number[zeros..])
}

/// The number with zeros before it, so that it has this length.
pub(super) fn padded(number: &[u8], length: usize) -> Option<Vec<u8>> {
    let zeros = length.checked_sub(number.len())?;
    let mut padded = vec![0; zeros];
    padded.extend_from_slice(number);
    Some(padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_all_forms_are_read_and_lies_are_not() {
        let check = |bytes: &[u8], answer: Option<(u8, usize)>| {
            let found = Packets::new(bytes).next().unwrap().ok().map(|(tag, body)| (tag, body.len()));
            assert_eq!(found, answer, "{bytes:?}");
        };
        let with = |head: &[u8], length: usize| [head, &vec![0; length]].concat();
        check(&with(&[0xcb, 5], 5), Some((LITERAL, 5)));
        check(&with(&[0xcb, 192, 0], 192), Some((LITERAL, 192)));
        check(&with(&[0xcb, 255, 0, 0, 1, 0], 256), Some((LITERAL, 256)));
        check(&[0xcb, 0xe1, 7, 7, 1, 7], Some((LITERAL, 3)));
        check(&with(&[0xac, 5], 5), Some((LITERAL, 5)));
        check(&with(&[0xad, 0, 5], 5), Some((LITERAL, 5)));
        check(&with(&[0xae, 0, 0, 0, 5], 5), Some((LITERAL, 5)));
        check(&with(&[0xa3], 9), Some((COMPRESSED, 9)));
        for lie in [
            &[0xcb, 5][..],
            &[0xcb],
            &[0xcb, 255, 255, 255, 255, 255],
            &[0xcb, 0xe1, 7, 7],
            &[0x0b, 0],
            &[0xad, 1],
        ] {
            check(lie, None);
        }
    }

    #[test]
    fn big_numbers_keep_within_their_bytes() {
        let check = |mut bytes: &[u8], answer: Option<&[u8]>| assert_eq!(mpi(&mut bytes), answer);
        check(&[0, 9, 1, 2], Some(&[1, 2]));
        check(&[0, 16, 0, 2], Some(&[2]));
        check(&[0, 0], Some(&[]));
        check(&[0, 9, 1], None);
        check(&[255, 255, 1], None);
        check(&[1], None);
        assert_eq!(padded(&[1], 3), Some(vec![0, 0, 1]));
        assert_eq!(padded(&[1, 2], 1), None);
    }
}
