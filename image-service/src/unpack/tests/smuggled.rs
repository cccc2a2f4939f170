//! Archives that two readers could read differently: what one takes for data, the other must not take for
//! entries (the class of CVE-2025-62518). Go's archive/tar is the reader that all others are measured by.

use super::*;

/// Whether what lies in the data of an entry is made, too, and whether what comes after the data is.
fn hidden_and_next(kind: u8, name: &str) -> (bool, bool) {
    let hidden = Tar::default().file("hidden", "x").0;
    let tar = Tar::default().file("target", "").raw(kind, name.as_bytes(), b"target", 1024, &hidden, 0o755);
    let (place, _) = good(tar.file("next", "n"));
    (place.layer().join("hidden").exists(), place.layer().join("next").exists())
}

#[test]
fn only_files_have_data_and_all_files_have() {
    for (kind, name, is_data) in [
        (b'0', "file", true),
        // A slash makes no directory of it, except in archives from before POSIX.
        (b'0', "file/", true),
        (b'7', "file/", true),
        (0, "file", true),
        (0, "dir/", false),
        (b'1', "link", false),
        (b'2', "link", false),
        (b'3', "device", false),
        (b'4', "device", false),
        (b'5', "dir", false),
        (b'6', "fifo", false),
    ] {
        let found = hidden_and_next(kind, name);
        assert_eq!(found, (!is_data, true), "type {:?} {name}", char::from(kind));
    }
}

#[test]
fn a_file_with_a_slash_is_a_file() {
    let (place, _) = good(Tar::default().file("d/f/", "content"));
    assert_eq!(read(&place, "d/f"), "content");
    let (place, _) = good(Tar::default().raw(0, b"d/", b"", 0, b"", 0o700));
    assert!(place.layer().join("d").is_dir());
}

#[test]
fn a_later_extended_header_replaces_an_earlier_one() {
    let twice = Tar::default()
        .pax(&[("size", b"0"), ("path", b"first"), ("uid", b"7"), ("SCHILY.xattr.user.a", b"1")])
        .pax(&[("SCHILY.xattr.user.b", b"2")])
        .file("plain", "content");
    let (place, _) = good(twice);
    assert_eq!(read(&place, "plain"), "content");
    assert_eq!(fs::metadata(place.layer().join("plain")).unwrap().uid(), 0);
    assert_eq!((place.xattr("plain", "user.a"), place.xattr("plain", "user.b")), (None, Some(b"2".to_vec())));
    // GNU's names are told by headers of their own, and are heard over PAX's, wherever they stand.
    let (place, _) =
        good(Tar::default().long_name(b"gnu").pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("c", "x"));
    assert_eq!(read(&place, "gnu"), "x");
    let (place, _) = good(Tar::default().long_name(b"").file("c", "x"));
    assert_eq!(read(&place, "c"), "x");
}

#[test]
fn a_global_header_is_the_entry_that_headers_before_it_speak_of() {
    let global = |tar: Tar| tar.raw(b'g', b"pax_global_header", b"", 0, b"", 0o644);
    let pax = Tar::default().pax(&[("size", b"0"), ("path", b"other")]);
    let (place, _) = good(global(pax).file("c", "x").file("next", "n"));
    assert_eq!((read(&place, "c"), read(&place, "next")), ("x".to_owned(), "n".to_owned()));
    let (place, _) = good(global(Tar::default().long_name(b"gnu")).file("c", "x"));
    assert_eq!(read(&place, "c"), "x");
}

#[test]
fn attributes_of_one_entry_have_a_bound_however_many_headers_tell_them() {
    let value = vec![b'v'; 900_000];
    let mut tar = Tar::default();
    for n in 0..64 {
        tar = tar.pax(&[(&format!("SCHILY.xattr.user.{n}"), &value[..])]);
    }
    let tar = tar.file("a", "").end();
    let mut archive = archive::Archive::new(diff(&tar), 1000);
    let entry = archive.next_entry().unwrap().unwrap();
    let held: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(held < 1 << 20, "{held} bytes are held");
    let names: Vec<String> = (0..9000).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
    let records: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    refused(Tar::default().pax(&records).file("a", ""), "names of its extended attributes");
}

fn diff(bytes: &[u8]) -> stream::Diff<stream::Inflater<&[u8]>> {
    let source = stream::Source::new(bytes, crate::digest::Algorithm::Sha256);
    let inflater = stream::Inflater::new(decrypt::Packed::new(source, None)).unwrap();
    stream::Diff::new(inflater, crate::digest::Algorithm::Sha256, Limits::new(u64::MAX))
}
