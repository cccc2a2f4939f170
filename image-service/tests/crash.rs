//! A pull killed at any moment: the next start finds whole images, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that can't go on is to fail")]
#![allow(unreachable_pub, reason = "modules of a test are its own")]

#[path = "support/fake.rs"]
#[allow(dead_code)]
mod fake;
#[path = "support/picture.rs"]
#[allow(dead_code)]
mod picture;
#[path = "support/shelf.rs"]
#[allow(dead_code)]
mod shelf;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use shelf::{Node, REGISTRIES, Shelf, image, request, tar};

const ROOT: &str = "BERTH_TEST_CRASH_ROOT";
const ROUNDS: u32 = 25;

/// Pulls and removes without end; killed by the test below.
#[tokio::test]
#[ignore = "the other half of the test below"]
async fn victim() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let mut settings = image_service::Settings::new(&root.join("root"));
    settings.registries_conf = root.join("registries.conf");
    settings.registries_conf_dir = root.join("none");
    settings.policy = root.join("none");
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
    let files = |n: usize| (0..40).map(move |f| (format!("d{n}/f{f}"), format!("{f}").repeat(2000)));
    let layers: Vec<Vec<u8>> = (0..4)
        .map(|n| {
            let files: Vec<_> = files(n).collect();
            tar(&files.iter().map(|(name, data)| (name.as_str(), data.as_str())).collect::<Vec<_>>())
        })
        .collect();
    let shelf = Shelf::default();
    shelf.put("a:1", &image(&layers[..3], json!({})));
    shelf.put("a:2", &image(&layers[1..], json!({})));
    let fake = shelf.serve();
    let node = Node::new(&fake.host());
    assert!(REGISTRIES.contains(&"one.test"));
    let (mut found, mut missing) = (0, 0);
    for round in 0..ROUNDS {
        kill_after(&node, Duration::from_micros(u64::from(round * 79_190 % 600_000)));
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
    println!("after {ROUNDS} kills: {found} images whole, {missing} not there");
    let images = node.open().await;
    for image in images.list() {
        images.remove(&image.id).await.unwrap();
    }
    node.check_empty().await;
}

/// Runs the victim and kills it so long after it began to work.
fn kill_after(node: &Node, time: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture", "--test-threads=1"])
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
