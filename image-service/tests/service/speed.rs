//! How long a pull takes, against `tar -xzf` of the same layer. By hand, in release:
//! `cargo test --release -p image-service --test service -- speed:: --ignored --nocapture`

use std::process::Command;
use std::time::Instant;

use serde_json::json;

use crate::support::shelf::{Node, gzip, image, request};
use crate::support::{docker_registry, shelf};

/// A layer of real files: what this machine has in `/usr/lib`.
fn layer(part: &str, limit: usize) -> Vec<u8> {
    let output = Command::new("tar").args(["-C", "/usr", "-cf", "-", part]).output().unwrap();
    let mut bytes = output.stdout;
    if bytes.len() > limit {
        // Cut between blocks; what is cut off is one file's end, so that file goes, too.
        let whole = tar_prefix(&bytes, limit);
        bytes.truncate(whole);
        bytes.resize(whole + 1024, 0);
    }
    bytes
}

fn tar_prefix(bytes: &[u8], limit: usize) -> usize {
    let mut archive = tar::Archive::new(bytes);
    let ends = archive.entries().unwrap().raw(true).map(|entry| {
        let entry = entry.unwrap();
        (entry.raw_header_position(), entry.header().entry_type())
    });
    let plain = |kind: tar::EntryType| kind.is_file() || kind.is_dir() || kind.is_symlink();
    let good = ends.filter(|(_, kind)| plain(*kind)).map(|(start, _)| usize::try_from(start).unwrap());
    good.take_while(|start| *start <= limit).last().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute and a quiet machine"]
async fn pull_against_tar() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let registry = docker_registry::DockerRegistry::start(&dir.path().join("storage"), "", "");
    let large = layer("lib", 372 << 20);
    let packed = gzip(&large);
    println!("one layer: {} MB, {} MB as gzip", large.len() >> 20, packed.len() >> 20);
    let archive = dir.path().join("layer.tar.gz");
    std::fs::write(&archive, &packed).unwrap();
    registry.push("one", "1", &image(std::slice::from_ref(&large), json!({})));
    for round in 0..3 {
        let out = dir.path().join(format!("out{round}"));
        std::fs::create_dir(&out).unwrap();
        rustix::fs::sync();
        let start = Instant::now();
        let status = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&out).status();
        let tar_seconds = start.elapsed().as_secs_f64();
        assert!(status.unwrap().success());
        std::fs::remove_dir_all(&out).unwrap();
        rustix::fs::sync();
        let node = Node::within(tempfile::tempdir_in("/var/tmp").unwrap(), &registry.host());
        let images = node.open().await;
        let start = Instant::now();
        images.pull(request("one.test/one:1")).await.unwrap();
        println!("tar {tar_seconds:.2} s, pull {:.2} s", start.elapsed().as_secs_f64());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants a quiet machine"]
async fn small_pulls() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let registry = docker_registry::DockerRegistry::start(&dir.path().join("storage"), "", "");
    for n in 0..10 {
        let layers = [shelf::tar(&[("a", "x")]), shelf::tar(&[("b", &format!("{n}").repeat(1_000_000))])];
        registry.push("small", &n.to_string(), &image(&layers, json!({})));
    }
    let node = Node::within(tempfile::tempdir_in("/var/tmp").unwrap(), &registry.host());
    let images = node.open().await;
    for n in 0..10 {
        let start = Instant::now();
        let pulled = images.pull(request(&format!("one.test/small:{n}"))).await.unwrap();
        let pull = start.elapsed();
        let start = Instant::now();
        images.make_writable("c", &pulled).await.unwrap();
        let make = start.elapsed();
        let start = Instant::now();
        images.unmake_writable("c").await.unwrap();
        let unmake = start.elapsed();
        let start = Instant::now();
        images.remove(&pulled.id).await.unwrap();
        println!("pull {pull:?}, writable {make:?}, unmake {unmake:?}, remove {:?}", start.elapsed());
    }
}
