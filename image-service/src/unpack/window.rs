//! How much a zstd frame asks its decoder to remember of what it wrote: its window (RFC 8878, 3.1.1.1.2), which is the
//! memory that the decoder takes.

/// What every decoder should have room for (RFC 8878, 3.1.1.1.2): 8 MiB. What `zstd` asks for up to level 19, and Go's
/// zstd, which builders of images use, unless it is told to pack as well as it can (32 MiB).
pub(crate) const USUAL_LOG: u32 = 23;
/// The most that is ever given, and what `zstd --ultra -22` and `--long` ask for: 128 MiB, the format's own default for
/// decoders.
pub(crate) const LARGEST_LOG: u32 = 27;

/// The longest header of a frame: magic, descriptor, window, dictionary, size of the content.
pub(crate) const HEADER_BYTES: usize = 18;

/// What the first bytes of a layer say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It is no zstd.
    Nothing,
    Bytes(u64),
    /// A frame to be skipped comes first, or too little has come.
    Unknown,
}

pub(crate) fn asked(start: &[u8]) -> Asked {
    match start {
        [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] => {
            of_frame(*descriptor, rest).map_or(Asked::Unknown, Asked::Bytes)
        }
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Asked::Unknown,
        _ => Asked::Nothing,
    }
}

fn of_frame(descriptor: u8, rest: &[u8]) -> Option<u64> {
    let has_single_segment = descriptor & 1 << 5 != 0;
    if !has_single_segment {
        let window = u64::from(*rest.first()?);
        let base = 1 << (10 + (window >> 3));
        return Some(base + base / 8 * (window & 7));
    }
    // All of it is one segment, whose size is the window: after the dictionary's number.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let bytes = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let size = rest.get(dictionary..dictionary + bytes)?;
    let size = size.iter().rev().fold(0, |size: u64, byte| size << 8 | u64::from(*byte));
    Some(if bytes == 2 { size + 256 } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_s_header_says_what_its_decoder_must_remember() {
        let frame = |bytes: &[u8]| asked(&[&[0x28, 0xb5, 0x2f, 0xfd], bytes].concat());
        assert_eq!(frame(&[0, 13 << 3]), Asked::Bytes(8 << 20));
        assert_eq!(frame(&[0, 17 << 3]), Asked::Bytes(128 << 20));
        assert_eq!(frame(&[0, 10 << 3 | 3]), Asked::Bytes((1 << 20) + 3 * (1 << 17)));
        assert_eq!(frame(&[0x20, 200]), Asked::Bytes(200));
        assert_eq!(frame(&[0x60, 1, 1]), Asked::Bytes(256 + 257));
        assert_eq!(frame(&[0xa3, 9, 9, 9, 9, 0, 0, 0, 1]), Asked::Bytes(1 << 24));
        assert_eq!(frame(&[0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80]), Asked::Bytes(1 << 63));
        for short in [&[][..], &[0], &[0xa3, 9, 9, 9, 9, 0, 0, 0]] {
            assert_eq!(frame(short), Asked::Unknown, "{short:?}");
        }
        assert_eq!(asked(&[0x5a, 0x2a, 0x4d, 0x18, 0]), Asked::Unknown);
        for other in [&b""[..], &[0x1f, 0x8b], b"ustar"] {
            assert_eq!(asked(other), Asked::Nothing, "{other:?}");
        }
    }

    #[test]
    fn what_the_library_packs_says_what_it_asks_for() {
        for (level, bytes, most) in [(3, 10 << 20, 4 << 20), (19, 20 << 20, 8 << 20), (1, 1000, 1000)] {
            let packed = zstd::bulk::compress(&vec![7; bytes], level).unwrap();
            let Asked::Bytes(window) = asked(&packed) else { panic!("{packed:02x?}") };
            assert!(window > 0 && window <= most, "level {level}: {window}");
        }
    }
}
