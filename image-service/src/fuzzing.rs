//! What the targets of `image-service/fuzz` call: every reader of text that a stranger wrote. Each must end
//! in a value or an error, and what it lets through must keep the promises that the rest relies on.

use std::path::Path;

use crate::auth::challenge;
use crate::digest::{Algorithm, Digest};
use crate::hosts_toml;
use crate::image::ImageConfig;
use crate::manifest::{self, Document, MAX_ENTRIES, MAX_LAYERS};
use crate::policy::Policy;
use crate::reference::Reference;
use crate::registries_conf::RegistriesConf;
use crate::unpack::Limits;
use crate::unpack::archive::Archive;
use crate::unpack::decrypt::Packed;
use crate::unpack::entry::Kind;
use crate::unpack::stream::{Diff, Inflater, Source};

/// A layer, packed in any way: no name in it climbs, and no more comes out than was allowed.
pub fn tar(bytes: &[u8]) {
    let limits = Limits { bytes: 8 << 20, entries: 1000, unsuspicious: 1 << 20 };
    let packed = Packed::new(Source::new(bytes, Algorithm::Sha256), None);
    let Ok(inflater) = Inflater::new(packed) else { return };
    let mut archive = Archive::new(Diff::new(inflater, Algorithm::Sha256, limits), limits.entries);
    let mut entries = 0;
    while let Ok(Some(entry)) = archive.next_entry() {
        entries += 1;
        assert!(entries <= limits.entries);
        stays_inside(&entry.path);
        if let Kind::HardLink { target } = &entry.kind {
            stays_inside(target);
        }
        let mut data = 0;
        let read = archive.data(|piece| {
            data += piece.len() as u64;
            Ok(())
        });
        assert!(read.is_err() || !matches!(entry.kind, Kind::File { size } if size != data));
    }
    assert!(archive.position() <= limits.bytes + (1 << 20));
}

fn stays_inside(path: &[u8]) {
    let climbs = |part: &[u8]| part == b".." || part == b"." || part.contains(&0);
    assert!(path.is_empty() || !path.split(|b| *b == b'/').any(|part| part.is_empty() || climbs(part)));
}

/// A manifest or an index; the first byte says what it was announced as.
pub fn manifest(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let kinds = manifest::MediaType::ALL.map(manifest::MediaType::as_str);
    let announced = kinds.get(usize::from(*first) % (kinds.len() + 1)).copied();
    match manifest::parse(bytes, announced) {
        Ok(Document::Manifest(image)) => {
            assert!(image.layers.len() <= MAX_LAYERS);
            image.layers.iter().for_each(|layer| plain(&layer.descriptor.digest));
            plain(&image.config.digest);
        }
        Ok(Document::Index(index)) => assert!(index.manifests.len() <= MAX_ENTRIES),
        Err(error) => _ = error.to_string(),
    }
    if let Ok(artifact) = manifest::parse_artifact(bytes, announced) {
        artifact.layers.iter().for_each(|layer| plain(&layer.digest));
    }
}

/// A digest becomes the name of a file.
fn plain(digest: &Digest) {
    assert!(digest.hex().bytes().all(|b| b.is_ascii_hexdigit()) && !digest.hex().is_empty());
}

/// An image's configuration.
pub fn config(bytes: &[u8]) {
    match ImageConfig::parse(bytes) {
        Ok((_, diff_ids)) => diff_ids.iter().for_each(plain),
        Err(error) => _ = error.to_string(),
    }
}

/// A name as the kubelet gives it: written out, it means the same again.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(reference) = Reference::parse(text) else { return };
    let again = Reference::parse(&reference.to_string()).expect("what was written out can be read");
    assert_eq!(again.to_string(), reference.to_string());
    assert!(!reference.path().contains("..") && !reference.domain().contains('/'));
}

/// `WWW-Authenticate` headers, a line each; and the scope that we ask for then.
pub fn challenge(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(challenge::Challenge::Bearer { realm, scope, .. }) = challenge::choose(text.lines()) {
        assert!(!realm.is_empty());
        let asked = challenge::pull_scope(&scope, "a/b");
        assert!(asked.split(' ').all(|part| part.ends_with(":pull")), "{asked}");
    }
}

/// `policy.json`, and what it says of an image.
pub fn policy(bytes: &[u8]) {
    if let Ok(policy) = Policy::parse(bytes) {
        let reference = Reference::parse("a.io/b/c:1").expect("a plain name");
        _ = policy.check(&reference).map_err(|refusal| refusal.to_string());
    }
}

/// What says that it is a signature, a key or a certificate.
pub fn signature(bytes: &[u8]) {
    crate::policy::read_signature(bytes);
}

/// How a layer is encrypted: a line of public options, then a JWE, for an EC key and an RSA key.
pub fn encryption(bytes: &[u8]) {
    crate::encryption::open_anything(bytes);
}

/// `registries.conf` and `hosts.toml`: an endpoint is a host and a path, whatever was rewritten.
pub fn registries_conf(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let references = ["a.io/b/c:1", "registry.example.com/x:1", "docker.io/library/busybox:latest"];
    let references = references.map(|name| Reference::parse(name).expect("a plain name"));
    let mut conf = RegistriesConf::default();
    if conf.add(text, Path::new("fuzz")).is_ok() {
        for reference in &references {
            for endpoint in conf.endpoints(reference).into_iter().flatten() {
                assert!(!endpoint.host.is_empty() && !endpoint.host.contains(['/', '@', '?', '#', ' ']));
                assert!(!endpoint.path.contains("..") && !endpoint.path.contains(['?', '#', '@', ' ']));
            }
        }
        for name in ["busybox", "x/y:1", "a.io/b"] {
            _ = conf.candidates(name);
        }
    }
    for reference in &references {
        for endpoint in hosts_toml::parse(text, reference).into_iter().flatten() {
            assert!(!endpoint.host.is_empty() && !endpoint.host.contains(['/', '@']));
        }
    }
}
