//! The power fails in the middle of pulls: what the disk holds at that moment is taken as it is, mounted, and
//! opened as after a start of the machine. Needs root and mkfs.xfs (xfsprogs).
//!
//! The node's ext4 lies in a file on XFS, which can clone a file at one moment whatever is being written to
//! it. Nothing is synced for the clone but what the node itself synced: it is the disk of a machine whose
//! power is gone.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use image_service::{Images, Settings};
use serde_json::json;

use crate::support::disk::Disk;
use crate::support::picture::noise;
use crate::support::shelf::{Node, Shelf, image, request, tar};

/// Power cuts, and the longest that pulls go on between two.
const CUTS: u32 = 12;
const BETWEEN: Duration = Duration::from_millis(1500);

fn settings(node: &Node, root: &Path) -> Settings {
    let mut settings = node.settings.clone();
    (settings.root, settings.containers_dir) = (root.join("images"), root.join("containers"));
    settings.parts_from_bytes = 64 << 10;
    settings.parts_after = Duration::ZERO;
    settings
}

/// Pulls and removes until told to stop.
async fn pull_on(images: Images) {
    loop {
        for tag in 0..3 {
            images.pull(request(&format!("one.test/a:{tag}"))).await.unwrap();
        }
        // Long enough for some to be brought to the disk, and for some not.
        tokio::time::sleep(Duration::from_millis(700)).await;
        for tag in 0..3 {
            images.remove(&format!("one.test/a:{tag}")).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_disk_holds_when_the_power_fails_is_whole_or_not_there() {
    let noise = noise(600_000);
    let files = |n: usize| {
        let noise = &noise;
        (0..30).map(move |f| {
            let bytes = noise[f * 15_000 + n..][..12_000].iter().map(|byte| char::from(b' ' + byte % 95));
            (format!("d{n}/f{f}"), bytes.collect::<String>())
        })
    };
    let layers: Vec<Vec<u8>> = (0..5)
        .map(|n| {
            let files: Vec<_> = files(n).collect();
            tar(&files.iter().map(|(name, data)| (name.as_str(), data.as_str())).collect::<Vec<_>>())
        })
        .collect();
    let shelf = Shelf::default();
    for tag in 0..3 {
        shelf.put(&format!("a:{tag}"), &image(&layers[tag..tag + 3], json!({})));
    }
    let fake = shelf.serve();
    let node = Node::new(&fake.host());
    let at = |name: &str| node.dir.path().join(name);
    let _clones = Disk::make("xfs", 2 << 30, &at("xfs"), &at("clones"));
    let live = Disk::make("ext4", 256 << 20, &at("clones/live"), &at("live"));
    let images = Images::open(settings(&node, &live.root)).await.unwrap();
    let pulling = tokio::spawn(pull_on(images));
    let (mut whole, mut missing) = (0, 0);
    for cut in 0..CUTS {
        tokio::time::sleep(BETWEEN * (cut * 7 % CUTS + 1) / CUTS).await;
        let (from, to) = (File::open(at("clones/live")).unwrap(), at(&format!("clones/cut{cut}")));
        rustix::fs::ioctl_ficlone(File::create(&to).unwrap(), &from).unwrap();
        assert!(!pulling.is_finished(), "the pulls go on meanwhile");
        let disk = Disk::mount(&to, &at(&format!("cut{cut}")));
        let mut after = settings(&node, &disk.root);
        after.boot = "another".to_owned();
        let images = Images::open(after).await.unwrap();
        for tag in 0..3 {
            let name = format!("one.test/a:{tag}");
            match images.find(&name) {
                Some(_) => whole += 1,
                None => missing += 1,
            }
            // What is there is whole; what is not, or is in parts, comes as if nothing had been.
            images.pull(request(&name)).await.unwrap();
            for (n, layer) in layers.iter().enumerate().skip(tag).take(3) {
                let dir = disk.root.join("images/layers").join(node.layer(layer).file_name().unwrap());
                for (file, data) in files(n) {
                    assert_eq!(
                        std::fs::read_to_string(dir.join(&file)).ok(),
                        Some(data),
                        "cut {cut}: {file}"
                    );
                }
            }
        }
        drop(images);
        drop(disk);
        std::fs::remove_file(to).unwrap();
    }
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    println!("after {CUTS} power cuts: {whole} images whole, {missing} not there");
    assert!(whole > 0 && missing > 0, "the power failed at all moments");
    drop(live);
}
