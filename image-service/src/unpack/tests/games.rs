//! The same tricks with every type of entry, and streams that are made to wear an unpacker out.

use std::io::{self, BufRead, Read};

use super::*;
use crate::unpack::stream::read_from_buffer;

const KINDS: [u8; 8] = *b"01234567";

fn entry(kind: u8, name: &str) -> Tar {
    Tar::default().raw(kind, name.as_bytes(), b"target", 0, b"", 0o777)
}

#[test]
fn no_type_of_entry_climbs() {
    for kind in KINDS {
        for name in ["../x", "a/../../x", "/../x", "a/..", "..", "a/.wh.../x"] {
            let tar = Tar::default().file("target", "").0;
            let tar = Tar([tar, entry(kind, name).0].concat()).end();
            let place = Place::new();
            // A whiteout's name is no way up, whatever it looks like.
            let result = place.unpack(&tar, &tar);
            assert_eq!(result.is_ok(), name == "a/.wh.../x", "{} {name}: {result:?}", char::from(kind));
        }
    }
}

#[test]
fn no_type_of_entry_goes_through_a_link_to_the_outside() {
    for kind in KINDS {
        for target in ["..", "/..", "../../../../../../tmp", "/proc/self/root", "/proc/self/cwd/.."] {
            let tar = Tar::default().file("target", "").symlink("escape", target).0;
            let tar = Tar([tar, entry(kind, "escape/secret").0, entry(kind, "escape/new").0].concat()).end();
            let place = Place::new();
            // Made inside or refused: the place itself checks that nothing outside has changed.
            _ = place.unpack(&tar, &tar);
            place.check_outside();
        }
    }
}

#[test]
fn no_type_of_entry_changes_what_a_link_of_its_name_points_to() {
    for kind in KINDS {
        let place = Place::new();
        let outside = place.outside.path().join("secret").display().to_string();
        let tar = Tar::default().file("target", "").symlink("name", &outside).0;
        let tar = Tar([tar, entry(kind, "name").0].concat()).end();
        place.unpack(&tar, &tar).unwrap();
        place.check_outside();
    }
}

#[test]
fn devices_are_nodes_of_the_layer_and_nothing_is_opened() {
    let device = |kind: u8, major: u32, minor: u32| {
        let mut block = Tar::default().raw(kind, b"dev/node", b"", 0, b"", 0o640).0;
        block[329..336].copy_from_slice(format!("{major:07o}").as_bytes());
        block[337..344].copy_from_slice(format!("{minor:07o}").as_bytes());
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block[..512].iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        Tar(block)
    };
    for (kind, major, minor) in [(b'3', 1, 3), (b'3', 10, 229), (b'4', 7, 0)] {
        let (place, _) = good(device(kind, major, minor));
        let node = fs::symlink_metadata(place.layer().join("dev/node")).unwrap();
        assert_eq!(node.file_type().is_char_device(), kind == b'3');
        assert_eq!(node.rdev(), rustix::fs::makedev(major, minor));
        assert_eq!(node.mode() & 0o7777, 0o640);
    }
    refused(device(b'3', 1 << 20, 0), "out of range");
    refused(device(b'4', 0, 1 << 20), "out of range");
}

/// Entries without end, made as they are asked for.
struct Endless {
    block: Vec<u8>,
    at: usize,
    given: u64,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_from_buffer(self, buffer)
    }
}

impl BufRead for Endless {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.block[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.given += n as u64;
        self.at = (self.at + n) % self.block.len();
    }
}

#[test]
fn entries_without_end_are_read_no_further_than_allowed() {
    let pax = Tar::default().pax(&[("comment", b"nothing")]);
    for (tar, least) in [
        (entry(b'0', ".wh..wh.x"), 512),
        (entry(b'5', "same"), 512),
        (entry(b'g', "global"), 512),
        // An extension for an entry that never comes.
        (pax, 1024),
    ] {
        let mut endless = Endless { block: tar.0, at: 0, given: 0 };
        let place = Place::new();
        let expected = Expected { digest: None, size: None, diff_id: Digest::sha256(b"") };
        let limits = Limits { entries: 20_000, ..Limits::new(u64::MAX) };
        let root = open_root(&place.layer()).unwrap();
        let error = unpack(&mut endless, root, &expected, limits, || ()).unwrap_err();
        assert!(matches!(error, Error::TooMany(20_000)), "{error}");
        assert!(endless.given <= 20_001 * least + (1 << 20), "{} bytes were read", endless.given);
    }
}

#[test]
#[ignore = "takes a while; by hand, in release"]
fn ten_million_entries_end_at_the_node_s_own_bound_in_little_memory() {
    let resident = || {
        let text = fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let mut endless = Endless { block: entry(b'5', "same").0, at: 0, given: 0 };
    let place = Place::new();
    let expected = Expected { digest: None, size: None, diff_id: Digest::sha256(b"") };
    let (root, before) = (open_root(&place.layer()).unwrap(), resident());
    let error = unpack(&mut endless, root, &expected, Limits::new(u64::MAX), || ()).unwrap_err();
    assert!(matches!(error, Error::TooMany(crate::unpack::MAX_ENTRIES)), "{error}");
    let more = resident().saturating_sub(before);
    println!("{} MiB of headers were read, {} MiB more are resident", endless.given >> 20, more >> 20);
    assert!(more < 64 << 20);
}

#[test]
fn what_is_packed_twice_or_otherwise_is_no_archive() {
    let tar = Tar::default().file("a", "x").end();
    let xz = b"\xfd7zXZ\0\0\x04".repeat(200);
    for packed in [gzip(&gzip(&tar)), zstd::encode_all(&gzip(&tar)[..], 3).unwrap(), xz, vec![b'x'; 5000]] {
        let expected = Expected { digest: None, size: None, diff_id: Digest::sha256(&tar) };
        let error = Place::new().unpack_as(&packed, &expected).unwrap_err();
        assert!(matches!(error, Error::Header(0) | Error::Truncated), "{error}");
    }
}

#[test]
fn a_window_that_asks_for_too_much_memory_is_refused() {
    // RFC 8878: magic, a header that says only a window, a window of 2 GiB, one empty block.
    let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3][..], &[1, 0, 0]].concat();
    let expected = Expected { digest: None, size: None, diff_id: Digest::sha256(b"") };
    let error = Place::new().unpack_as(&frame, &expected).unwrap_err();
    assert!(matches!(error, Error::Window(0x800_0000)), "{error}");
}
