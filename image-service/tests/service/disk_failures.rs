//! Disks that fail under a pull: one clear error, and a store that is whole once the disk is. Needs root.

use std::process::Command;
use std::time::{Duration, Instant};

use image_service::digest::Digest;
use image_service::{Error, Progress};
use serde_json::json;
use tokio::sync::watch;

use crate::support::disk::Disk;
use crate::support::fake::{Fake, Manner};
use crate::support::picture;
use crate::support::picture::noise;
use crate::support::shelf::{Node, gzip, image, request, tar};

/// An image that is a single layer of so many bytes which do not pack.
fn large(bytes: usize) -> (picture::Picture, Digest) {
    let text: String = noise(bytes).iter().map(|byte| char::from(b' ' + byte % 95)).collect();
    let layer = tar(&[("large", &text)]);
    (image(std::slice::from_ref(&layer), json!({})), Digest::sha256(&gzip(&layer)))
}

fn on(node: &mut Node, disk: &Disk) {
    node.settings.root = disk.root.join("images");
    node.settings.containers_dir = disk.root.join("containers");
    node.settings.parts_from_bytes = 64 << 10;
    node.settings.parts_after = Duration::ZERO;
}

#[tokio::test]
async fn a_file_system_that_turns_read_only_is_one_clear_error() {
    let (small, (big, blob)) = (image(&[tar(&[("a", "x")])], json!({})), large(2_000_000));
    let fake = Fake::start(move |seen| match seen.path.contains("/big/") {
        true if seen.path.ends_with(blob.as_str()) => {
            big.answer(seen).manner(Manner::Paced(20_000, Duration::from_millis(20)))
        }
        true => big.answer(seen),
        false => small.answer(seen),
    });
    let mut node = Node::new(&fake.host());
    let file = node.dir.path().join("ext4");
    let disk = Disk::make("ext4", 128 << 20, &file, &node.dir.path().join("disk"));
    on(&mut node, &disk);
    let images = node.open().await;
    images.pull(request("one.test/small:1")).await.unwrap();
    // By then it is on the disk, and its record says so; before, the disk's end would be its end.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (sender, mut progress) = watch::channel(Progress::default());
    let mut asked = request("one.test/big:1");
    asked.progress = Some(sender);
    let asking = images.clone();
    let pulling = tokio::spawn(async move { asking.pull(asked).await });
    let some = progress.wait_for(|now| now.layers.iter().any(|layer| layer.done_bytes > 100_000));
    some.await.unwrap();
    // As ext4 does by itself when it finds itself damaged.
    disk.remount("abort");
    let error = pulling.await.unwrap().unwrap_err();
    let told = format!("{error:?} {error}");
    assert!(told.contains("Read-only") || told.contains("ROFS") || told.contains("Os { code: 5"), "{told}");
    assert_eq!(images.list().len(), 1, "what was there is there");
    drop(images);
    drop(disk);
    let repaired = Command::new("e2fsck").args(["-fy"]).arg(&file).output().unwrap();
    assert!(repaired.status.code().is_some_and(|code| code <= 1), "{repaired:?}");
    let _disk = Disk::mount(&file, &node.dir.path().join("disk"));
    let images = node.open().await;
    assert!(images.find("one.test/small:1").is_some(), "and is still there after the repair");
    images.pull(request("one.test/big:1")).await.unwrap();
    node.check_settled().await;
}

#[tokio::test]
async fn an_image_that_the_disk_does_not_take_is_not_kept() {
    let (big, _) = large(24 << 20);
    let served = big.clone();
    let fake = Fake::start(move |seen| served.answer(seen));
    let mut node = Node::new(&fake.host());
    // The disk says that it has 256 MiB, and fails where the file below it finds no room: I/O errors.
    let below = Disk::memory("size=16m", &node.dir.path().join("below"));
    let file = below.root.join("ext4");
    let disk = Disk::make("ext4", 256 << 20, &file, &node.dir.path().join("disk"));
    on(&mut node, &disk);
    let images = node.open().await;
    match images.pull(request("one.test/big:1")).await {
        // The disk's word comes after ours, and is heard.
        Ok(_) => {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !images.list().is_empty() {
                assert!(Instant::now() < deadline, "an image whose bytes are lost is still listed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Err(error) => assert!(
            matches!(error, Error::Io { .. } | Error::Index { .. } | Error::Layer { .. }),
            "{error:?}"
        ),
    }
    drop(images);
    drop(disk);
    // Somebody gives the disk what it lacked, and repairs it.
    below.remount("size=200m");
    let repaired = Command::new("e2fsck").args(["-fy"]).arg(&file).output().unwrap();
    assert!(repaired.status.code().is_some_and(|code| code <= 1), "{repaired:?}");
    let _disk = Disk::mount(&file, &node.dir.path().join("disk"));
    let images = node.open().await;
    assert!(images.list().is_empty());
    images.pull(request("one.test/big:1")).await.unwrap();
    node.check_settled().await;
}
