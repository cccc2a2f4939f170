//! Servers that lie, break, stall and flood: each ends in a named error, in bounded time and memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use image_service::digest::Digest;
use serde_json::json;

use super::*;
use crate::support::fake::{Fake, Manner, Reply, Seen};
use crate::support::picture::{OCI_INDEX, OCI_MANIFEST, Picture, noise};

/// A server that changes the good answer of the image for paths with this word.
fn spoiling(
    picture: &Picture,
    word: &'static str,
    spoil: impl Fn(Reply, &Seen) -> Reply + Send + Sync + 'static,
) -> Fake {
    let served = picture.clone();
    Fake::start(move |seen| {
        let reply = served.answer(seen);
        if seen.path.contains(word) { spoil(reply, seen) } else { reply }
    })
}

async fn pull_from(server: &Fake, selector: &str) -> Result<Pulled, Error> {
    pull(&client(&[&server.host()]), &format!("{}/a{selector}", server.host()), None).await
}

#[tokio::test]
async fn broken_connections_are_mended_where_they_broke() {
    let layer = noise(200_000);
    let picture = Picture::oci(&layer);
    let digest = picture.layer.digest.clone();
    let served = picture.clone();
    let server = Fake::start(move |seen| {
        let reply = served.answer(seen);
        if seen.path.ends_with(digest.as_str()) { reply.manner(Manner::Cut(30_000)) } else { reply }
    });
    let pulled = pull_from(&server, ":1").await.unwrap();
    assert!(pulled.layer == layer);
    let offsets: Vec<_> = server
        .seen()
        .iter()
        .filter(|s| s.path.ends_with(picture.layer.digest.as_str()))
        .map(Seen::offset)
        .collect();
    assert_eq!(offsets, [0, 30_000, 60_000, 90_000, 120_000, 150_000, 180_000]);
}

#[tokio::test]
async fn a_connection_that_brings_nothing_is_given_up() {
    let picture = Picture::oci(&noise(10_000));
    let server = spoiling(&picture, "blobs", |reply, _| reply.manner(Manner::Cut(0)));
    let error = pull_from(&server, ":1").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("broke at byte 0"), "{error}");
    assert_eq!(server.paths().iter().filter(|path| path.contains("blobs")).count(), 3);
}

#[tokio::test]
async fn silence_and_a_byte_now_and_then_are_told_from_slowness() {
    let picture = Picture::oci(&noise(10_000));
    let started = Instant::now();
    let silent = spoiling(&picture, "blobs", |reply, _| reply.manner(Manner::Silent(3)));
    let error = pull_from(&silent, ":1").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)) && error.to_string().contains("went silent"), "{error}");
    let drip = spoiling(&picture, "blobs", |reply, _| reply.manner(Manner::Drip(Duration::from_millis(50))));
    let error = pull_from(&drip, ":1").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)) && error.to_string().contains("went silent"), "{error}");
    let manifest =
        spoiling(&picture, "manifests", |reply, _| reply.manner(Manner::Drip(Duration::from_millis(50))));
    let error = pull_from(&manifest, ":1").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30), "took {:?}", started.elapsed());
}

#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let picture = Picture::oci(&noise(3000));
    let server =
        spoiling(&picture, "blobs", |reply, _| reply.manner(Manner::Drip(Duration::from_micros(100))));
    assert!(pull_from(&server, ":1").await.unwrap().layer == noise(3000));
}

#[tokio::test]
async fn a_busy_server_is_asked_again_when_it_says() {
    let picture = Picture::oci(b"layer");
    let served = picture.clone();
    let count = AtomicUsize::new(0);
    let server = Fake::start(move |seen| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(429, "").header("Retry-After", "1"),
        1 => Reply::new(503, ""),
        _ => served.answer(seen),
    });
    let started = Instant::now();
    pull_from(&server, ":1").await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    let busy = Fake::start(|_| Reply::new(429, "").header("Retry-After", "3600"));
    let error = pull_from(&busy, ":1").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)) && error.to_string().contains("429"), "{error}");
    assert_eq!(busy.seen().len(), 1);
}

#[tokio::test]
async fn a_manifest_that_is_not_its_digest_is_refused() {
    let picture = Picture::oci(b"layer");
    let (_, good) = picture.manifests[&picture.top].clone();
    let mut flipped = good.clone();
    flipped.push(b' ');
    let lie = move |_: Reply, _: &Seen| Reply::new(200, flipped.clone()).header("Content-Type", OCI_MANIFEST);
    let server = spoiling(&picture, "manifests", lie.clone());
    let error = pull_from(&server, &format!("@{}", picture.top)).await.unwrap_err();
    assert!(matches!(error, Error::Verification(_)), "{error}");
    let top = picture.top.clone();
    let header =
        spoiling(&picture, "manifests", move |r, s| lie(r, s).header("Docker-Content-Digest", top.as_str()));
    assert!(matches!(pull_from(&header, ":1").await.unwrap_err(), Error::Verification(_)));
    let odd = good.clone();
    let odd = spoiling(&picture, "manifests", move |_, _| {
        Reply::new(200, odd.clone())
            .header("Content-Type", OCI_MANIFEST)
            .header("Docker-Content-Digest", "sha256:../../x")
    });
    assert!(matches!(pull_from(&odd, ":1").await.unwrap_err(), Error::Invalid(_)));
    let sha512 = Digest::of(image_service::digest::Algorithm::Sha512, &good);
    let pinned = sha512.clone();
    let long =
        Picture { manifests: [(pinned, picture.manifests[&picture.top].clone())].into(), ..picture.clone() };
    let server = Fake::start(move |seen| long.answer(seen));
    assert_eq!(*pull_from(&server, &format!("@{sha512}")).await.unwrap().resolved.digest(), sha512);
}

#[tokio::test]
async fn an_index_cannot_lie_about_its_entries() {
    let good = Picture::oci(b"layer");
    let (_, child) = &good.manifests[&good.top];
    let platform = json!({"os": "linux", "architecture": "amd64"});
    for (size, media_type, word) in [
        (child.len() + 1, OCI_MANIFEST, "bytes and not"),
        (child.len(), "application/vnd.docker.distribution.manifest.v2+json", "announced as"),
        (child.len(), OCI_INDEX, "announced as"),
    ] {
        let mut picture = good.clone();
        let entry = json!({"mediaType": media_type, "digest": good.top, "size": size, "platform": platform});
        picture.put(OCI_INDEX, &json!({"schemaVersion": 2, "manifests": [entry]}));
        let server = Fake::start(move |seen| picture.answer(seen));
        let error = pull_from(&server, ":1").await.unwrap_err();
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

#[tokio::test]
async fn deep_and_foreign_indexes_are_refused() {
    let mut deep = Picture::oci(b"layer");
    for _ in 0..5 {
        deep = deep.indexed(OCI_INDEX, "linux/amd64");
    }
    let server = Fake::start(move |seen| deep.answer(seen));
    let error = pull_from(&server, ":1").await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains("nested too deep"), "{error}");
    let arm = Picture::oci(b"layer").indexed(OCI_INDEX, "linux/s390x");
    let server = Fake::start(move |seen| arm.answer(seen));
    let error = pull_from(&server, ":1").await.unwrap_err();
    assert!(
        error.to_string().contains("no image for linux/amd64; there are plan9/mips, linux/s390x"),
        "{error}"
    );
}

#[tokio::test]
async fn floods_are_cut_off() {
    let picture = Picture::oci(&noise(1000));
    let flood =
        Reply::new(200, vec![b' '; 1 << 16]).header("Content-Type", OCI_MANIFEST).manner(Manner::Endless);
    let endless = flood.clone();
    let server = spoiling(&picture, "manifests", move |_, _| endless.clone());
    let error = pull_from(&server, ":1").await.unwrap_err();
    assert!(matches!(error, Error::Verification(_)) && error.to_string().contains("longer than"), "{error}");
    let huge = spoiling(&picture, "manifests", |_, _| Reply::new(200, vec![b' '; 5 << 20]));
    assert!(pull_from(&huge, ":1").await.unwrap_err().to_string().contains("longer than"));
    let server = spoiling(&picture, "blobs", move |_, _| flood.clone());
    let error = pull_from(&server, ":1").await.unwrap_err();
    assert!(matches!(error, Error::Verification(_)) && error.to_string().contains("longer than"), "{error}");
    let errors = Fake::start(|_| Reply::new(404, vec![b'x'; 1 << 16]).manner(Manner::Endless));
    assert!(matches!(pull_from(&errors, ":1").await.unwrap_err(), Error::NotFound(_)));
}

#[tokio::test]
async fn a_blob_of_another_size_is_refused() {
    let picture = Picture::oci(&noise(1000));
    for bytes in [noise(999), noise(1001), Vec::new()] {
        let server = spoiling(&picture, "blobs", move |_, _| Reply::new(200, bytes.clone()));
        let error = pull_from(&server, ":1").await.unwrap_err();
        assert!(matches!(error, Error::Verification(_)), "{error}");
    }
    let longer = spoiling(&picture, "blobs", |_, _| Reply::new(200, noise(1001)).manner(Manner::Chunked));
    assert!(matches!(pull_from(&longer, ":1").await.unwrap_err(), Error::Verification(_)));
    let encoded = spoiling(&picture, "blobs", |reply, _| reply.header("Content-Encoding", "gzip"));
    assert!(matches!(pull_from(&encoded, ":1").await.unwrap_err(), Error::Invalid(_)));
}

#[tokio::test]
async fn a_configuration_that_is_not_its_digest_is_refused() {
    let picture = Picture::oci(b"layer");
    let config = picture.config.clone();
    let server = spoiling(&picture, "blobs", move |reply, seen| {
        if seen.path.ends_with(config.digest.as_str()) {
            Reply::new(200, vec![b'x'; config.size as usize])
        } else {
            reply
        }
    });
    assert!(matches!(pull_from(&server, ":1").await.unwrap_err(), Error::Verification(_)));
}

#[tokio::test]
async fn nonsense_is_an_error_of_its_kind() {
    let picture = Picture::oci(b"layer");
    let check = async |reply: Reply, word: &str| {
        let server = spoiling(&picture, "manifests", move |_, _| reply.clone());
        let error = pull_from(&server, ":1").await.unwrap_err();
        assert!(error.to_string().contains(word), "{word}: {error}");
        error
    };
    assert!(matches!(check(Reply::new(200, "<html>"), "not the JSON").await, Error::Invalid(_)));
    let html = Reply::new(200, r#"{"schemaVersion":2}"#).header("Content-Type", "text/html");
    assert!(matches!(check(html, "unknown type").await, Error::Invalid(_)));
    assert!(matches!(check(Reply::new(200, r#"{"schemaVersion":1}"#), "schema 1").await, Error::Invalid(_)));
    assert!(matches!(check(Reply::new(302, ""), "no target").await, Error::Invalid(_)));
    let to_file = Reply::new(302, "").header("Location", "file:///etc/passwd");
    assert!(matches!(check(to_file, "redirect").await, Error::Invalid(_)));
    assert!(matches!(check(Reply::new(418, ""), "418").await, Error::Invalid(_)));
    assert!(matches!(check(Reply::new(500, ""), "500").await, Error::Unavailable(_)));
    let denied = Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"pay first"}]}"#);
    assert!(matches!(check(denied, "DENIED: pay first").await, Error::Unauthorized(_)));
}

#[tokio::test]
async fn redirects_end() {
    let server = Fake::start(|seen| Reply::new(302, "").header("Location", seen.path.clone()));
    let error = pull_from(&server, ":1").await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains("too many"), "{error}");
    assert_eq!(server.paths().len(), 6);
}

#[tokio::test]
async fn urls_in_a_manifest_are_never_followed() {
    let trap = Fake::start(|_| Reply::new(200, "caught"));
    let mut picture = Picture::oci(b"layer");
    let (_, bytes) = &picture.manifests[&picture.top];
    let mut manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    manifest["layers"][0]["urls"] = json!([format!("http://{}/layer", trap.host())]);
    picture.blobs.remove(&picture.layer.digest);
    picture.put(OCI_MANIFEST, &manifest);
    let server = Fake::start(move |seen| picture.answer(seen));
    assert!(matches!(pull_from(&server, ":1").await.unwrap_err(), Error::NotFound(_)));
    assert!(trap.seen().is_empty());
}
