//! A pull killed at any moment: the next start finds whole images and parts that can be gone on with, and
//! nothing else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use image_service::digest::Digest;
use serde_json::json;

use crate::support::picture::noise;
use crate::support::shelf::{Node, REGISTRIES, Shelf, gzip, image, request, tar};

const ROOT: &str = "BERTH_TEST_CRASH_ROOT";
const ROUNDS: u32 = 200;
/// The longest that the victim lives: it pulls and removes several times within this.
const LIFE: Duration = Duration::from_millis(500);
/// What is a large blob here, so that parts of it are kept.
const LARGE: u64 = 32 << 10;

/// Pulls and removes without end; killed by the test below.
#[tokio::test]
#[ignore = "the other half of the test below"]
async fn victim() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let mut settings = image_service::Settings::new(&root.join("root"));
    settings.registries_conf = root.join("registries.conf");
    settings.registries_conf_dir = root.join("none");
    settings.policy = root.join("none");
    settings.parts_from_bytes = LARGE;
    // At once, or while a blob comes.
    settings.parts_after = Duration::from_millis(u64::from(std::process::id() % 2) * 20);
    let images = image_service::Images::open(settings).await.unwrap();
    println!("open");
    loop {
        for tag in [1, 2] {
            let pulled = images.pull(request(&format!("one.test/a:{tag}"))).await.unwrap();
            images.make_writable(&format!("c{tag}"), &pulled).await.unwrap();
        }
        for tag in [1, 2] {
            images.remove(&format!("one.test/a:{tag}")).await.unwrap();
            images.unmake_writable(&format!("c{tag}")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn whatever_a_kill_interrupts_the_next_start_is_whole() {
    // Every second layer does not pack, and so its blob is large.
    let noise = noise(100_000);
    let text = |n: usize, f: usize| match n % 2 {
        0 => format!("{f}").repeat(2000),
        _ => noise[f * 2500..][..2000 + f].iter().map(|byte| char::from(b' ' + byte % 95)).collect(),
    };
    let files = |n: usize| (0..40).map(move |f| (format!("d{n}/f{f}"), text(n, f)));
    let layers: Vec<Vec<u8>> = (0..4)
        .map(|n| {
            let files: Vec<_> = files(n).collect();
            tar(&files.iter().map(|(name, data)| (name.as_str(), data.as_str())).collect::<Vec<_>>())
        })
        .collect();
    let blobs: BTreeMap<String, Vec<u8>> = layers
        .iter()
        .map(|layer| gzip(layer))
        .map(|blob| (Digest::sha256(&blob).hex().to_owned(), blob))
        .collect();
    assert_eq!(blobs.values().filter(|blob| blob.len() as u64 >= LARGE).count(), 2);
    let shelf = Shelf::default();
    shelf.put("a:1", &image(&layers[..3], json!({})));
    shelf.put("a:2", &image(&layers[1..], json!({})));
    let fake = shelf.serve();
    let mut node = Node::new(&fake.host());
    node.settings.parts_from_bytes = LARGE;
    assert!(REGISTRIES.contains(&"one.test"));
    let (mut found, mut missing, mut parts) = (0, 0, 0);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for round in 0..ROUNDS {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        kill_after(&node, Duration::from_micros((random >> 33) % LIFE.as_micros() as u64));
        parts += check_parts(&node, &blobs);
        let images = node.open().await;
        node.check_settled().await;
        let list = images.list();
        let held: std::collections::BTreeSet<_> =
            list.iter().flat_map(|image| &image.layers).map(|layer| layer.diff_id.hex().to_owned()).collect();
        if images.writables().is_empty() {
            assert_eq!(node.names("layers"), Vec::from_iter(held), "round {round}");
        }
        for tag in [1, 2] {
            let name = format!("one.test/a:{tag}");
            if images.find(&name).is_none() {
                missing += 1;
                continue;
            }
            found += 1;
            for (n, layer) in layers.iter().enumerate().skip(tag - 1).take(3) {
                for (file, data) in files(n) {
                    let text = std::fs::read_to_string(node.layer(layer).join(file));
                    assert_eq!(text.unwrap(), data, "round {round}");
                }
            }
        }
        for writable in images.writables() {
            images.unmake_writable(&writable).await.unwrap();
        }
        drop(images);
    }
    println!("after {ROUNDS} kills: {found} images whole, {missing} not there, {parts} parts");
    assert!(found > 0 && missing > 0 && parts > 0, "the kills came at all moments");
    let images = node.open().await;
    for image in images.list() {
        images.remove(&image.id).await.unwrap();
    }
    node.check_empty().await;
}

/// Each part is the beginning of a run of its blob, byte for byte.
fn check_parts(node: &Node, blobs: &BTreeMap<String, Vec<u8>>) -> usize {
    let mut count = 0;
    for name in node.names("parts") {
        let blob = &blobs[&name];
        for entry in std::fs::read_dir(node.settings.root.join("parts").join(&name)).unwrap() {
            let path = entry.unwrap().path();
            let start: usize = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert!(blob[start..].starts_with(&bytes), "{} is no part of its blob", path.display());
            count += usize::from(!bytes.is_empty());
        }
    }
    count
}

/// Runs the victim and kills it so long after it began to work.
fn kill_after(node: &Node, time: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::victim", "--ignored", "--nocapture", "--test-threads=1"])
        .env(ROOT, node.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let started = Instant::now();
    let mut line = String::new();
    while !line.contains("open") {
        line.clear();
        assert!(
            std::io::BufRead::read_line(&mut output, &mut line).unwrap() > 0,
            "the victim ended by itself"
        );
        assert!(started.elapsed() < Duration::from_secs(30));
    }
    std::thread::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap();
}
