//! Builds container images in memory: layers, config, manifest, index.
//!
//! Output is the same for the same input (sorted, no clock), so digests can be
//! named in tests.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The media types of one family of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Docker,
    Oci,
}

/// How a layer's tar is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Format {
    fn manifest(self) -> &'static str {
        match self {
            Format::Docker => "application/vnd.docker.distribution.manifest.v2+json",
            Format::Oci => "application/vnd.oci.image.manifest.v1+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Format::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
            Format::Oci => "application/vnd.oci.image.index.v1+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Format::Docker => "application/vnd.docker.container.image.v1+json",
            Format::Oci => "application/vnd.oci.image.config.v1+json",
        }
    }

    fn layer(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Format::Docker, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
            (Format::Docker, _) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Format::Oci, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
            (Format::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Format::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// `sha256:<hex>` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A layer's tar while it is being written.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").field("bytes", &self.tar.get_ref().len()).finish()
    }
}

impl Default for Layer {
    fn default() -> Self {
        Layer::new()
    }
}

impl Layer {
    pub fn new() -> Layer {
        Layer { tar: tar::Builder::new(Vec::new()) }
    }

    fn entry(
        mut self,
        kind: tar::EntryType,
        path: &str,
        mode: u32,
        link: Option<&str>,
        data: &[u8],
    ) -> Layer {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        match link {
            Some(target) => self.tar.append_link(&mut header, path, target),
            None => self.tar.append_data(&mut header, path, data),
        }
        .expect("writing a tar entry to memory");
        self
    }

    pub fn dir(self, path: &str, mode: u32) -> Layer {
        self.entry(tar::EntryType::Directory, path, mode, None, &[])
    }

    pub fn file(self, path: &str, mode: u32, data: &[u8]) -> Layer {
        self.entry(tar::EntryType::Regular, path, mode, None, data)
    }

    pub fn hard_link(self, path: &str, target: &str) -> Layer {
        self.entry(tar::EntryType::Link, path, 0o755, Some(target), &[])
    }

    pub fn symlink(self, path: &str, target: &str) -> Layer {
        self.entry(tar::EntryType::Symlink, path, 0o777, Some(target), &[])
    }

    pub fn finish(self) -> Vec<u8> {
        self.tar.into_inner().expect("ending a tar in memory")
    }
}

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub format: Format,
    pub compression: Compression,
    /// Uncompressed tars, lowest first.
    pub layers: Vec<Vec<u8>>,
    /// The `config` object of the image config: `Cmd`, `Entrypoint`, `Env`, `User`…
    pub config: Value,
    /// One manifest per architecture, in an index; empty for a bare amd64 manifest.
    pub architectures: Vec<&'static str>,
    /// Of each manifest.
    pub annotations: BTreeMap<String, String>,
}

impl Recipe {
    pub fn new(layers: Vec<Vec<u8>>, config: Value) -> Recipe {
        Recipe {
            format: Format::Oci,
            compression: Compression::Gzip,
            layers,
            config,
            architectures: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// A Docker manifest list for amd64 and arm64, as most published images are.
    pub fn docker_list(mut self) -> Recipe {
        self.format = Format::Docker;
        self.architectures = vec!["amd64", "arm64"];
        self
    }

    pub fn build(&self) -> Built {
        let mut blobs = BTreeMap::new();
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for tar in &self.layers {
            let packed = compress(self.compression, tar);
            let name = digest(&packed);
            layers.push(
                json!({"mediaType": self.format.layer(self.compression), "size": packed.len(), "digest": name}),
            );
            diff_ids.push(digest(tar));
            blobs.insert(name, packed);
        }
        let architectures =
            if self.architectures.is_empty() { vec!["amd64"] } else { self.architectures.clone() };
        let mut manifests = Vec::new();
        for architecture in &architectures {
            let config = json!({
                "architecture": architecture,
                "os": "linux",
                "created": "2023-11-14T22:13:20Z",
                "config": self.config,
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            });
            let config = serde_json::to_vec(&config).expect("JSON of a config");
            let mut manifest = json!({
                "schemaVersion": 2,
                "mediaType": self.format.manifest(),
                "config": {"mediaType": self.format.config(), "size": config.len(), "digest": digest(&config)},
                "layers": layers,
            });
            if !self.annotations.is_empty() {
                manifest["annotations"] = json!(self.annotations);
            }
            blobs.insert(digest(&config), config);
            manifests.push(Manifest {
                media_type: self.format.manifest(),
                body: serde_json::to_vec(&manifest).expect("JSON of a manifest"),
            });
        }
        let top = if self.architectures.is_empty() {
            manifests.pop().expect("one manifest")
        } else {
            self.index(&architectures, &manifests)
        };
        Built { top, children: manifests, blobs }
    }

    fn index(&self, architectures: &[&str], manifests: &[Manifest]) -> Manifest {
        let entries: Vec<Value> = architectures
            .iter()
            .zip(manifests)
            .map(|(architecture, manifest)| {
                json!({
                    "mediaType": manifest.media_type,
                    "size": manifest.body.len(),
                    "digest": manifest.digest(),
                    "platform": {"architecture": architecture, "os": "linux"},
                })
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": self.format.index(), "manifests": entries});
        Manifest {
            media_type: self.format.index(),
            body: serde_json::to_vec(&index).expect("JSON of an index"),
        }
    }
}

fn compress(compression: Compression, tar: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => tar.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).expect("gzip to memory");
            encoder.finish().expect("gzip to memory")
        }
        Compression::Zstd => zstd::encode_all(tar, 3).expect("zstd to memory"),
    }
}

/// A manifest or an index, as served.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub media_type: &'static str,
    pub body: Vec<u8>,
}

impl Manifest {
    pub fn digest(&self) -> String {
        digest(&self.body)
    }
}

/// A whole image, ready to be served.
#[derive(Debug, Clone)]
pub struct Built {
    /// What a tag points to.
    pub top: Manifest,
    /// The manifests that an index names.
    pub children: Vec<Manifest>,
    /// Configs and layers, by digest.
    pub blobs: BTreeMap<String, Vec<u8>>,
}

/// An artifact as `oras push` makes it: an empty configuration, and a blob for each file, titled.
pub fn artifact(files: &[(&str, &[u8])]) -> Built {
    let mut blobs = BTreeMap::new();
    let mut add = |media_type: &str, bytes: &[u8]| {
        blobs.insert(digest(bytes), bytes.to_vec());
        json!({"mediaType": media_type, "size": bytes.len(), "digest": digest(bytes)})
    };
    let config = add("application/vnd.oci.empty.v1+json", b"{}");
    let titled = |(title, bytes): &(&str, &[u8])| {
        let mut blob = add("application/octet-stream", bytes);
        blob["annotations"] = json!({"org.opencontainers.image.title": title});
        blob
    };
    let layers: Vec<Value> = files.iter().map(titled).collect();
    let media_type = Format::Oci.manifest();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "artifactType": "application/vnd.test.model",
        "config": config,
        "layers": layers,
    });
    let body = serde_json::to_vec(&manifest).expect("JSON of a manifest");
    Built { top: Manifest { media_type, body }, children: Vec::new(), blobs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_recipe_gives_the_same_digest() {
        let recipe = || {
            Recipe::new(vec![Layer::new().file("etc/a", 0o644, b"x").finish()], json!({"Cmd": ["sh"]}))
                .docker_list()
                .build()
        };
        assert_eq!(recipe().top.digest(), recipe().top.digest());
        assert_eq!(recipe().children.len(), 2);
    }
}
