//! A raw header block of a tar, and its fields.

use super::BLOCK;
use crate::unpack::error::{Error, Refusal};

/// A raw header block, its checksum checked.
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    /// POSIX sums unsigned bytes; some old programs summed signed ones.
    pub(super) fn has_checksum(&self) -> bool {
        let Some(said) = self.number(148..156) else { return false };
        let bytes = || self.0[..148].iter().chain([b' '; 8].iter()).chain(&self.0[156..]);
        let unsigned: u64 = bytes().map(|b| u64::from(*b)).sum();
        let signed = || bytes().map(|b| i64::from(*b as i8)).sum::<i64>();
        said == unsigned || i64::try_from(said) == Ok(signed())
    }

    /// Octal text, or GNU's base 256 where the first bit is set. Empty is zero; None when it is neither,
    /// negative, or too large.
    pub(super) fn number(&self, field: std::ops::Range<usize>) -> Option<u64> {
        let field = &self.0[field];
        if field[0] & 0x80 != 0 {
            return u64::try_from(base_256(field)?).ok();
        }
        let is_filler = |b: &u8| *b == b' ' || *b == 0;
        let Some(start) = field.iter().position(|b| !is_filler(b)) else { return Some(0) };
        let end = field.iter().rposition(|b| !is_filler(b)).map_or(start, |last| last + 1);
        // Filler inside is nothing that two readers would read alike, but behind a NUL nobody reads.
        let text = std::str::from_utf8(until_nul(&field[start..end])).ok()?;
        if text.starts_with('+') { None } else { u64::from_str_radix(text, 8).ok() }
    }

    /// The modification time, the one number that may lie before 1970.
    pub(super) fn seconds(&self) -> Option<i64> {
        let field = &self.0[136..148];
        if field[0] & 0x80 != 0 { base_256(field) } else { i64::try_from(self.number(136..148)?).ok() }
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        let prefix = until_nul(&self.0[345..500]);
        // GNU's own format (`ustar  `) has other things where POSIX has the prefix.
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        until_nul(&self.0[157..257]).to_vec()
    }

    pub(super) fn refused(&self, why: Refusal) -> Error {
        Error::refused(&self.path(), why)
    }
}

/// Two's complement, big-endian, the marker bit taken off.
fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let start = if negative { -1i128 } else { 0 };
    let value = std::iter::once(first)
        .chain(field[1..].iter().copied())
        .try_fold(start, |value, byte| value.checked_mul(256).map(|value| value | i128::from(byte)))?;
    i64::try_from(value).ok()
}

pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        let check = |field: &[u8], number: Option<u64>| {
            let mut header = Header([0; BLOCK]);
            header.0[124..124 + field.len()].copy_from_slice(field);
            assert_eq!(header.number(124..136), number, "{field:?}");
        };
        check(b"00000000017\0", Some(15));
        check(b"   17 ", Some(15));
        check(b"", Some(0));
        check(b"18", None);
        check(b"1 7", None);
        check(b"17\x001", Some(15));
        check(b"-1", None);
        check(b"+1", None);
        check(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2], Some(258));
        check(&[0xff; 12], None);
        check(&[0xbf; 12], None);
    }
}
