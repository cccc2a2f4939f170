//! Artifacts: files by their titles, for image volumes.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use image_service::digest::Digest;
use image_service::manifest::Descriptor;
use image_service::{Error, Outcome, Repair, Verifying};
use serde_json::json;
use tokio::sync::watch;

use crate::support::docker_registry;
use crate::support::fake::{Fake, Manner, Reply};
use crate::support::picture::{OCI_MANIFEST, Picture, noise};
use crate::support::shelf::{Node, Shelf, image, request, serving, tar};

/// As `oras push` makes it: an empty configuration, and a layer a file.
fn artifact(files: &[(&str, &str)]) -> Picture {
    let mut blobs = BTreeMap::new();
    let mut add = |media_type: &str, bytes: &[u8]| {
        let descriptor = Descriptor::new(media_type, Digest::sha256(bytes), bytes.len() as u64);
        blobs.insert(descriptor.digest.clone(), bytes.to_vec());
        descriptor
    };
    let config = add("application/vnd.oci.empty.v1+json", b"{}");
    let layers: Vec<Descriptor> = files
        .iter()
        .map(|(title, data)| {
            let mut layer = add("text/plain", data.as_bytes());
            layer.annotations.insert("org.opencontainers.image.title".to_owned(), (*title).to_owned());
            layer
        })
        .collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "x/model",
        "config": config, "layers": layers});
    let layer = layers.first().cloned().unwrap_or_else(|| config.clone());
    let mut picture = Picture { blobs, manifests: BTreeMap::new(), config, layer, top: Digest::sha256(b"") };
    picture.put(OCI_MANIFEST, &manifest);
    picture
}

#[tokio::test]
async fn an_artifact_is_a_directory_of_its_files() {
    let picture = artifact(&[("model.bin", "weights"), ("docs/a/read me", "text"), ("docs/empty", "")]);
    let other = artifact(&[("other", "x")]);
    let dir = tempfile::tempdir().unwrap();
    let registry = docker_registry::DockerRegistry::start(&dir.path().join("storage"), "", "");
    registry.push("m", "1", &picture);
    registry.push("m", "2", &other);
    let node = Node::new(&registry.host());
    let images = node.open().await;
    let pulled = images.pull(request("one.test/m:1")).await.unwrap();
    // Its configuration is the same as every artifact's, so that can't be its id.
    assert_eq!(images.pull(request("one.test/m:2")).await.unwrap().id, other.top.to_string());
    assert_eq!((pulled.id.as_str(), pulled.is_artifact()), (picture.top.as_str(), true));
    assert_eq!(pulled.repo_digests, [format!("one.test/m@{}", picture.top)]);
    assert_eq!(pulled.layers[0].inodes, 5);
    let plan = images.make_writable("volume", &pulled).await.unwrap();
    let [lower] = &plan.lower[..] else { panic!("{plan:?}") };
    for (path, text) in [("model.bin", "weights"), ("docs/a/read me", "text"), ("docs/empty", "")] {
        assert_eq!(std::fs::read_to_string(lower.join(path)).unwrap(), text);
        assert_eq!(std::fs::metadata(lower.join(path)).unwrap().permissions().mode() & 0o7777, 0o644);
    }
    // A restart finds it, and it can be proven and mended like an image.
    drop(images);
    let images = node.open().await;
    assert_eq!(images.find("one.test/m:1").unwrap().id, pulled.id);
    images.unmake_writable("volume").await.unwrap();
    let verify =
        async || images.verify(&[], &Repair::mend(), watch::channel(Verifying::default()).0).await.unwrap();
    assert_eq!(verify().await.findings, []);
    std::fs::write(lower.join("model.bin"), "weighty").unwrap();
    let found = verify().await.findings;
    assert_eq!((found[0].why.as_str(), &found[0].outcome), ("model.bin has changed", &Outcome::Mended));
    assert_eq!(std::fs::read_to_string(lower.join("model.bin")).unwrap(), "weights");
    for name in ["one.test/m:1", "one.test/m:2"] {
        images.remove(name).await.unwrap();
    }
    node.check_empty().await;
}

#[tokio::test]
async fn hostile_artifacts_leave_nothing() {
    let mut wrong = artifact(&[("a", "right")]);
    wrong.blobs.insert(wrong.layer.digest.clone(), b"wrong".to_vec());
    let cases = [
        (artifact(&[("../escaped", "x")]), "leads elsewhere"),
        (artifact(&[("/etc/cron.d/x", "x")]), "is absolute"),
        (artifact(&[("a\0b", "x")]), "control characters"),
        (artifact(&[("a", "x"), ("a", "y")]), "another file has it already"),
        (artifact(&[("a", "x"), ("a/b", "y")]), "the name of its directory"),
        (artifact(&[]), "no titled file"),
        (wrong, "its digest is"),
    ];
    for (picture, why) in cases {
        let (_fake, node, images) = serving(&[("a:1", &picture)]).await;
        let error = images.pull(request("one.test/a:1")).await.unwrap_err();
        assert!(matches!(error, Error::Unusable { .. } | Error::Verification { .. }), "{error:?}");
        let told = format!("{error} {error:?}");
        assert!(told.contains(why), "{told} does not say {why}");
        node.check_empty().await;
    }
    // An image is none, however its layers are titled.
    let shelf = Shelf::default();
    shelf.put("a:1", &image(&[tar(&[("x", "")])], json!({})));
    let fake = shelf.serve();
    let pulled = Node::new(&fake.host());
    assert!(!pulled.open().await.pull(request("one.test/a:1")).await.unwrap().is_artifact());
}

#[tokio::test]
async fn what_came_of_a_large_file_is_not_asked_for_again() {
    let text: String = noise(400_000).iter().map(|byte| char::from(b' ' + byte % 95)).collect();
    let picture = artifact(&[("model/weights", &text), ("card", "x")]);
    let (served, blob) = (picture.clone(), picture.layer.digest.clone());
    let broken = Arc::new(AtomicBool::new(true));
    let now = broken.clone();
    let fake = Fake::start(move |seen| {
        let reply = served.answer(seen);
        match now.load(Ordering::SeqCst) && seen.path.ends_with(blob.as_str()) {
            true if seen.offset() == 0 => reply.manner(Manner::Cut(150_000)),
            true => Reply::new(404, ""),
            false => reply,
        }
    });
    let mut node = Node::new(&fake.host());
    (node.settings.parts_from_bytes, node.settings.parts_after) = (64 << 10, Duration::ZERO);
    let images = node.open().await;
    let error = images.pull(request("one.test/a:1")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    node.check_empty().await;
    assert_eq!(node.names("parts"), [picture.layer.digest.hex()]);
    drop(images);
    let images = node.open().await;
    broken.store(false, Ordering::SeqCst);
    let looked = fake.seen().len();
    let pulled = images.pull(request("one.test/a:1")).await.unwrap();
    let asked: Vec<usize> = fake.seen()[looked..]
        .iter()
        .filter(|seen| seen.path.ends_with(picture.layer.digest.as_str()))
        .map(crate::support::fake::Seen::offset)
        .collect();
    assert!(matches!(asked[..], [from] if from > 0 && from <= 150_000), "{asked:?}");
    let place = node.settings.root.join("layers").join(&pulled.id["sha256:".len()..]);
    assert!(std::fs::read_to_string(place.join("model/weights")).unwrap() == text, "other bytes");
    node.check_settled().await;
    assert_eq!(node.names("parts"), Vec::<String>::new());
    // A part that is wrong is found out, and the file fetched anew.
    images.remove(&pulled.id).await.unwrap();
    let part = node.settings.root.join("parts").join(picture.layer.digest.hex());
    std::fs::create_dir(&part).unwrap();
    std::fs::write(part.join("0"), vec![7; 100_000]).unwrap();
    images.pull(request("one.test/a:1")).await.unwrap();
    assert!(std::fs::read_to_string(place.join("model/weights")).unwrap() == text, "other bytes");
}

#[tokio::test]
async fn files_come_side_by_side() {
    let picture = artifact(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
    let served = picture.clone();
    let (waiting, alone) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, found) = (waiting.clone(), alone.clone());
    let fake = Fake::start(move |seen| {
        if seen.path.contains("/blobs/") && count.fetch_add(1, Ordering::SeqCst) < 3 {
            let until = Instant::now() + Duration::from_secs(5);
            while count.load(Ordering::SeqCst) < 3 {
                if Instant::now() > until {
                    found.store(true, Ordering::SeqCst);
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        served.answer(seen)
    });
    let node = Node::new(&fake.host());
    let images = node.open().await;
    let pulled = images.pull(request("one.test/a:1")).await.unwrap();
    assert!(!alone.load(Ordering::SeqCst), "one after the other");
    assert_eq!(waiting.load(Ordering::SeqCst), 4);
    assert_eq!(pulled.layers[0].inodes, 4);
}
