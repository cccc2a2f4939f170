//! The power fails in the middle of pulls: what a disk that lies about nothing and keeps nothing unflushed has at that
//! moment is mounted, and opened as after a start of the machine. Needs root, FUSE, loop devices, mkfs.ext4 and mkfs.xfs.
//!
//! One machine follows the other on what the one before left behind. `BERTH_POWER_CUTS` says how often the power fails
//! (a few times unless told), `BERTH_POWER_SEED` when, and what of the unflushed writes is lost.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image_service::{Images, Repair, Settings, Verifying};
use serde_json::json;
use tokio::sync::watch;

use crate::support::disk::Disk;
use crate::support::fake::{Fake, Manner};
use crate::support::fragile::{self, Disks, Random, Unflushed};
use crate::support::picture::noise;
use crate::support::shelf::{Node, Shelf, image, request, tar};

/// XFS wants 300 MiB; what nobody writes takes no memory.
const DISK_BYTES: u64 = 512 << 20;
const CUTS: u64 = 6;
/// The longest that a machine runs: some pulls are under way then, some answered, some on the disk.
const LIFE: Duration = Duration::from_millis(2500);
const TAGS: usize = 3;
/// What becomes of unflushed writes, as often as it stands here.
const MANNERS: [Unflushed; 5] =
    [Unflushed::Lost, Unflushed::Lost, Unflushed::Some, Unflushed::Some, Unflushed::Kept];

/// The process that the disks are in.
#[test]
#[ignore = "it is what the other tests start"]
fn disks() {
    fragile::serve();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_on_ext4_leaves_whole_images_and_what_was_settled() {
    fail_again_and_again("ext4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_on_xfs_leaves_whole_images_and_what_was_settled() {
    fail_again_and_again("xfs").await;
}

/// What the registry has: three images of three layers each, of five in all.
struct World {
    shelf: Shelf,
    layers: Vec<Vec<u8>>,
    noise: Vec<u8>,
}

impl World {
    fn new() -> World {
        let mut world = World { shelf: Shelf::default(), layers: Vec::new(), noise: noise(600_000) };
        for n in 0..TAGS + 2 {
            let files: Vec<_> = world.files(n).collect();
            let files: Vec<_> = files.iter().map(|(name, data)| (name.as_str(), data.as_str())).collect();
            world.layers.push(tar(&files));
        }
        for tag in 0..TAGS {
            world.shelf.put(&format!("a:{tag}"), &image(&world.layers[tag..tag + 3], json!({})));
        }
        world
    }

    fn files(&self, layer: usize) -> impl Iterator<Item = (String, String)> + '_ {
        (0..30).map(move |f| {
            let bytes = self.noise[f * 15_000 + layer..][..12_000].iter();
            (format!("d{layer}/f{f}"), bytes.map(|byte| char::from(b' ' + byte % 95)).collect())
        })
    }

    /// Blobs take their time, so that the power fails in the middle of some.
    fn serve(&self) -> Fake {
        let shelf = self.shelf.clone();
        Fake::start(move |seen| {
            let reply = shelf.answer(seen);
            let paced = Manner::Paced(32 << 10, Duration::from_millis(8));
            if seen.path.contains("/blobs/") { reply.manner(paced) } else { reply }
        })
    }

    fn check(&self, node: &Node, root: &Path, tag: usize, when: &str) {
        for (n, layer) in self.layers.iter().enumerate().skip(tag).take(3) {
            let dir = root.join("images/layers").join(node.layer(layer).file_name().unwrap());
            for (file, data) in self.files(n) {
                let found = std::fs::read_to_string(dir.join(&file)).ok();
                assert!(found.as_ref() == Some(&data), "{when}: {file} of image {tag} is {found:.40?}");
            }
        }
    }
}

/// The images that no power cut may take.
type Promised = Arc<Mutex<BTreeSet<usize>>>;

fn name(tag: usize) -> String {
    format!("one.test/a:{tag}")
}

/// Pulls and removes until told to stop, and says what must outlive the machine.
async fn live(images: Images, promised: Promised, mut random: Random) {
    loop {
        let mut pulled = Vec::new();
        for tag in 0..TAGS {
            pulled.push((tag, images.pull(request(&name(tag))).await.unwrap()));
        }
        for _ in 0..random.below(12) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let settled = pulled.iter().filter(|(_, image)| images.is_settled(image)).map(|(tag, _)| *tag);
            promised.lock().unwrap().extend(settled);
        }
        for tag in 0..TAGS {
            if random.below(2) == 0 {
                promised.lock().unwrap().remove(&tag);
                images.remove(&name(tag)).await.unwrap();
            }
        }
    }
}

fn settings(node: &Node, root: &Path, boot: u64) -> Settings {
    let mut settings = node.settings.clone();
    (settings.root, settings.containers_dir) = (root.join("images"), root.join("containers"));
    settings.parts_from_bytes = 64 << 10;
    settings.parts_after = Duration::ZERO;
    settings.boot = format!("boot {boot}");
    settings
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

async fn fail_again_and_again(kind: &str) {
    let cuts = number("BERTH_POWER_CUTS").unwrap_or(CUTS);
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = number("BERTH_POWER_SEED").unwrap_or(clock);
    println!("{kind}: BERTH_POWER_SEED={seed} BERTH_POWER_CUTS={cuts}");
    let mut random = Random(seed);
    let world = World::new();
    let fake = world.serve();
    let node = Node::new(&fake.host());
    let mut disks = Disks::start("power::disks", &node.dir.path().join("fragile"));
    let (mut at, file) = disks.make(DISK_BYTES);
    Disk::format(kind, &file);
    File::open(&file).unwrap().sync_all().unwrap();
    // A test beside this one may have made a namespace that has the disk of before.
    let options = if kind == "xfs" { "loop,nouuid" } else { "loop" };
    let promised = Promised::default();
    let (mut whole, mut kept, mut missing, mut parts, mut lost, mut hit) = (0, 0, 0, 0, 0, 0);
    for cut in 0..=cuts {
        let when = format!("{kind}, cut {cut}, BERTH_POWER_SEED={seed}");
        let disk = Disk::mount_with(options, &disks.file(at), &node.dir.path().join(format!("disk{cut}")));
        let images = Images::open(settings(&node, &disk.root, cut)).await.unwrap();
        parts += std::fs::read_dir(disk.root.join("images/parts")).unwrap().count();
        for tag in 0..TAGS {
            let found = images.find(&name(tag));
            let must = promised.lock().unwrap().contains(&tag);
            assert!(found.is_some() || !must, "{when}: image {tag} was on the disk, and is lost");
            (kept, missing) = (kept + u64::from(must), missing + u64::from(found.is_none()));
            if found.is_some() {
                whole += 1;
                world.check(&node, &disk.root, tag, &when);
            }
        }
        let verified =
            images.verify(&[], &Repair::Leave, watch::channel(Verifying::default()).0).await.unwrap();
        assert_eq!(verified.findings, [], "{when}");
        // What is not there, or is there in parts, comes as if nothing had been.
        for tag in 0..TAGS {
            images.pull(request(&name(tag))).await.unwrap();
            world.check(&node, &disk.root, tag, &when);
            images.remove(&name(tag)).await.unwrap();
        }
        promised.lock().unwrap().clear();
        let living = tokio::spawn(live(images.clone(), promised.clone(), Random(random.below(u64::MAX))));
        tokio::time::sleep(Duration::from_millis(random.below(LIFE.as_millis() as u64))).await;
        // Between a write and its flush there is little time; every second cut waits for it.
        for _ in 0..if cut % 2 == 0 { 400 } else { 0 } {
            if disks.unflushed(at) > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let what = MANNERS[random.below(MANNERS.len() as u64) as usize];
        let next = {
            // Nothing is promised or taken back meanwhile.
            let _still = promised.lock().unwrap();
            let (next, told) = disks.cut(at, what, random.below(u64::MAX));
            (lost, hit) = (lost + told.lost, hit + u64::from(told.unflushed > 0));
            next
        };
        // What the dead machine goes on to do is nothing to the next.
        let kept_then = promised.lock().unwrap().clone();
        assert!(!living.is_finished(), "{when}: the pulls go on meanwhile");
        living.abort();
        assert!(living.await.unwrap_err().is_cancelled());
        *promised.lock().unwrap() = kept_then;
        drop(images);
        disk.unmount();
        disks.forget(at);
        at = next;
    }
    println!(
        "{kind}: after {cuts} power cuts {whole} images whole ({kept} settled before), {missing} not there, parts of {parts} blobs; \
         {hit} cuts before a flush was done, {lost} writes lost"
    );
    // What few cuts may miss, many may not.
    assert!(cuts < 30 || (kept > 0 && missing > 0 && lost > 0), "{kind}: the power failed at all moments");
    assert!(whole > 0, "{kind}: nothing was ever whole");
}
