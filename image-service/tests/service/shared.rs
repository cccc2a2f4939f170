//! What a second pull transfers: nothing that is on the node already. The registry's own account is what counts.

use std::collections::BTreeSet;

use image_service::digest::Digest;
use serde_json::json;

use crate::support::fake::{Fake, Seen};
use crate::support::picture::noise;
use crate::support::shelf::{Node, Shelf, gzip, image, request, tar};

/// A layer that does not pack.
fn layer(name: &str, bytes: usize, from: usize) -> Vec<u8> {
    let text: String = noise(from + bytes)[from..].iter().map(|byte| char::from(b' ' + byte % 95)).collect();
    tar(&[(name, &text)])
}

/// What has been asked for since the last look: paths, and which blobs among them, each as often as it was asked for.
struct Account<'a> {
    fake: &'a Fake,
    looked: usize,
}

impl Account<'_> {
    fn since(&mut self) -> (Vec<Seen>, Vec<Digest>) {
        let seen = self.fake.seen().split_off(self.looked);
        self.looked += seen.len();
        let blobs = seen.iter().filter(|seen| seen.path.contains("/blobs/"));
        let blobs = blobs.map(|seen| Digest::parse(seen.path.rsplit('/').next().unwrap()).unwrap());
        let blobs = blobs.collect();
        (seen, blobs)
    }
}

#[tokio::test]
async fn a_second_pull_transfers_only_what_is_new() {
    let shared = [layer("base", 400_000, 0), layer("libs", 150_000, 7)];
    let (of_a, of_b) = (layer("a", 60_000, 3), layer("b", 90_000, 5));
    let a = image(&[&shared[..], &[of_a]].concat(), json!({"Cmd": ["a"]}));
    let b = image(&[&shared[..], std::slice::from_ref(&of_b)].concat(), json!({"Cmd": ["b"]}));
    // The same content by another manifest: its configuration and its layers are all here by then.
    let mut again = b.clone();
    let (_, manifest) = &b.manifests[&b.top];
    let mut manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
    manifest["annotations"] = json!({"rebuilt": "yes"});
    again.put("application/vnd.oci.image.manifest.v1+json", &manifest);
    let shelf = Shelf::default();
    for (name, picture) in [("a:1", &a), ("b:1", &b), ("b:2", &again)] {
        shelf.put(name, picture);
    }
    let fake = shelf.serve();
    let mut account = Account { fake: &fake, looked: 0 };
    let node = Node::new(&fake.host());
    let images = node.open().await;
    images.pull(request("one.test/a:1")).await.unwrap();
    let (_, blobs) = account.since();
    assert_eq!(BTreeSet::from_iter(&blobs), BTreeSet::from_iter(a.blobs.keys()));
    assert_eq!(blobs.len(), 4, "each once");
    // Also after the daemon was started again.
    drop(images);
    let images = node.open().await;
    images.pull(request("one.test/b:1")).await.unwrap();
    let (seen, blobs) = account.since();
    let new = [b.config.digest.clone(), Digest::sha256(&gzip(&of_b))];
    assert_eq!((BTreeSet::from_iter(&blobs), blobs.len()), (BTreeSet::from_iter(&new), 2));
    let bytes: usize = blobs.iter().map(|blob| b.blobs[blob].len()).sum();
    let all: usize = b.blobs.values().map(Vec::len).sum();
    assert!(seen.iter().all(|seen| seen.offset() == 0) && bytes * 5 < all, "{bytes} of {all} bytes");
    println!("the second pull asked for {} blobs, {bytes} of {all} bytes", blobs.len());
    // What is here under another name is only resolved.
    for name in ["one.test/b:1".to_owned(), format!("one.test/b@{}", b.top), "one.test/b:2".to_owned()] {
        images.pull(request(&name)).await.unwrap();
        let (seen, blobs) = account.since();
        assert_eq!(blobs, [], "{name}");
        let documents = seen.iter().filter(|seen| seen.path.contains("/manifests/")).count();
        assert!(documents <= 2, "{name}: {documents} documents");
    }
    assert_eq!(images.list().len(), 2);
}
