//! Uploads that break: they go on where the registry says, or from the start when it has forgotten.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image_service::digest::Digest;
use serde_json::json;

use super::*;
use crate::support::docker_registry::DockerRegistry;
use crate::support::fake::{Fake, Reply, Seen};
use crate::support::shelf::Node;

/// What is sent at once.
const PIECE: usize = 4 << 20;

/// A layout with one image of these bytes, into which nobody looks.
fn layout(dir: &std::path::Path, config: &[u8], layers: &[&[u8]]) -> String {
    let blobs = dir.join("layout/blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let config = put("application/vnd.oci.image.config.v1+json", config);
    let layers: Vec<_> =
        layers.iter().map(|layer| put("application/vnd.oci.image.layer.v1.tar", layer)).collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
    let entry = put(kind, manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(dir.join("layout/index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("layout/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    format!("oci:{}", dir.join("layout").display())
}

/// Text, since the fake keeps bodies as text; no two pieces of it are alike.
fn text(length: usize) -> Vec<u8> {
    (0..).flat_map(|n: u32| format!("{n:08x}").into_bytes()).take(length).collect()
}

/// A registry that takes uploads into memory and trips as `trip` says, by how many pieces came before.
struct Taking {
    got: Mutex<Vec<u8>>,
    pieces: AtomicUsize,
    trip: fn(usize, &Taking, &Seen) -> Option<Reply>,
}

impl Taking {
    fn serve(trip: fn(usize, &Taking, &Seen) -> Option<Reply>) -> (Arc<Taking>, Fake) {
        let taking = Arc::new(Taking { got: Mutex::default(), pieces: AtomicUsize::new(0), trip });
        let own = taking.clone();
        (taking, Fake::start(move |seen| own.answer(seen)))
    }

    fn answer(&self, seen: &Seen) -> Reply {
        let at = |reply: Reply| {
            let last = self.got.lock().unwrap().len().saturating_sub(1);
            reply.header("Location", "/up/1?state=x").header("Range", format!("0-{last}"))
        };
        match (seen.method.as_str(), seen.path.as_str()) {
            // The configuration is there, and empty as the answer: only the layer's pieces are looked at.
            ("HEAD", path) if path.ends_with(Digest::sha256(b"").as_str()) => Reply::new(200, ""),
            ("HEAD", _) => Reply::new(404, ""),
            ("POST", _) => {
                self.got.lock().unwrap().clear();
                at(Reply::new(202, ""))
            }
            ("PATCH", _) => {
                if let Some(reply) = (self.trip)(self.pieces.fetch_add(1, Ordering::SeqCst), self, seen) {
                    return reply;
                }
                self.take(seen, seen.body.len());
                at(Reply::new(202, ""))
            }
            ("GET", path) if path.starts_with("/up/") => at(Reply::new(204, "")),
            ("PUT", path) if path.starts_with("/up/") => {
                let digest = Digest::sha256(&self.got.lock().unwrap());
                assert!(path.ends_with(&format!("digest=sha256%3A{}", digest.hex())), "{path}: {digest}");
                Reply::new(201, "")
            }
            ("PUT", _) => Reply::new(201, ""),
            other => panic!("{other:?}"),
        }
    }

    /// Takes the first bytes of a piece, which must begin where the last one ended.
    fn take(&self, seen: &Seen, bytes: usize) {
        let mut got = self.got.lock().unwrap();
        let start = seen.header("content-range").unwrap().split_once('-').unwrap().0;
        assert_eq!(start.parse(), Ok(got.len()));
        got.extend_from_slice(&seen.body.as_bytes()[..bytes]);
    }
}

/// Where each piece that was sent began.
fn starts(fake: &Fake) -> Vec<usize> {
    let patches = fake.seen().into_iter().filter(|seen| seen.method == "PATCH");
    let start =
        |seen: Seen| seen.header("content-range").unwrap().split_once('-').unwrap().0.parse().unwrap();
    patches.map(start).collect()
}

async fn pushed(layer: &[u8], fake: &Fake) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(&fake.host());
    let source = layout(dir.path(), b"", &[layer]);
    let done = copy(&node.settings, order(&source, "docker://one.test/a:1", false)).await;
    done.map(|_| ()).map_err(|error| told(&error))
}

#[tokio::test]
async fn a_piece_that_half_arrives_goes_on_in_its_middle() {
    let (_, fake) = Taking::serve(|piece, taking, seen| {
        (piece == 1).then(|| {
            taking.take(seen, 1000);
            Reply::new(503, "")
        })
    });
    pushed(&text(2 * PIECE + 500), &fake).await.unwrap();
    assert_eq!(starts(&fake), [0, PIECE, PIECE + 1000, 2 * PIECE]);
    assert_eq!(fake.seen().iter().filter(|seen| seen.method == "GET").count(), 1);
}

#[tokio::test]
async fn what_the_registry_lost_is_read_and_sent_again() {
    let (_, fake) = Taking::serve(|piece, taking, _| {
        (piece == 1).then(|| {
            taking.got.lock().unwrap().truncate(PIECE / 2);
            Reply::new(416, "")
        })
    });
    pushed(&text(2 * PIECE + 500), &fake).await.unwrap();
    assert_eq!(starts(&fake), [0, PIECE, PIECE / 2, PIECE / 2 + PIECE]);
}

#[tokio::test]
async fn an_upload_that_is_forgotten_is_begun_again_but_not_for_ever() {
    let (_, fake) = Taking::serve(|piece, taking, _| {
        (piece == 1).then(|| {
            taking.got.lock().unwrap().clear();
            Reply::new(404, "")
        })
    });
    pushed(&text(PIECE + 500), &fake).await.unwrap();
    let (_, fake) = Taking::serve(|_, _, _| Some(Reply::new(404, "")));
    let why = pushed(&text(100), &fake).await.unwrap_err();
    assert!(why.contains("one.test/a:1 is not pushed") && why.contains("pushing blob sha256:"), "{why}");
    assert!(fake.seen().len() < 50, "{}", fake.seen().len());
}

#[tokio::test]
async fn a_few_blobs_are_sent_at_once_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let layers: Vec<String> = (0..10).map(|n| format!("layer {n}")).collect();
    let layers: Vec<&[u8]> = layers.iter().map(String::as_bytes).collect();
    let source = layout(dir.path(), b"{}", &layers);
    // Begun and not yet ended; and the most that ever were.
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (under_way, peak) = (now.clone(), most.clone());
    let target = Fake::start(move |seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("HEAD", _) => Reply::new(404, ""),
        ("POST", _) => {
            peak.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            Reply::new(202, "").header("Location", "/up/1")
        }
        ("PATCH", _) => {
            std::thread::sleep(Duration::from_millis(100));
            let last = seen.body.len() - 1;
            Reply::new(202, "").header("Location", "/up/1").header("Range", format!("0-{last}"))
        }
        ("PUT", path) if path.starts_with("/up/") => {
            under_way.fetch_sub(1, Ordering::SeqCst);
            Reply::new(201, "")
        }
        // The documents come when all blobs are there.
        ("PUT", _) if under_way.load(Ordering::SeqCst) == 0 => Reply::new(201, ""),
        other => panic!("{other:?}"),
    });
    let node = Node::new(&target.host());
    let done = copied(&node.settings, &source, "docker://one.test/a:1").await;
    assert_eq!((done.sent, done.were_there), (11, 0));
    let most = most.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} at once");
    // One archive is one stream: what comes into it comes one after the other, in order.
    let archive = dir.path().join("out.tar");
    copied(&node.settings, &source, &format!("oci-archive:{}", archive.display())).await;
    let mut listed = ::tar::Archive::new(std::fs::File::open(archive).unwrap());
    let names = listed.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
    let names: Vec<String> = names.filter(|name| name.starts_with("blobs/sha256/")).collect();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::sha256(bytes).hex());
    let expected: Vec<String> = [&b"{}"[..]].iter().chain(&layers).map(|bytes| blob(bytes)).collect();
    assert_eq!(names[..11], expected);
}

#[tokio::test]
async fn nothing_of_ours_is_sent_where_a_redirect_leads() {
    let trap = Fake::start(|_| Reply::new(200, ""));
    let to = format!("http://{}/x", trap.host());
    let server = Fake::start(move |seen| match seen.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        _ => Reply::new(307, "").header("Location", to.clone()),
    });
    let why = pushed(b"layer", &server).await.unwrap_err();
    assert!(why.contains("what is pushed goes nowhere else"), "{why}");
    assert!(trap.seen().is_empty());
}

/// Passes bytes on to a server, and breaks the connection that has brought so many of them.
fn cutting(server: String, after: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let cuts = Arc::new(AtomicUsize::new(0));
    let count = cuts.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let there = TcpStream::connect(&server).unwrap();
            let (mut back, mut to_client) = (there.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut to_client));
            let count = count.clone();
            std::thread::spawn(move || pass(client, there, after, &count));
        }
    });
    (host, cuts)
}

fn pass(mut client: TcpStream, mut there: TcpStream, after: usize, cuts: &AtomicUsize) {
    let (mut passed, mut buffer) = (0, vec![0; 64 << 10]);
    while let Ok(read) = client.read(&mut buffer) {
        passed += read;
        let cut = passed > after && cuts.load(Ordering::SeqCst) == 0;
        if read == 0 || cut || there.write_all(&buffer[..read]).is_err() {
            cuts.fetch_add(usize::from(cut), Ordering::SeqCst);
            break;
        }
    }
    let _ = (client.shutdown(std::net::Shutdown::Both), there.shutdown(std::net::Shutdown::Both));
}

#[tokio::test]
async fn a_connection_that_breaks_on_the_way_to_the_real_registry_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(&dir.path().join("storage"), "", "");
    let (host, cuts) = cutting(registry.host(), PIECE + PIECE / 2);
    let node = Node::new(&host);
    let layer = crate::support::picture::noise(3 * PIECE);
    let source = layout(dir.path(), b"{}", &[&layer]);
    let done = copy(&node.settings, order(&source, "docker://one.test/a:1", false)).await;
    let done = done.unwrap_or_else(|error| panic!("{}", told(&error)));
    assert_eq!(cuts.load(Ordering::SeqCst), 1);
    let again = copied(&node.settings, &source, "docker://one.test/a:2").await;
    assert_eq!((again.digest, again.sent), (done.digest, 0));
    let out = dir.path().join("out");
    let place = format!("docker://{}/a:1", registry.host());
    said("skopeo", &["copy", "--src-tls-verify=false", &place, &format!("dir:{}", out.display())]);
    assert!(std::fs::read(out.join(Digest::sha256(&layer).hex())).unwrap() == layer);
}
