//! A small image in memory: its blobs, its manifests, and the answers of a registry that has it.

use std::collections::BTreeMap;

use image_service::digest::Digest;
use image_service::manifest::Descriptor;
use serde_json::{Value, json};

use super::fake::{Reply, Seen};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Everything is by digest; `top` is what a tag means.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(crate) manifests: BTreeMap<Digest, (String, Vec<u8>)>,
    pub(crate) config: Descriptor,
    pub(crate) layer: Descriptor,
    pub(crate) top: Digest,
}

impl Picture {
    /// An image with one layer of these bytes; the client never looks inside.
    pub(crate) fn oci(layer: &[u8]) -> Picture {
        Picture::new(
            layer,
            [
                OCI_MANIFEST,
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ],
        )
    }

    pub(crate) fn docker(layer: &[u8]) -> Picture {
        Picture::new(
            layer,
            [
                DOCKER_MANIFEST,
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ],
        )
    }

    fn new(layer: &[u8], [manifest_type, config_type, layer_type]: [&str; 3]) -> Picture {
        let mut blobs = BTreeMap::new();
        let mut add = |media_type: &str, bytes: Vec<u8>| {
            let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
            blobs.insert(descriptor.digest.clone(), bytes);
            descriptor
        };
        let config = add(config_type, br#"{"os":"linux","architecture":"amd64"}"#.to_vec());
        let layer = add(layer_type, layer.to_vec());
        let manifest =
            json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer]});
        let mut picture =
            Picture { blobs, manifests: BTreeMap::new(), config, layer, top: Digest::sha256(b"") };
        picture.put(manifest_type, &manifest);
        picture
    }

    /// Adds a document and makes it the top.
    pub(crate) fn put(&mut self, media_type: &str, document: &Value) {
        let bytes = serde_json::to_vec(document).unwrap();
        self.top = Digest::sha256(&bytes);
        self.manifests.insert(self.top.clone(), (media_type.to_owned(), bytes));
    }

    /// An index over the present top, for the platform.
    pub(crate) fn indexed(mut self, media_type: &str, platform: &str) -> Picture {
        let (child_type, bytes) = &self.manifests[&self.top];
        let (os, architecture) = platform.split_once('/').unwrap();
        let other = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [
            {"mediaType": child_type, "digest": other, "size": 1, "platform": {"os": "plan9", "architecture": "mips"}},
            {"mediaType": child_type, "digest": self.top, "size": bytes.len(),
             "platform": {"os": os, "architecture": architecture}},
        ]});
        self.put(media_type, &index);
        self
    }

    /// What a good registry answers, whatever the repository is called.
    pub(crate) fn answer(&self, seen: &Seen) -> Reply {
        let (kind, name) = seen.path.rsplit_once('/').unwrap_or_default();
        let digest = Digest::parse(name).ok();
        if kind.ends_with("/manifests") {
            let digest = digest.unwrap_or_else(|| self.top.clone());
            return match self.manifests.get(&digest) {
                Some((media_type, bytes)) => Reply::new(200, bytes.clone())
                    .header("Content-Type", media_type)
                    .header("Docker-Content-Digest", digest.as_str()),
                None => Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#),
            };
        }
        match digest.and_then(|digest| self.blobs.get(&digest)) {
            Some(bytes) => Reply::ranged(seen, bytes),
            None => Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"unknown"}]}"#),
        }
    }
}

/// Bytes that look random and are always the same.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| step()).collect()
}
