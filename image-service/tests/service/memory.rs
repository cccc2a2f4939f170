//! What hostile and large images cost in memory: each is pulled by a process of its own, whose peak is read when it is
//! done. Each hostile one ends in a named error and leaves nothing.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use image_service::digest::Digest;
use image_service::manifest::Descriptor;
use serde_json::json;

use crate::support::fake::{Fake, Manner, Reply};
use crate::support::picture::{OCI_MANIFEST, Picture, noise};
use crate::support::shelf::{CONFIG, LAYER, Node, Shelf, gzip, request, tar};

const ROOT: &str = "BERTH_TEST_MEMORY_ROOT";
const MAX_LAYER: &str = "BERTH_TEST_MEMORY_MAX_LAYER";
/// In seconds.
const PATIENCE: &str = "BERTH_TEST_MEMORY_PATIENCE";

/// The aim for all of the daemon, whatever the image; here it is a test program without optimisation.
const PEAK_MIB: u64 = 64;
const MIB: usize = 1 << 20;
/// As berthd tells its own heap: freed blocks go back.
const HEAP: &str = "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072";

/// The process that pulls.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is what the other tests start"]
async fn pulls_for_another() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let mut settings = image_service::Settings::new(&root.join("root"));
    settings.registries_conf = root.join("registries.conf");
    settings.registries_conf_dir = root.join("none");
    settings.policy = root.join("none");
    settings.unpacker = crate::counted::unpacker();
    if let Some(bytes) = number(MAX_LAYER) {
        settings.max_layer_bytes = bytes;
    }
    // As on a large node.
    settings.parallel_layers = 8;
    let images = image_service::Images::open(settings).await.unwrap();
    // `5`: the peak is forgotten (proc_pid_clear_refs(5)).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let patience = Duration::from_secs(number(PATIENCE).unwrap_or(120));
    let told = match tokio::time::timeout(patience, images.pull(request("one.test/a:1"))).await {
        Ok(Ok(image)) => format!("an image of {} MiB", image.size_bytes >> 20),
        Ok(Err(error)) => {
            let all = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
        }
        Err(_) => "nothing until then".to_owned(),
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("peak:{}", peak.trim().trim_end_matches(" kB"));
    println!("told:{}", told.replace('\n', " "));
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// What the process said.
struct Said {
    peak_mib: u64,
    told: String,
    node: Node,
}

fn pull(fake: &Fake, environment: &[(&str, u64)]) -> Said {
    let node = Node::new(&fake.host());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "memory::pulls_for_another", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(ROOT, node.dir.path()).env("GLIBC_TUNABLES", HEAP);
    command.envs(environment.iter().map(|(name, value)| (name, value.to_string())));
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line =
        |word: &str| text.lines().find_map(|line| line.split_once(word)).map(|(_, rest)| rest.to_owned());
    let (Some(peak), Some(told)) = (line("peak:"), line("told:")) else {
        panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr))
    };
    let peak_mib = peak.parse::<u64>().unwrap() >> 10;
    println!("peak {peak_mib} MiB: {told:.200}");
    Said { peak_mib, told, node }
}

/// Ends in this error, has taken no more than the aim, and has left nothing.
fn check_refused(fake: &Fake, environment: &[(&str, u64)], why: &str) {
    let said = pull(fake, environment);
    assert!(said.told.contains(why), "{} does not say {why}", said.told);
    assert!(said.peak_mib <= PEAK_MIB, "{} MiB until {}", said.peak_mib, said.told);
    for dir in ["layers", "ingest", "parts"] {
        assert_eq!(said.node.names(dir), Vec::<String>::new(), "{dir} after {}", said.told);
    }
}

fn check_pulled(fake: &Fake, image: &str) -> Node {
    let said = pull(fake, &[]);
    assert!(said.told.starts_with(image), "{}", said.told);
    assert!(said.peak_mib <= PEAK_MIB, "{} MiB for {}", said.peak_mib, said.told);
    said.node
}

/// An image of blobs that are layers, or say so.
fn of_blobs(blobs: &[Vec<u8>], diff_ids: &[Digest]) -> Picture {
    let mut all = BTreeMap::new();
    let mut add = |media_type: &str, bytes: Vec<u8>| {
        let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
        all.insert(descriptor.digest.clone(), bytes);
        descriptor
    };
    let config = json!({"os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = add(CONFIG, serde_json::to_vec(&config).unwrap());
    let layers: Vec<Descriptor> = blobs.iter().map(|blob| add(LAYER, blob.clone())).collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
    let layer = layers.first().cloned().unwrap_or_else(|| config.clone());
    let mut picture =
        Picture { blobs: all, manifests: BTreeMap::new(), config, layer, top: Digest::sha256(b"") };
    picture.put(OCI_MANIFEST, &manifest);
    picture
}

fn serve(picture: &Picture) -> Fake {
    let shelf = Shelf::default();
    shelf.put("a:1", picture);
    shelf.serve()
}

/// One layer that nobody comes to the end of.
fn serve_hostile(blob: Vec<u8>) -> Fake {
    serve(&of_blobs(&[blob], &[Digest::sha256(b"never reached")]))
}

fn header(kind: tar::EntryType, name: &str, bytes: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(bytes);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// So many times the same MiB, in members of 16.
fn gzip_of(first: &[u8], mib: &[u8], times: usize) -> Vec<u8> {
    let member = gzip(&mib.repeat(16));
    [gzip(first), member.repeat(times / 16)].concat()
}

fn zstd_of(first: &[u8], mib: &[u8], times: usize) -> Vec<u8> {
    let pack = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
    [pack(first), pack(&mib.repeat(16)).repeat(times / 16)].concat()
}

/// A layer with one file of so many MiB, packed by zstd with this window.
fn windowed(name: &str, mib: usize, window_log: u32) -> (Vec<u8>, Digest) {
    let plain = tar(&[(name, &"x".repeat(mib * MIB))]);
    let mut plain = plain;
    // What repeats only after a MiB: the window is written all over, and the blob stays small.
    let noise = noise(MIB);
    for at in 0..mib {
        plain[512 + at * MIB..][..MIB].copy_from_slice(&noise);
    }
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(window_log).unwrap();
    encoder.write_all(&plain).unwrap();
    (encoder.finish().unwrap(), Digest::sha256(&plain))
}

#[test]
fn a_bomb_of_gzip_takes_no_memory() {
    let start = header(tar::EntryType::Regular, "zeros", 100 << 30);
    let fake = serve_hostile(gzip_of(&start, &vec![0; MIB], 512));
    check_refused(&fake, &[(MAX_LAYER, 256 << 20)], "larger than 268435456 bytes when unpacked");
}

#[test]
fn a_bomb_of_zstd_takes_no_memory() {
    let start = header(tar::EntryType::Regular, "zeros", 100 << 30);
    let fake = serve_hostile(zstd_of(&start, &vec![0; MIB], 1536));
    check_refused(&fake, &[], "this is a decompression bomb");
}

#[test]
fn a_bomb_within_a_bomb_takes_no_memory() {
    let start = header(tar::EntryType::Regular, "zeros", 100 << 30);
    let inner = gzip_of(&start, &vec![0; MIB], 512);
    check_refused(&serve_hostile(gzip(&inner)), &[], "broken header at byte 0");
    check_refused(&serve_hostile(zstd::bulk::compress(&inner, 1).unwrap()), &[], "broken header at byte 0");
}

#[test]
fn names_and_extended_headers_of_a_gigabyte_take_no_memory() {
    for (kind, why) in [
        (tar::EntryType::GNULongName, "the name is longer than 4095 bytes"),
        (tar::EntryType::GNULongLink, "the name is longer than 4095 bytes"),
        (tar::EntryType::XHeader, "its extended header is larger"),
        (tar::EntryType::XGlobalHeader, "its extended header is larger"),
    ] {
        check_refused(&serve_hostile(gzip_of(&header(kind, "x", 1 << 30), &vec![b'a'; MIB], 1024)), &[], why);
    }
}

#[test]
fn documents_without_end_take_no_memory() {
    let picture = of_blobs(&[gzip(&tar(&[("a", "x")]))], &[Digest::sha256(&tar(&[("a", "x")]))]);
    for (of, why) in
        [("/manifests/", "the answer is longer than 4194304 bytes"), ("/blobs/", "the answer is longer than")]
    {
        let picture = picture.clone();
        let fake = Fake::start(move |seen| match seen.path.contains(of) {
            true => {
                Reply::new(200, vec![b' '; MIB]).header("Content-Type", OCI_MANIFEST).manner(Manner::Endless)
            }
            false => picture.answer(seen),
        });
        check_refused(&fake, &[], why);
    }
}

#[test]
fn ten_thousand_layers_take_no_memory() {
    let blobs: Vec<Vec<u8>> = (0..10_000).map(|n: u32| n.to_le_bytes().to_vec()).collect();
    let diff_ids: Vec<Digest> = blobs.iter().map(|blob| Digest::sha256(blob)).collect();
    check_refused(&serve(&of_blobs(&blobs, &diff_ids)), &[], "layers");
}

#[test]
fn a_slow_registry_takes_no_memory() {
    let layers: Vec<_> = (0..30).map(|n| tar(&[(&format!("f{n}"), &"x".repeat(100_000))])).collect();
    let picture = crate::support::shelf::image(&layers, json!({}));
    let fake = Fake::start(move |seen| {
        let reply = picture.answer(seen);
        let dripping = Manner::Drip(Duration::from_millis(20));
        if seen.path.contains("/blobs/") && !seen.path.ends_with(picture.config.digest.as_str()) {
            reply.manner(dripping)
        } else {
            reply
        }
    });
    let said = pull(&fake, &[(PATIENCE, 3)]);
    assert_eq!(said.told, "nothing until then");
    assert!(said.peak_mib <= PEAK_MIB, "{} MiB", said.peak_mib);
}

#[test]
fn a_layer_of_many_files_passes_through_little_memory() {
    let names: Vec<String> = (0..60_000).map(|n| format!("d{}/f{n}", n % 100)).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let plain = tar(&files);
    check_pulled(&serve(&of_blobs(&[gzip(&plain)], &[Digest::sha256(&plain)])), "an image of ");
}

#[test]
fn a_large_layer_passes_through_little_memory() {
    let mut plain = header(tar::EntryType::Regular, "large", 256 << 20);
    plain.extend(noise(MIB).repeat(256));
    plain.extend([0; 1024]);
    let picture = of_blobs(&[gzip(&plain)], &[Digest::sha256(&plain)]);
    check_pulled(&serve(&picture), "an image of 256 MiB");
}

#[test]
fn usual_windows_of_many_layers_share_little_memory() {
    let layers: Vec<_> = (0..8).map(|n| windowed(&format!("f{n}"), 24, 23)).collect();
    let (blobs, diff_ids): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
    check_pulled(&serve(&of_blobs(&blobs, &diff_ids)), "an image of 192 MiB");
}

#[test]
fn the_largest_windows_are_not_the_daemons_memory() {
    let layers: Vec<_> = (0..3).map(|n| windowed(&format!("f{n}"), 144, 27)).collect();
    let (blobs, diff_ids): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
    check_pulled(&serve(&of_blobs(&blobs, &diff_ids)), "an image of 432 MiB");
    let beyond = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3][..], &[1, 0, 0]].concat();
    check_refused(&serve_hostile(beyond), &[], "a window of more than 128 MiB");
}

#[test]
fn a_large_window_of_a_later_frame_is_found_out_in_time() {
    let plain = tar(&[("a", "x"), ("b", &"y".repeat(150 * MIB))]);
    let (start, rest) = plain.split_at(1024);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(rest).unwrap();
    let blob = [zstd::bulk::compress(start, 1).unwrap(), encoder.finish().unwrap()].concat();
    let node = check_pulled(&serve(&of_blobs(&[blob], &[Digest::sha256(&plain)])), "an image of 150 MiB");
    assert_eq!(std::fs::read(node.layer(&plain).join("a")).unwrap(), b"x");
}
