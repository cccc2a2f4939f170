//! Pulls that several wait for: each has come to the image by a way of its own, with credentials of its own, and is
//! given or refused it by that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image_service::{Credentials, Error, Image, Images, PullRequest, transfer};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::fake::{Fake, Reply, Seen};
use crate::support::picture::{OCI_INDEX, Picture};
use crate::support::shelf::{Node, Shelf, image, request, tar};

fn user(name: &str) -> Option<Credentials> {
    let (username, password) = (name.to_owned(), "secret".to_owned());
    Some(Credentials { username, password, ..Credentials::default() })
}

fn is_of(seen: &Seen, name: &str) -> bool {
    let basic = format!("Basic {}", STANDARD.encode(format!("{name}:secret")));
    seen.header("authorization") == Some(&basic)
}

fn unauthorized() -> Reply {
    Reply::new(401, "{}").header("WWW-Authenticate", r#"Basic realm="test""#)
}

fn ask(
    images: &Images,
    name: &str,
    credentials: Option<Credentials>,
) -> JoinHandle<Result<Arc<Image>, Error>> {
    let (images, request) = (images.clone(), PullRequest { credentials, ..request(name) });
    tokio::spawn(async move { images.pull(request).await })
}

async fn until(fake: &Fake, what: impl Fn(&Seen) -> bool) {
    while !fake.seen().iter().any(&what) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // What was answered is to be heard, too.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn hold(gate: &AtomicBool) {
    while !gate.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn small() -> Picture {
    image(&[tar(&[("a", "x")])], json!({}))
}

#[tokio::test]
async fn a_refusal_is_of_whom_it_was_said_to() {
    let (gate, picture) = (Arc::new(AtomicBool::new(false)), small());
    let (opened, served) = (gate.clone(), picture.clone());
    // Both may see what the name means, and one may have the blobs.
    let fake = Fake::start(move |seen| match (is_of(seen, "first"), is_of(seen, "second")) {
        (true, _) if seen.path.contains("/blobs/") => {
            hold(&opened);
            Reply::new(403, "{}")
        }
        (true, _) | (_, true) => served.answer(seen),
        (false, false) => unauthorized(),
    });
    let node = Node::new(&fake.host());
    let images = node.open().await;
    let first = ask(&images, "one.test/a:1", user("first"));
    until(&fake, |seen| is_of(seen, "first") && seen.path.contains("/blobs/")).await;
    let seconds = [(); 3].map(|()| ask(&images, "one.test/a:1", user("second")));
    until(&fake, |seen| is_of(seen, "second") && seen.path.contains("/manifests/")).await;
    assert!(!fake.seen().iter().any(|seen| is_of(seen, "second") && seen.path.contains("/blobs/")), "joined");
    gate.store(true, Ordering::SeqCst);
    let error = first.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    for second in seconds {
        assert_eq!(second.await.unwrap().unwrap().id, picture.config.digest.as_str());
    }
    // They have joined each other.
    let blobs = fake.seen().into_iter().filter(|seen| is_of(seen, "second") && seen.path.contains("/blobs/"));
    assert_eq!(blobs.count(), 2);
}

#[tokio::test]
async fn joining_gives_nobody_what_the_registry_does_not() {
    let (gate, picture) = (Arc::new(AtomicBool::new(false)), small());
    let opened = gate.clone();
    let fake = Fake::start(move |seen| match is_of(seen, "owner") {
        true if seen.path.contains("/blobs/") => {
            hold(&opened);
            picture.answer(seen)
        }
        true => picture.answer(seen),
        false => unauthorized(),
    });
    let node = Node::new(&fake.host());
    let images = node.open().await;
    let owner = ask(&images, "one.test/a:1", user("owner"));
    until(&fake, |seen| seen.path.contains("/blobs/")).await;
    for stranger in [user("stranger"), None] {
        let error = ask(&images, "one.test/a:1", stranger).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    }
    gate.store(true, Ordering::SeqCst);
    owner.await.unwrap().unwrap();
    // Nor does a pull, once the image is here: the registry is asked for each.
    let error = ask(&images, "one.test/a:1", user("stranger")).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
}

#[tokio::test]
async fn a_registry_that_fails_another_s_name_does_not_fail_this_one() {
    let (gate, picture) = (Arc::new(AtomicBool::new(false)), small());
    let opened = gate.clone();
    let fake = Fake::start(move |seen| match seen.path.contains("/bad/blobs/") {
        true => {
            hold(&opened);
            Reply::new(400, "{}")
        }
        false => picture.answer(seen),
    });
    let node = Node::new(&fake.host());
    let images = node.open().await;
    let bad = ask(&images, "one.test/bad:1", None);
    until(&fake, |seen| seen.path.contains("/bad/blobs/")).await;
    let good = ask(&images, "two.test/good:1", None);
    until(&fake, |seen| seen.path.contains("/good/manifests/")).await;
    let under_way = images.pulls();
    assert_eq!((under_way.len(), under_way[0].name.as_str()), (1, "one.test/bad:1"), "joined");
    gate.store(true, Ordering::SeqCst);
    assert!(bad.await.unwrap().is_err());
    assert_eq!(good.await.unwrap().unwrap().repo_tags, ["two.test/good:1"]);
    assert_eq!(images.pulls().len(), 0);
}

#[tokio::test]
async fn each_asker_s_documents_are_kept() {
    let (gate, plain) = (Arc::new(AtomicBool::new(false)), small());
    let indexed = plain.clone().indexed(OCI_INDEX, &image_service::Platform::host().to_string());
    let shelf = Shelf::default();
    shelf.put("plain:1", &plain);
    shelf.put("indexed:1", &indexed);
    let opened = gate.clone();
    let fake = Fake::start(move |seen| {
        if seen.path.contains("/blobs/") {
            hold(&opened);
        }
        shelf.answer(seen)
    });
    let node = Node::new(&fake.host());
    let images = node.open().await;
    let first = ask(&images, "one.test/plain:1", None);
    until(&fake, |seen| seen.path.contains("/blobs/")).await;
    let second = ask(&images, "one.test/indexed:1", None);
    until(&fake, |seen| seen.path.contains("/indexed/manifests/sha256:")).await;
    gate.store(true, Ordering::SeqCst);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    drop(images);
    let images = node.open().await;
    let (_, index) = &indexed.manifests[&indexed.top];
    let name = format!("one.test/indexed@{}", indexed.top);
    assert_eq!(&transfer::inspect_stored(&images, &name).unwrap().raw, index);
}

#[tokio::test]
async fn pulls_that_go_on_are_listed() {
    let (gate, picture) = (Arc::new(AtomicBool::new(false)), small());
    let (opened, layer, top) = (gate.clone(), picture.layer.clone(), picture.top.clone());
    let fake = Fake::start(move |seen| {
        if seen.path.ends_with(layer.digest.as_str()) {
            hold(&opened);
        }
        picture.answer(seen)
    });
    let node = Node::new(&fake.host());
    let images = node.open().await;
    assert_eq!(images.pulls().len(), 0);
    let asked = [(); 2].map(|()| ask(&images, "one.test/a:1", None));
    until(&fake, |seen| seen.path.contains("/blobs/")).await;
    let pulls = images.pulls();
    let [pull] = &pulls[..] else { panic!("{pulls:?}") };
    assert_eq!((pull.name.as_str(), &pull.digest), ("one.test/a:1", &top));
    assert!(pull.age > Duration::ZERO && pull.progress.done_bytes() == 0 && pull.progress.size_bytes() > 0);
    gate.store(true, Ordering::SeqCst);
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(images.pulls().len(), 0);
}
