//! The images that are pulled: real files of this machine's Debian packages in three shapes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::image::{Built, Manifest, digest};

/// Uncompressed bytes of the large images.
const BYTES: u64 = 300 << 20;
const MANY_LAYERS: usize = 20;
const SMALL_FILES: usize = 100_000;
/// A file larger than this would make a layer of its own.
const MAX_FILE: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    OneGzip,
    TwentyGzip,
    Zstd,
    Small,
}

/// An image and what is known of it.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) built: Built,
    /// The layers as they are sent.
    layers: Vec<Vec<u8>>,
    plain_bytes: usize,
    files: usize,
}

impl Shape {
    pub(super) const ALL: [Shape; 4] = [Shape::OneGzip, Shape::TwentyGzip, Shape::Zstd, Shape::Small];

    pub(super) fn name(self) -> &'static str {
        match self {
            Shape::OneGzip => "one_gzip",
            Shape::TwentyGzip => "twenty_gzip",
            Shape::Zstd => "zstd",
            Shape::Small => "small",
        }
    }

    pub(super) fn build(self) -> Result<Picture> {
        let files = debian_files()?;
        let tars = match self {
            Shape::OneGzip | Shape::Zstd => vec![tar(&files)?],
            Shape::TwentyGzip => {
                files.chunk_by_size(MANY_LAYERS).iter().map(|part| tar(part)).collect::<Result<_>>()?
            }
            Shape::Small => vec![small(&tar(&files)?)?],
        };
        let count = match self {
            Shape::Small => SMALL_FILES,
            Shape::OneGzip | Shape::TwentyGzip | Shape::Zstd => files.len(),
        };
        picture(&tars, self == Shape::Zstd, count, "bench")
    }
}

impl Picture {
    /// The layers' digests, for the floor.
    pub(super) fn digests(&self) -> Vec<String> {
        self.layers.iter().map(|layer| digest(layer)).collect()
    }

    pub(super) fn describe(&self) -> String {
        let packed: usize = self.layers.iter().map(Vec::len).sum();
        format!(
            "{} layers, {} files, {} MB, packed {} MB",
            self.layers.len(),
            self.files,
            self.plain_bytes / 1_000_000,
            packed / 1_000_000
        )
    }
}

/// An image of a few bytes, unlike any other number's.
pub(super) fn tiny(number: usize) -> Picture {
    let layer = crate::image::Layer::new().file("a", 0o644, b"x").finish();
    picture(&[layer], false, 1, &format!("tiny {number}")).expect("a tiny image is built in memory")
}

/// The files of installed packages, in the packages' order, until there are enough.
fn debian_files() -> Result<Vec<PathBuf>> {
    let mut lists: Vec<PathBuf> =
        std::fs::read_dir("/var/lib/dpkg/info")?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    lists.retain(|path| path.extension().is_some_and(|extension| extension == "list"));
    lists.sort();
    let mut files = Vec::new();
    let mut bytes = 0;
    for list in lists {
        for line in std::fs::read_to_string(list)?.lines().filter(|line| line.starts_with("/usr/")) {
            let Ok(metadata) = std::fs::symlink_metadata(line) else { continue };
            if metadata.is_file() && metadata.len() <= MAX_FILE {
                bytes += metadata.len();
                files.push(PathBuf::from(line));
            }
            if bytes >= BYTES {
                return Ok(files);
            }
        }
    }
    ensure!(bytes >= BYTES / 2, "this machine has only {bytes} bytes of packages");
    Ok(files)
}

trait ChunkBySize {
    /// So many runs of about the same number of bytes.
    fn chunk_by_size(&self, parts: usize) -> Vec<Vec<PathBuf>>;
}

impl ChunkBySize for Vec<PathBuf> {
    fn chunk_by_size(&self, parts: usize) -> Vec<Vec<PathBuf>> {
        let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let each = self.iter().map(size).sum::<u64>() / parts as u64 + 1;
        let mut chunks = vec![Vec::new(); parts];
        let mut before = 0;
        for path in self {
            chunks[usize::try_from(before / each).unwrap_or(0).min(parts - 1)].push(path.clone());
            before += size(path);
        }
        chunks
    }
}

fn tar(files: &[PathBuf]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut made = std::collections::BTreeSet::new();
    for path in files {
        let inside = path.strip_prefix("/")?;
        for parent in inside.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            if !parent.as_os_str().is_empty() && made.insert(parent.to_owned()) {
                directory(&mut builder, parent)?;
            }
        }
        let data = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        file(&mut builder, inside, &data)?;
    }
    Ok(builder.into_inner()?)
}

/// As many small files, of pieces of real ones.
fn small(real: &[u8]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut at = 0;
    for number in 0..SMALL_FILES {
        if number % 100 == 0 {
            directory(&mut builder, Path::new(&format!("d{}", number / 100)))?;
        }
        let length = 200 + number * 37 % 3000;
        let piece = real.get(at..at + length).context("the real files are too few")?;
        at += length;
        file(&mut builder, Path::new(&format!("d{}/f{number}", number / 100)), piece)?;
    }
    Ok(builder.into_inner()?)
}

fn directory(builder: &mut tar::Builder<Vec<u8>>, path: &Path) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_mtime(1_700_000_000);
    header.set_size(0);
    Ok(builder.append_data(&mut header, path, &[][..])?)
}

fn file(builder: &mut tar::Builder<Vec<u8>>, path: &Path, data: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header.set_size(data.len() as u64);
    Ok(builder.append_data(&mut header, path, data)?)
}

/// As registries have them: docker's default level of gzip, and zstd's own.
fn compress(tar: &[u8], zstd: bool) -> Result<Vec<u8>> {
    if zstd {
        return Ok(zstd::encode_all(tar, 3)?);
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(tar)?;
    Ok(encoder.finish()?)
}

fn picture(tars: &[Vec<u8>], zstd: bool, files: usize, name: &str) -> Result<Picture> {
    let layers: Vec<Vec<u8>> = tars.iter().map(|tar| compress(tar, zstd)).collect::<Result<_>>()?;
    let diff_ids: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64", "os": "linux", "config": {"Labels": {"name": name}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))?;
    let kind = if zstd { "zstd" } else { "gzip" };
    let descriptor = |media_type: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{media_type}"), "size": bytes.len(), "digest": digest(bytes)});
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("config.v1+json", &config),
        "layers": layers.iter().map(|layer| descriptor(&format!("layer.v1.tar+{kind}"), layer)).collect::<Vec<_>>(),
    }))?;
    let mut blobs: BTreeMap<String, Vec<u8>> =
        layers.iter().map(|layer| (digest(layer), layer.clone())).collect();
    blobs.insert(digest(&config), config);
    let built = Built { top: Manifest { media_type: MANIFEST, body: manifest }, children: Vec::new(), blobs };
    Ok(Picture { built, layers, plain_bytes: tars.iter().map(Vec::len).sum(), files })
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
