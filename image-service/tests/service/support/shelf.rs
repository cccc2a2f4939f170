//! Images for the whole service: real layers, a registry's shelf of them, and a node that pulls.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use image_service::digest::Digest;
use image_service::manifest::Descriptor;
use image_service::{Images, PullRequest, Settings};
use serde_json::{Value, json};

use super::fake::{Fake, Manner, Reply, Seen};
use super::picture::{OCI_MANIFEST, Picture};

pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A tar of plain files, directories (`name/`), links (`name -> target`) and whiteouts.
pub(crate) fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        if let Some((name, target)) = name.split_once(" -> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, name, target).unwrap();
        } else if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            builder.append_data(&mut header, name, &[][..]).unwrap();
        } else {
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, name, data.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image of these layers (plain tars, sent as gzip); `config` is its `config` object.
pub(crate) fn image(layers: &[Vec<u8>], config: Value) -> Picture {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
    image_claiming(layers, config, &diff_ids)
}

/// The same with diff IDs that may lie.
pub(crate) fn image_claiming(layers: &[Vec<u8>], config: Value, diff_ids: &[Digest]) -> Picture {
    let mut blobs = BTreeMap::new();
    let mut add = |media_type: &str, bytes: Vec<u8>| {
        let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
        blobs.insert(descriptor.digest.clone(), bytes);
        descriptor
    };
    let document = json!({"os": "linux", "architecture": "amd64", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = add(CONFIG, serde_json::to_vec(&document).unwrap());
    let layers: Vec<Descriptor> = layers.iter().map(|layer| add(LAYER, gzip(layer))).collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
    let layer = layers.first().cloned().unwrap_or_else(|| config.clone());
    let mut picture = Picture { blobs, manifests: BTreeMap::new(), config, layer, top: Digest::sha256(b"") };
    picture.put(OCI_MANIFEST, &manifest);
    picture
}

pub(crate) fn id(picture: &Picture) -> String {
    picture.config.digest.to_string()
}

/// What a registry has: `repository:tag` and the image it means now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<BTreeMap<String, Picture>>>);

impl Shelf {
    pub(crate) fn put(&self, name: &str, picture: &Picture) {
        self.0.lock().unwrap().insert(name.to_owned(), picture.clone());
    }

    pub(crate) fn answer(&self, seen: &Seen) -> Reply {
        let shelf = self.0.lock().unwrap();
        let Some(path) = seen.path.strip_prefix("/v2/") else { return Reply::new(404, "") };
        if path.is_empty() {
            return Reply::new(200, "{}");
        }
        let path = path.split('?').next().unwrap();
        if let Some((repository, tag)) = path.split_once("/manifests/")
            && !tag.contains(':')
        {
            return match shelf.get(&format!("{repository}:{tag}")) {
                Some(picture) => picture.answer(seen),
                None => Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#),
            };
        }
        let digest = path.rsplit('/').next().and_then(|name| Digest::parse(name).ok());
        let has = |picture: &&Picture| {
            digest
                .as_ref()
                .is_some_and(|d| picture.blobs.contains_key(d) || picture.manifests.contains_key(d))
        };
        match shelf.values().find(has) {
            Some(picture) => picture.answer(seen),
            None => Reply::new(404, "{}"),
        }
    }

    pub(crate) fn serve(&self) -> Fake {
        let shelf = self.clone();
        Fake::start(move |seen| shelf.answer(seen))
    }

    /// Whoever asks what refers to an image is answered with this status.
    pub(crate) fn serve_no_referrers(&self, status: Arc<AtomicU16>) -> Fake {
        let shelf = self.clone();
        Fake::start(move |seen| match seen.path.contains("/referrers/") {
            true => Reply::new(status.load(Ordering::Relaxed), ""),
            false => shelf.answer(seen),
        })
    }

    /// Blobs are promised, and do not come while `silent` is set.
    pub(crate) fn serve_unless(&self, silent: Arc<AtomicBool>) -> Fake {
        let shelf = self.clone();
        Fake::start(move |seen| {
            let reply = shelf.answer(seen);
            let is_held_back = silent.load(Ordering::Relaxed) && seen.path.contains("/blobs/");
            if is_held_back { reply.manner(Manner::Silent(0)) } else { reply }
        })
    }
}

/// A node's image service with its own root, whose registries all are one fake.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) settings: Settings,
}

/// All served by the fake, each under its own name.
pub(crate) const REGISTRIES: [&str; 3] = ["one.test", "two.test", "docker.io"];

impl Node {
    pub(crate) fn new(host: &str) -> Node {
        Node::within(tempfile::tempdir().unwrap(), host)
    }

    pub(crate) fn within(dir: tempfile::TempDir, host: &str) -> Node {
        let conf = dir.path().join("registries.conf");
        let rule =
            |name| format!("[[registry]]\nprefix = \"{name}\"\nlocation = \"{host}\"\ninsecure = true\n");
        std::fs::write(&conf, REGISTRIES.map(rule).concat()).unwrap();
        let mut settings = Settings::new(&dir.path().join("root"));
        settings.registries_conf = conf;
        settings.registries_conf_dir = dir.path().join("registries.conf.d");
        settings.policy = dir.path().join("policy.json");
        settings.registries_d = dir.path().join("registries.d");
        settings.policy_dir = dir.path().join("policies.d");
        settings.certs_dirs = Vec::new();
        Node { dir, settings }
    }

    pub async fn open(&self) -> Images {
        Images::open(self.settings.clone()).await.unwrap()
    }

    /// The names in a directory of the store, sorted.
    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.settings.root.join(dir)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn layer(&self, layer: &[u8]) -> PathBuf {
        self.settings.root.join("layers").join(Digest::sha256(layer).hex())
    }

    /// Nothing of any image is left, and nothing unfinished. What is taken away goes by and by.
    pub async fn check_empty(&self) {
        self.check_gone(&["layers", "ingest", "trash"]).await;
    }

    pub async fn check_settled(&self) {
        self.check_gone(&["ingest", "trash"]).await;
    }

    async fn check_gone(&self, dirs: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left: Vec<_> = dirs.iter().flat_map(|dir| self.names(dir)).collect();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{left:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A node that has just been opened, and its registry with these images, which goes when it is dropped.
pub(crate) async fn serving(pictures: &[(&str, &Picture)]) -> (Fake, Node, Images) {
    let shelf = Shelf::default();
    for (name, picture) in pictures {
        shelf.put(name, picture);
    }
    let fake = shelf.serve();
    let node = Node::new(&fake.host());
    let images = node.open().await;
    (fake, node, images)
}

pub(crate) fn request(reference: &str) -> PullRequest {
    PullRequest { reference: reference.to_owned(), ..PullRequest::default() }
}

pub(crate) fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
