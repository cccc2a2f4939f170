//! Large blobs: kept in parts over broken pulls, gone on with by the next, and brought over several
//! connections where one leaves the unpacking to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use image_service::digest::Digest;
use image_service::{Error, Progress};
use serde_json::json;
use tokio::sync::watch;

use crate::support::fake::{Fake, Manner, Reply, Seen};
use crate::support::picture::{Picture, noise};
use crate::support::shelf::{Node, gzip, image, request, tar};

/// What these tests call large.
const LARGE: u64 = 64 << 10;

/// An image of one layer that does not pack: its tar, the image, and its blob's digest.
fn large(bytes: usize) -> (Vec<u8>, Picture, Digest) {
    let text: String = noise(bytes).iter().map(|byte| char::from(b' ' + byte % 95)).collect();
    let layer = tar(&[("large", &text)]);
    let picture = image(std::slice::from_ref(&layer), json!({}));
    let blob = Digest::sha256(&gzip(&layer));
    (layer, picture, blob)
}

fn node(host: &str) -> Node {
    let mut node = Node::new(host);
    node.settings.parts_from_bytes = LARGE;
    node.settings.parts_after = Duration::ZERO;
    node
}

/// A server that changes its answers for one blob.
fn serving(
    picture: &Picture,
    blob: &Digest,
    manner: impl Fn(&Seen, Reply) -> Reply + Send + Sync + 'static,
) -> Fake {
    let (picture, blob) = (picture.clone(), blob.clone());
    Fake::start(move |seen| {
        let reply = picture.answer(seen);
        if seen.path.ends_with(blob.as_str()) { manner(seen, reply) } else { reply }
    })
}

fn offsets(fake: &Fake, blob: &Digest) -> Vec<usize> {
    fake.seen().iter().filter(|seen| seen.path.ends_with(blob.as_str())).map(Seen::offset).collect()
}

async fn check_whole(node: &Node, layer: &[u8]) {
    let text = std::fs::read(node.layer(layer).join("large")).unwrap();
    assert!(text == layer[512..512 + text.len()] && text.len() > LARGE as usize, "other bytes");
    node.check_settled().await;
    assert_eq!(node.names("parts"), Vec::<String>::new());
}

#[tokio::test]
async fn what_a_broken_pull_brought_is_not_asked_for_again() {
    let (layer, picture, blob) = large(400_000);
    let broken = Arc::new(AtomicBool::new(true));
    let now = broken.clone();
    let fake = serving(&picture, &blob, move |seen, reply| match now.load(Ordering::SeqCst) {
        true if seen.offset() == 0 => reply.manner(Manner::Cut(150_000)),
        true => Reply::new(404, ""),
        false => reply,
    });
    let node = node(&fake.host());
    let images = node.open().await;
    let error = images.pull(request("one.test/a:1")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    node.check_settled().await;
    assert_eq!(node.names("parts"), [blob.hex()]);
    // The daemon may be another one by now.
    drop(images);
    let images = node.open().await;
    broken.store(false, Ordering::SeqCst);
    let (sender, progress) = watch::channel(Progress::default());
    let mut asked = request("one.test/a:1");
    asked.progress = Some(sender);
    let before = offsets(&fake, &blob).len();
    images.pull(asked).await.unwrap();
    let after = offsets(&fake, &blob).split_off(before);
    assert!(matches!(after[..], [from] if from > 0 && from <= 150_000), "{after:?}");
    let last = progress.borrow().clone();
    assert_eq!(last.layers[0].done_bytes, last.layers[0].size_bytes);
    check_whole(&node, &layer).await;
}

#[tokio::test]
async fn what_comes_in_the_first_moments_does_not_go_to_the_disk() {
    let (layer, picture, blob) = large(2_000_000);
    let slow = Manner::Paced(20_000, Duration::from_millis(15));
    let fake = serving(&picture, &blob, move |_, reply| reply.manner(slow));
    let mut node = node(&fake.host());
    node.settings.parts_after = Duration::from_millis(150);
    node.settings.more_connections = 0;
    let parts = node.settings.root.join("parts").join(blob.hex());
    let images = node.open().await;
    let pull = images.pull(request("one.test/a:1"));
    _ = tokio::time::timeout(Duration::from_millis(600), pull).await.unwrap_err();
    node.check_settled().await;
    drop(images);
    let [kept] = &node.names(&format!("parts/{}", blob.hex()))[..] else { panic!("one part") };
    let from: usize = kept.parse().unwrap();
    let came = std::fs::metadata(parts.join(kept)).unwrap().len() as usize;
    assert!(from >= 20_000 && came >= 20_000, "{came} bytes from {from} on");
    // The next pull asks for what was not kept, and for what had not come.
    node.open().await.pull(request("one.test/a:1")).await.unwrap();
    assert_eq!(offsets(&fake, &blob), [0, 0, from + came]);
    check_whole(&node, &layer).await;
}

#[tokio::test]
async fn what_comes_slowly_is_kept_sooner() {
    let (_, picture, blob) = large(4_000_000);
    for manner in [Manner::Paced(20_000, Duration::from_millis(15)), Manner::Silent(400_000)] {
        let fake = serving(&picture, &blob, move |_, reply| reply.manner(manner));
        let mut node = node(&fake.host());
        node.settings.parts_after = Duration::from_secs(3600);
        let images = node.open().await;
        let pull = images.pull(request("one.test/a:1"));
        _ = tokio::time::timeout(Duration::from_millis(1500), pull).await.unwrap_err();
        node.check_settled().await;
        assert_eq!(node.names("parts"), [blob.hex()], "{manner:?}");
        let offsets = offsets(&fake, &blob);
        assert!(offsets.len() > 1, "nobody came to help: {manner:?}");
    }
}

#[tokio::test]
async fn what_was_kept_is_not_believed() {
    let (layer, picture, blob) = large(200_000);
    let packed = picture.blobs[&blob].clone();
    let fake = serving(&picture, &blob, |_, reply| reply);
    type Part = (&'static str, Vec<u8>);
    let kept: [Vec<Part>; 6] = [
        vec![("0", vec![7; 50_000])],
        // The right length and one wrong bit, far in.
        vec![("0", {
            let mut bytes = packed[..90_000].to_vec();
            bytes[80_000] ^= 4;
            bytes
        })],
        // All of it, and more than that.
        vec![("0", [&packed[..], b"more"].concat())],
        vec![("100000", packed[100_000..].to_vec())],
        vec![("100000", vec![0; 30_000]), ("0", packed[..10].to_vec())],
        vec![("not a number", Vec::new())],
    ];
    for kept in kept {
        let node = node(&fake.host());
        let images = node.open().await;
        let dir = node.settings.root.join("parts").join(blob.hex());
        std::fs::create_dir_all(&dir).unwrap();
        for (name, bytes) in &kept {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        images.pull(request("one.test/a:1")).await.unwrap();
        check_whole(&node, &layer).await;
    }
}

#[tokio::test]
async fn a_slow_connection_gets_help_within_bounds() {
    let (layer, picture, blob) = large(3_000_000);
    let slow = Manner::Paced(20_000, Duration::from_millis(15));
    let fake = serving(&picture, &blob, move |_, reply| reply.manner(slow));
    let mut node = node(&fake.host());
    node.settings.more_connections = 2;
    let images = node.open().await;
    images.pull(request("one.test/a:1")).await.unwrap();
    let offsets = offsets(&fake, &blob);
    assert!(
        offsets.len() >= 3 && offsets[0] == 0 && offsets[1..].iter().all(|from| *from > 0),
        "{offsets:?}"
    );
    check_whole(&node, &layer).await;
    // And none when there is to be none.
    let fake = serving(&picture, &blob, move |_, reply| reply.manner(slow));
    let mut alone = Node::new(&fake.host());
    (alone.settings.parts_from_bytes, alone.settings.more_connections) = (LARGE, 0);
    alone.settings.parts_after = Duration::ZERO;
    alone.open().await.pull(request("one.test/a:1")).await.unwrap();
    assert_eq!(self::offsets(&fake, &blob), [0]);
    check_whole(&alone, &layer).await;
}

#[tokio::test]
async fn a_server_without_ranges_is_asked_for_all_by_one() {
    let (layer, picture, blob) = large(1_000_000);
    let whole = picture.blobs[&blob].clone();
    let fake = serving(&picture, &blob, move |_, _| {
        Reply::new(200, whole.clone()).manner(Manner::Paced(20_000, Duration::from_millis(15)))
    });
    let node = node(&fake.host());
    node.open().await.pull(request("one.test/a:1")).await.unwrap();
    let offsets = offsets(&fake, &blob);
    assert!(offsets.len() <= 2, "{offsets:?}");
    check_whole(&node, &layer).await;
}

#[tokio::test]
async fn help_that_fails_costs_nothing() {
    let (layer, picture, blob) = large(2_000_000);
    let fake = serving(&picture, &blob, move |seen, reply| match seen.offset() {
        0 => reply.manner(Manner::Paced(20_000, Duration::from_millis(15))),
        // Helpers come a little way; whoever comes for what they leave gets it.
        from if from.is_multiple_of(2) => reply,
        _ => reply.manner(Manner::Cut(70_000)),
    });
    let node = node(&fake.host());
    node.open().await.pull(request("one.test/a:1")).await.unwrap();
    check_whole(&node, &layer).await;
}

#[tokio::test]
async fn a_blob_that_one_mirror_has_wrong_comes_from_the_registry() {
    let (layer, picture, blob) = large(200_000);
    let good = serving(&picture, &blob, |_, reply| reply);
    for spoiled in [0, 1000, 150_000] {
        let bad = serving(&picture, &blob, move |_, reply| reply.spoiled(spoiled));
        for from in [LARGE, u64::MAX] {
            let mut node = node(&good.host());
            let conf = format!(
                "[[registry]]\nprefix='one.test'\nlocation='{}'\ninsecure=true\n\
                 [[registry.mirror]]\nlocation='{}'\ninsecure=true\n",
                good.host(),
                bad.host()
            );
            std::fs::write(&node.settings.registries_conf, conf).unwrap();
            node.settings.parts_from_bytes = from;
            node.open().await.pull(request("one.test/a:1")).await.unwrap();
            check_whole(&node, &layer).await;
        }
        assert!(!offsets(&bad, &blob).is_empty(), "the mirror was asked");
    }
}
