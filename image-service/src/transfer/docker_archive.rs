//! Writes what `docker load` and `podman load` read: `manifest.json`, the configuration, and each layer as a
//! plain tar under the digest of that. A layer that comes packed is unpacked on the way, against its diff ID.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use serde_json::json;

use super::tarfile::TarFile;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::Error;
use crate::image::ImageConfig;
use crate::manifest::{Descriptor, Outline};
use crate::reference::Reference;
use crate::registry::Raw;
use crate::unpack::Limits;
use crate::unpack::decrypt::Packed;
use crate::unpack::stream::{Diff, Inflater, Source};

const READ_BYTES: usize = 256 << 10;
/// No layer that the node would unpack is larger.
const MAX_LAYER_BYTES: u64 = 256 << 30;

#[derive(Debug)]
pub(super) struct DockerArchive {
    tar: Option<TarFile>,
    shown: String,
    reference: Option<String>,
    /// The blob that is coming: as it is, until its end tells what it was.
    coming: Option<File>,
    /// Diff IDs by the digests of the blobs they came as.
    layers: Vec<(Digest, Digest)>,
    config: Option<Vec<u8>>,
    manifest: Option<Raw>,
}

impl DockerArchive {
    pub(super) fn create(path: &Path, reference: Option<String>) -> Result<DockerArchive, Error> {
        let tar = TarFile::create(path)?;
        let (layers, coming, config, manifest) = (Vec::new(), None, None, None);
        Ok(DockerArchive { shown: tar.shown(), tar: Some(tar), reference, coming, layers, config, manifest })
    }

    /// A packed blob is kept beside the archive until it is verified; the file has no name and goes by itself.
    pub(super) fn begin(&mut self, _: &Descriptor) -> Result<(), Error> {
        self.coming = Some(nameless(Path::new(&self.shown))?);
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(file) = &mut self.coming else { return Ok(()) };
        file.write_all(bytes).map_err(|error| Error::io("writing", self.shown.as_ref(), error))
    }

    /// The blob is whole and what its digest says.
    pub(super) fn end(&mut self, blob: &Descriptor) -> Result<(), Error> {
        let shown = self.shown.clone();
        let failed = |error| Error::io("writing", shown.as_ref(), error);
        let Some(mut file) = self.coming.take() else { return Ok(()) };
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        if is_config(&blob.media_type) {
            let mut bytes = Vec::new();
            file.take(super::files::MAX_CONFIG).read_to_end(&mut bytes).map_err(failed)?;
            self.config = Some(bytes);
            return Ok(());
        }
        let diff_id = self.layer(file, &blob.digest)?;
        self.layers.push((blob.digest.clone(), diff_id));
        Ok(())
    }

    pub(super) fn document(&mut self, raw: &Raw) -> Result<(), Error> {
        self.manifest = Some(raw.clone());
        Ok(())
    }

    pub(super) fn finish(&mut self, name: Option<&Reference>) -> Result<(), Error> {
        let invalid = |why: String| Error::invalid(&self.shown, why);
        let (Some(config), Some(Raw { outline: Outline::Manifest(manifest), .. })) =
            (self.config.take(), self.manifest.take())
        else {
            return Err(invalid("a docker archive holds one image, and this is an index".to_owned()));
        };
        let (_, diff_ids) = ImageConfig::parse(&config).map_err(|bad| invalid(bad.to_string()))?;
        let came = |blob: &Descriptor| self.layers.iter().find(|(of, _)| *of == blob.digest);
        let found: Vec<Digest> =
            manifest.layers.iter().filter_map(came).map(|(_, diff_id)| diff_id.clone()).collect();
        if found != diff_ids {
            return Err(invalid("the layers are not those of the configuration's diff IDs".to_owned()));
        }
        let called = match &self.reference {
            Some(reference) => Some(Reference::parse(reference)?),
            None => name.cloned(),
        };
        let tags: Vec<String> = called.and_then(|name| name.repo_tag()).into_iter().collect();
        let layers: Vec<String> = diff_ids.iter().map(layer_name).collect();
        let config_name = format!("{}.json", Digest::sha256(&config).hex());
        let list = json!([{"Config": config_name, "RepoTags": tags, "Layers": layers}]);
        let Some(mut tar) = self.tar.take() else { return Ok(()) };
        tar.put(&config_name, &config)?;
        tar.put("manifest.json", list.to_string().as_bytes())?;
        tar.commit()
    }

    /// Writes a layer as a plain tar and tells its diff ID. One that is there already is not written twice.
    fn layer(&mut self, file: File, blob: &Digest) -> Result<Digest, Error> {
        let broken = |error| Error::invalid(format!("layer {blob}"), crate::unpack::stream::error(error));
        let source = Source::new(BufReader::with_capacity(READ_BYTES, file), Algorithm::Sha256);
        let inflater = Inflater::new(Packed::new(source, None)).map_err(broken)?;
        let mut plain = Diff::new(inflater, Algorithm::Sha256, Limits::new(MAX_LAYER_BYTES));
        let shown = self.shown.clone();
        let written = || Error::invalid(&shown, "it is written already");
        let tar = self.tar.as_mut().ok_or_else(written)?;
        tar.begin(&"0".repeat(64))?;
        let (mut hasher, mut piece) = (Hasher::new(Algorithm::Sha256), vec![0; READ_BYTES]);
        loop {
            let read = plain.read(&mut piece).map_err(broken)?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            tar.write(&piece[..read])?;
        }
        let diff_id = hasher.finish();
        if self.layers.iter().any(|(_, other)| *other == diff_id) {
            tar.drop_entry()?;
        } else {
            tar.rename_entry(&layer_name(&diff_id));
            tar.end()?;
        }
        Ok(diff_id)
    }
}

fn layer_name(diff_id: &Digest) -> String {
    format!("{}.tar", diff_id.hex())
}

fn is_config(media_type: &str) -> bool {
    media_type.contains(".config.") || media_type == "application/vnd.docker.container.image.v1+json"
}

/// A file without a name on the file system where `beside` will be.
fn nameless(beside: &Path) -> Result<File, Error> {
    let dir = beside.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let made = rustix::fs::openat(CWD, dir, flags, Mode::from_raw_mode(0o600));
    made.map(File::from).map_err(|errno| Error::io("making a file in", dir, errno.into()))
}
