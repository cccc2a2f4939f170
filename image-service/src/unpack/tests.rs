//! Archives, honest and hostile, against the real kernel. Needs root, as unpacking does.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fd::AsFd;

use super::*;

mod games;
mod smuggled;

/// Raw blocks, so that archives can lie.
#[derive(Clone, Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn raw(mut self, kind: u8, name: &[u8], link: &[u8], size: u64, data: &[u8], mode: u32) -> Tar {
        let mut block = [0u8; 512];
        let short = &name[..name.len().min(100)];
        block[..short.len()].copy_from_slice(short);
        let mut put = |at: usize, text: String| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(100, format!("{mode:07o}"));
        put(108, format!("{:07o}", 0));
        put(116, format!("{:07o}", 0));
        put(124, format!("{size:011o}"));
        put(136, format!("{:011o}", 1_000_000_000));
        put(257, "ustar".to_owned());
        put(263, "00".to_owned());
        block[156] = kind;
        let link = &link[..link.len().min(100)];
        block[157..157 + link.len()].copy_from_slice(link);
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(data);
        let padding = data.len().wrapping_neg() % 512;
        self.0.resize(self.0.len() + padding, 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Tar {
        self.raw(b'0', name.as_bytes(), b"", data.len() as u64, data.as_bytes(), 0o644)
    }

    fn directory(self, name: &str, mode: u32) -> Tar {
        self.raw(b'5', name.as_bytes(), b"", 0, b"", mode)
    }

    fn symlink(self, name: &str, target: &str) -> Tar {
        self.raw(b'2', name.as_bytes(), target.as_bytes(), 0, b"", 0o777)
    }

    fn hard_link(self, name: &str, target: &str) -> Tar {
        self.raw(b'1', name.as_bytes(), target.as_bytes(), 0, b"", 0o644)
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let digits = (rest + 1).to_string().len();
            let length =
                if (rest + digits).to_string().len() > digits { rest + digits + 1 } else { rest + digits };
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.raw(b'x', b"PaxHeaders/x", b"", body.len() as u64, &body, 0o644)
    }

    fn long_name(self, name: &[u8]) -> Tar {
        let body = [name, b"\0"].concat();
        self.raw(b'L', b"././@LongLink", b"", body.len() as u64, &body, 0o644)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A layer's directory inside a directory that must stay as it is.
struct Place {
    outside: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("layer")).unwrap();
        fs::write(outside.path().join("secret"), "untouched").unwrap();
        Place { outside }
    }

    fn layer(&self) -> std::path::PathBuf {
        self.outside.path().join("layer")
    }

    fn unpack(&self, packed: &[u8], plain: &[u8]) -> Result<Unpacked, Error> {
        let expected = Expected {
            digest: Some(Digest::sha256(packed)),
            size: Some(packed.len() as u64),
            diff_id: Digest::sha256(plain),
        };
        self.unpack_as(packed, &expected)
    }

    fn unpack_as(&self, packed: &[u8], expected: &Expected) -> Result<Unpacked, Error> {
        let limits = Limits { bytes: 3 << 30, entries: 2000, unsuspicious: 16 << 20 };
        let result = unpack(packed, open_root(&self.layer()).unwrap(), expected, limits, || ());
        self.check_outside();
        result
    }

    fn check_outside(&self) {
        let secret = self.outside.path().join("secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "untouched");
        let metadata = fs::metadata(&secret).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o7777, metadata.nlink()), (0o644, 1));
        let mut names: Vec<_> =
            fs::read_dir(self.outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["layer", "secret"]);
    }

    fn xattr(&self, name: &str, attribute: &str) -> Option<Vec<u8>> {
        let mut value = [0u8; 256];
        let n = rustix::fs::lgetxattr(self.layer().join(name), attribute, &mut value[..]).ok()?;
        Some(value[..n].to_vec())
    }
}

fn good(tar: Tar) -> (Place, Unpacked) {
    let place = Place::new();
    let tar = tar.end();
    let unpacked = place.unpack(&tar, &tar).unwrap();
    (place, unpacked)
}

/// The archive is refused for this reason, and nothing outside is touched.
fn refused(tar: Tar, reason: &str) {
    let tar = tar.end();
    let error = Place::new().unpack(&tar, &tar).unwrap_err().to_string();
    assert!(error.contains(reason), "{error:?} does not say {reason:?}");
}

fn read(place: &Place, name: &str) -> String {
    fs::read_to_string(place.layer().join(name)).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn everything_an_archive_says_is_made() {
    let tar = Tar::default()
        .directory("./", 0o750)
        .directory("bin/", 0o755)
        .raw(b'0', b"bin/su", b"", 2, b"su", 0o4755)
        .hard_link("bin/also", "bin/su")
        .symlink("sbin", "bin")
        .file("etc/implied/file", "x")
        .pax(&[("uid", b"1000"), ("gid", b"2097152"), ("mtime", b"1234.5"), ("SCHILY.xattr.user.a", b"b\0c")])
        .file("owned", "mine")
        .raw(b'6', b"fifo", b"", 0, b"", 0o600)
        .directory("read-only/", 0o500)
        .file("read-only/file", "y");
    let (place, unpacked) = good(tar);
    let at = |name: &str| fs::symlink_metadata(place.layer().join(name)).unwrap();
    assert_eq!(at("").mode() & 0o7777, 0o750);
    assert_eq!(at("bin/su").mode() & 0o7777, 0o4755);
    assert_eq!(at("bin/su").ino(), at("bin/also").ino());
    assert_eq!(fs::read_link(place.layer().join("sbin")).unwrap(), Path::new("bin"));
    assert_eq!(at("etc/implied").mode() & 0o7777, 0o755);
    assert_eq!((at("owned").uid(), at("owned").gid()), (1000, 2_097_152));
    assert_eq!((at("owned").mtime(), at("owned").mtime_nsec()), (1234, 500_000_000));
    assert_eq!(place.xattr("owned", "user.a").unwrap(), b"b\0c");
    assert!(at("fifo").file_type().is_fifo());
    assert_eq!((at("read-only").mode() & 0o7777, at("read-only").mtime()), (0o500, 1_000_000_000));
    assert_eq!(read(&place, "read-only/file"), "y");
    assert!(unpacked.has_root && !unpacked.opaque_root);
    assert_eq!(unpacked.inodes, 10);
}

#[test]
fn a_directory_gives_what_lies_in_it_neither_its_group_nor_its_acl() {
    // Version 2; the owner may do all, the group read, others nothing.
    let entry = |tag: u16, may: u16| [&tag.to_le_bytes()[..], &may.to_le_bytes(), &[255; 4]].concat();
    let acl = [&2u32.to_le_bytes()[..], &entry(1, 7), &entry(4, 5), &entry(32, 0)].concat();
    let inside = |tar: Tar, dir: &str| {
        let tar = tar.directory(&format!("{dir}/sub"), 0o755).file(&format!("{dir}/file"), "x");
        tar.symlink(&format!("{dir}/link"), "x")
    };
    let check = |tar: Tar, dir: &str| {
        let (place, _) = good(inside(tar, dir));
        let at = |name: &str| fs::symlink_metadata(place.layer().join(dir).join(name)).unwrap();
        for name in ["sub", "file", "link"] {
            assert_eq!((at(name).uid(), at(name).gid()), (0, 0), "{dir}/{name}");
        }
        assert_eq!((at("sub").mode() & 0o7777, at("file").mode() & 0o7777), (0o755, 0o644), "{dir}");
        place
    };
    check(Tar::default().pax(&[("gid", b"8")]).directory("mail", 0o2775), "mail");
    check(Tar::default().directory("setgid", 0o2755), "setgid");
    let key = "SCHILY.xattr.system.posix_acl_default";
    let place = check(Tar::default().pax(&[(key, &acl)]).directory("acl", 0o755), "acl");
    let mut value = [0; 64];
    let kept = rustix::fs::getxattr(place.layer().join("acl"), "system.posix_acl_default", &mut value);
    assert_eq!(
        kept.map(|length| value[..length].to_vec()),
        Ok(acl),
        "the test needs a file system with ACLs"
    );
}

#[test]
fn gzip_and_zstd_are_told_by_their_bytes() {
    let plain = Tar::default().file("a", &"text".repeat(100_000)).end();
    let members = [gzip(&plain[..5000]), gzip(&plain[5000..])].concat();
    let zstd = zstd::encode_all(&plain[..], 3).unwrap();
    for packed in [gzip(&plain), members, zstd, plain.clone()] {
        // A size that nobody announced may be large, so a second thread helps.
        for size in [Some(packed.len() as u64), None] {
            let place = Place::new();
            let expected =
                Expected { digest: Some(Digest::sha256(&packed)), size, diff_id: Digest::sha256(&plain) };
            place.unpack_as(&packed, &expected).unwrap();
            assert_eq!(read(&place, "a").len(), 400_000);
        }
    }
}

#[test]
fn whiteouts_become_overlays_marks() {
    let tar = Tar::default()
        .file("dir/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/kept", "x")
        .directory("both", 0o755)
        .file(".wh.both", "")
        .file(".wh.later", "")
        .directory("later", 0o755)
        .file(".wh.replaced", "")
        .file("replaced", "new")
        .file("mine", "x")
        .file(".wh.mine", "")
        .file(".wh.way", "")
        .file("way/to/file", "x")
        .file(".wh..wh.plnk/1", "ignored");
    let (place, _) = good(tar);
    let gone = fs::symlink_metadata(place.layer().join("dir/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for opaque in ["opaque", "both", "later", "way"] {
        assert_eq!(place.xattr(opaque, tree::OPAQUE).unwrap(), b"y", "{opaque}");
    }
    assert_eq!(read(&place, "replaced"), "new");
    assert_eq!(read(&place, "mine"), "x");
}

#[test]
fn an_opaque_root_is_told_to_the_mount_plan() {
    assert!(good(Tar::default().file(".wh..wh..opq", "").file("a", "")).1.opaque_root);
}

#[test]
fn links_lead_nowhere_outside() {
    let place = Place::new();
    let up = "../".repeat(40);
    let outside = place.outside.path().display().to_string();
    let relative = format!("{up}{outside}");
    for target in [outside.clone(), relative, "..".to_owned(), "/".to_owned()] {
        let tar = Tar::default()
            .symlink("escape", &target)
            .file("escape/secret", "overwritten")
            .directory("escape/made", 0o777)
            .hard_link("escape/hard", "escape/secret")
            .end();
        let place = Place { outside: Place::new().outside };
        place.unpack(&tar, &tar).unwrap();
    }
    // CVE-2021-32760 and CVE-2026-33056: a directory entry over a link must not chmod its target.
    let (place, _) = good(Tar::default().symlink("d", "/").directory("d", 0o777).file("d/x", "y"));
    assert_eq!(read(&place, "d/x"), "y");
    assert!(fs::symlink_metadata(place.layer().join("d")).unwrap().is_dir());
    // A file entry over a link replaces the link.
    let (place, _) = good(Tar::default().symlink("f", &format!("{outside}/secret")).file("f", "new"));
    assert!(fs::symlink_metadata(place.layer().join("f")).unwrap().is_file());
    // A hard link to a link is the link, not what it points to.
    let (place, _) = good(Tar::default().symlink("l", &format!("{outside}/secret")).hard_link("h", "l"));
    assert!(fs::symlink_metadata(place.layer().join("h")).unwrap().is_symlink());
}

#[test]
fn names_that_climb_are_refused() {
    refused(Tar::default().file("../secret", "x"), "goes up");
    refused(Tar::default().file("a/../../secret", "x"), "goes up");
    refused(Tar::default().hard_link("a", "../secret"), "goes up");
    refused(Tar::default().hard_link("a", "/etc/passwd"), "hard link");
    refused(Tar::default().file("../.wh.secret", ""), "goes up");
    refused(Tar::default().file(".wh...", ""), "whiteout must name");
    refused(Tar::default().file(".wh..", ""), "whiteout must name");
    refused(Tar::default().file("a/.wh.", ""), "whiteout must name");
    refused(Tar::default().pax(&[("path", b"../secret")]).file("a", "x"), "goes up");
    refused(Tar::default().long_name(b"../secret").file("a", "x"), "goes up");
    let (place, _) = good(Tar::default().file("/absolute", "x"));
    assert_eq!(read(&place, "absolute"), "x");
}

#[test]
fn a_way_that_is_none_is_refused() {
    refused(Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", ""), "symbolic links");
    refused(Tar::default().file("f", "").file("f/x", ""), "no directory");
    refused(Tar::default().symlink("./", "/etc"), "root of a layer");
    refused(Tar::default().raw(b'0', b".", b"", 0, b"", 0o644), "root of a layer");
}

#[test]
fn a_link_to_what_only_a_lower_layer_has_is_followed_inside() {
    let (place, _) = good(Tar::default().symlink("lib", "/usr/lib").file("lib/x/y", "z"));
    assert_eq!(read(&place, "usr/lib/x/y"), "z");
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let tar = Tar::default()
        .file("a", "first")
        .file("a", "second")
        .file("d/x/y", "old")
        .file("d", "now a file")
        .symlink("s", "a")
        .symlink("s", "d")
        .directory("e", 0o700)
        .file("e/kept", "k")
        .directory("e", 0o755);
    let (place, _) = good(tar);
    assert_eq!(read(&place, "a"), "second");
    assert_eq!(read(&place, "d"), "now a file");
    assert_eq!(read(&place, "s"), "now a file");
    assert_eq!(read(&place, "e/kept"), "k");
}

#[test]
fn a_pax_size_is_the_size() {
    // CVE-2025-62518: by the header the data is empty and an archive hides in it; by PAX it is data.
    let hidden = Tar::default().file("evil", "x").0;
    let size = hidden.len().to_string();
    let tar = Tar::default()
        .pax(&[("size", size.as_bytes())])
        .raw(b'0', b"data", b"", 0, &hidden, 0o644)
        .file("b", "b");
    let (place, _) = good(tar);
    assert_eq!(fs::read(place.layer().join("data")).unwrap(), hidden);
    assert!(!place.layer().join("evil").exists());
    assert_eq!(read(&place, "b"), "b");
}

#[test]
fn overlays_own_attributes_are_not_taken() {
    let tar = Tar::default()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ])
        .directory("d", 0o755);
    let (place, _) = good(tar);
    for name in ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.opaque"] {
        assert_eq!(place.xattr("d", name), None, "{name}");
    }
}

#[test]
fn numbers_that_mean_nothing_are_refused() {
    refused(Tar::default().pax(&[("uid", b"4294967295")]).file("a", ""), "out of range");
    refused(Tar::default().pax(&[("uid", b"99999999999")]).file("a", ""), "out of range");
    refused(Tar::default().pax(&[("size", b"18446744073709551615")]).file("a", ""), "out of range");
    refused(Tar::default().pax(&[("size", b"9223372036854775807")]).file("a", ""), "ends in the middle");
    refused(Tar::default().pax(&[("size", b"-1")]).file("a", ""), "malformed");
    refused(Tar::default().pax(&[("GNU.sparse.major", b"1")]).file("a", ""), "sparse");
    refused(Tar::default().raw(b'Z', b"a", b"", 0, b"", 0), "unknown");
    refused(Tar::default().raw(b'S', b"a", b"", 0, b"", 0), "sparse");
    refused(Tar::default().raw(b'x', b"a", b"", 8 << 30, b"", 0), "extended header is larger");
}

#[test]
fn names_and_headers_have_bounds() {
    let long = vec![b'n'; 65536];
    refused(Tar::default().long_name(&long).file("a", ""), "longer than");
    refused(Tar::default().pax(&[("path", &long)]).file("a", ""), "longer than");
    refused(Tar::default().pax(&[("linkpath", &long)]).symlink("a", "b"), "longer than");
    refused(Tar::default().raw(b'L', b"x", b"", 1 << 40, b"", 0), "longer than");
    let deep = "d/".repeat(1000) + "file";
    let (place, _) = good(Tar::default().long_name(deep.as_bytes()).file("a", "deep"));
    remove::tree_at(open_root(place.outside.path()).unwrap().as_fd(), b"layer").unwrap();
    assert!(!place.layer().exists());
}

#[test]
fn more_entries_than_allowed_are_refused() {
    let tar = (0..2001).fold(Tar::default(), |tar, n| tar.file(&format!("{n}"), ""));
    refused(tar, "more than 2000 entries");
    // Directories that only names imply count, too.
    let deep = |n: u32| format!("{n}/{}file", "d/".repeat(600));
    let tar = (0..4).fold(Tar::default(), |tar, n| tar.long_name(deep(n).as_bytes()).file("x", ""));
    refused(tar, "more than 2000 entries");
}

#[test]
fn bombs_are_refused() {
    // Within the limit, but from so few bytes of zstd that only a bomb explains it.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let zeros = vec![0u8; 1 << 20];
    let header = Tar::default().raw(b'0', b"big", b"", 3 << 30, b"", 0o644).0;
    encoder.write_all(&header).unwrap();
    for _ in 0..64 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let place = Place::new();
    let error = place.unpack(&bomb, b"").unwrap_err();
    assert!(matches!(error, Error::Bomb { .. }), "{error}");
}

#[test]
fn a_layer_larger_than_allowed_is_refused() {
    let tar = Tar::default().file("a", &"x".repeat(10_000)).end();
    let place = Place::new();
    let expected = Expected { digest: None, size: None, diff_id: Digest::sha256(&tar) };
    let limits = Limits { bytes: 5000, ..Limits::new(0) };
    let error = unpack(&tar[..], open_root(&place.layer()).unwrap(), &expected, limits, || ()).unwrap_err();
    assert!(matches!(error, Error::TooLarge(5000)), "{error}");
}

#[test]
fn what_is_not_what_was_announced_is_refused() {
    let tar = Tar::default().file("a", "x").end();
    let packed = gzip(&tar);
    let right = Expected {
        digest: Some(Digest::sha256(&packed)),
        size: Some(packed.len() as u64),
        diff_id: Digest::sha256(&tar),
    };
    let check = |expected: Expected, packed: &[u8], reason: &str| {
        let error = Place::new().unpack_as(packed, &expected).unwrap_err();
        assert!(error.to_string().contains(reason), "{error} does not say {reason}");
    };
    Place::new().unpack_as(&packed, &right).unwrap();
    check(Expected { digest: Some(Digest::sha256(b"")), ..right.clone() }, &packed, "its digest is");
    check(Expected { size: Some(1), ..right.clone() }, &packed, "its size is");
    check(Expected { diff_id: Digest::sha256(b""), ..right.clone() }, &packed, "diff ID");
    // Bytes after the archive are part of the digests, too.
    check(right.clone(), &[&packed[..], &gzip(b"more")].concat(), "its size is");
}

#[test]
fn a_stream_cut_anywhere_is_an_error() {
    let tar = Tar::default().file("a", &"text ".repeat(5000)).symlink("b", "a").directory("c", 0o755).end();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    for packed in [tar.clone(), gzip(&tar), zstd] {
        for cut in (0..packed.len()).step_by(packed.len() / 40 + 1) {
            let expected = Expected { digest: None, size: None, diff_id: Digest::sha256(&tar) };
            assert!(Place::new().unpack_as(&packed[..cut], &expected).is_err(), "cut at {cut}");
        }
    }
}

#[test]
fn a_flipped_byte_anywhere_is_an_error() {
    let tar = Tar::default().file("a", &"text ".repeat(500)).hard_link("b", "a").end();
    for packed in [tar.clone(), gzip(&tar)] {
        for at in (0..packed.len()).step_by(packed.len() / 60 + 1) {
            let mut flipped = packed.clone();
            flipped[at] ^= 0x41;
            let expected = Expected {
                digest: Some(Digest::sha256(&packed)),
                size: Some(packed.len() as u64),
                diff_id: Digest::sha256(&tar),
            };
            assert!(Place::new().unpack_as(&flipped, &expected).is_err(), "flipped at {at}");
        }
    }
}

#[test]
fn a_thread_that_waits_for_a_source_is_not_waited_for() {
    // A registry that sends a bad entry and then nothing more.
    let bytes = Tar::default().file("../climbs", "x").file("pad", &noise(2 << 20)).0;
    let packed = gzip(&bytes);
    let (mut writer, reader) = std::os::unix::net::UnixStream::pair().unwrap();
    let place = Place::new();
    let writing = std::thread::spawn(move || {
        _ = writer.write_all(&packed);
        writer
    });
    let stop = reader.try_clone().unwrap();
    let expected = Expected { digest: None, size: None, diff_id: Digest::sha256(b"") };
    let give_up = || stop.shutdown(std::net::Shutdown::Both).unwrap();
    let source = std::io::BufReader::new(reader);
    let error = unpack(source, open_root(&place.layer()).unwrap(), &expected, Limits::new(1 << 30), give_up);
    assert!(error.unwrap_err().to_string().contains("goes up"));
    drop(writing.join());
}

fn noise(length: usize) -> String {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        char::from(b'a' + (state >> 33) as u8 % 26)
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn removal_follows_no_link_and_knows_no_depth() {
    let place = Place::new();
    symlink(place.outside.path(), place.layer().join("link")).unwrap();
    fs::set_permissions(place.layer(), PermissionsExt::from_mode(0o000)).unwrap();
    // Deeper than any path, by going down a descriptor at a time.
    let mut here = open_root(&place.layer()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&here, "d", rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
        here = tree::open_child(&here, b"d").unwrap();
    }
    drop(here);
    remove::tree_at(open_root(place.outside.path()).unwrap().as_fd(), b"layer").unwrap();
    assert!(!place.layer().exists());
    assert_eq!(fs::read_to_string(place.outside.path().join("secret")).unwrap(), "untouched");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whatever bytes come, reading ends in entries or in an error.
    #[test]
    fn no_bytes_make_the_reader_panic(
        edits in proptest::collection::vec((0usize..4000, proptest::num::u8::ANY), 1..20),
        cut in 0usize..5000,
    ) {
        let tar = Tar::default()
            .pax(&[("path", b"a/b"), ("mtime", b"-1.5"), ("SCHILY.xattr.user.x", b"y")])
            .file("a", "text")
            .long_name(b"long/name")
            .symlink("l", "target")
            .end();
        let mut bytes = tar.clone();
        for (at, value) in edits {
            let at = at % bytes.len();
            bytes[at] = value;
            // A sum that fits again lets the change through to what reads the fields.
            let start = at / 512 * 512;
            let block = &mut bytes[start..start + 512];
            block[148..156].copy_from_slice(b"        ");
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        bytes.truncate(cut.min(bytes.len()));
        let place = Place::new();
        _ = place.unpack(&bytes, &bytes);
    }
}
