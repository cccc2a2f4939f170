//! An image in files: a layout or an archive, read where it lies.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use serde_json::json;

use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::Error;
use crate::import::place::{Place, Range};
use crate::import::{self, FULL_NAME, Kind, Opened, REF_NAME, Saved};
use crate::manifest::{Descriptor, MAX_CONFIG_BYTES, MAX_DOCUMENT_BYTES, MediaType};
use crate::reference::Reference;
use crate::registry::Raw;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const READ_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Files {
    opened: Opened,
    top: Descriptor,
    /// A docker archive has no manifest; this is the one that was made for it.
    made: Option<Vec<u8>>,
    /// Where its blobs are; in a layout their digests say it.
    names: HashMap<Digest, String>,
    name: Option<Reference>,
}

impl Files {
    /// `wanted` is for an archive of several images.
    pub(super) fn open(path: &Path, wanted: Option<&str>) -> Result<Files, Error> {
        let opened = Opened::open(path)?;
        match opened.kind {
            Kind::OciLayout => Files::layout(opened, wanted),
            Kind::DockerArchive => Files::docker(opened, wanted),
        }
    }

    fn layout(opened: Opened, wanted: Option<&str>) -> Result<Files, Error> {
        let entries = opened.index()?.manifests;
        let called = |entry: &Descriptor| {
            let of = |key: &str| entry.annotations.get(key);
            of(REF_NAME).or_else(|| of(FULL_NAME)).cloned()
        };
        let is = |entry: &&Descriptor, wanted: &str| {
            [REF_NAME, FULL_NAME]
                .iter()
                .any(|key| entry.annotations.get(*key).is_some_and(|name| name == wanted))
        };
        let matching: Vec<&Descriptor> =
            entries.iter().filter(|entry| wanted.is_none_or(|wanted| is(entry, wanted))).collect();
        let [top] = matching[..] else {
            let names: Vec<String> = entries.iter().filter_map(called).take(20).collect();
            return Err(several(&opened.shown, matching.len(), wanted, &names));
        };
        let name = import::layout_name(top);
        Ok(Files { top: top.clone(), made: None, names: HashMap::new(), name, opened })
    }

    fn docker(opened: Opened, wanted: Option<&str>) -> Result<Files, Error> {
        let saved = opened.saved_list()?;
        let tags = |saved: &Saved| saved.repo_tags.clone().unwrap_or_default();
        let normal = |text: &str| Reference::parse(text).map(|reference| reference.to_string()).ok();
        let is = |saved: &&Saved, wanted: &str| tags(saved).iter().any(|tag| normal(tag) == normal(wanted));
        let matching: Vec<&Saved> =
            saved.iter().filter(|saved| wanted.is_none_or(|wanted| is(saved, wanted))).collect();
        let [one] = matching[..] else {
            let names: Vec<String> = saved.iter().flat_map(tags).take(20).collect();
            return Err(several(&opened.shown, matching.len(), wanted, &names));
        };
        let mut names = HashMap::new();
        let mut found = |file: &str, media_type: &dyn Fn(&[u8]) -> String| {
            let (digest, size, start) = measure(&opened.place, file)?;
            names.insert(digest.clone(), file.to_owned());
            Ok::<_, Error>(Descriptor::new(&media_type(&start), digest, size))
        };
        let config = found(&one.config, &|_| CONFIG.to_owned())?;
        let layers = one.layers.iter().map(|file| found(file, &layer_type)).collect::<Result<Vec<_>, _>>()?;
        let media_type = MediaType::OciManifest.as_str();
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
        let made = manifest.to_string().into_bytes();
        let top = Descriptor::new(media_type, Digest::sha256(&made), made.len() as u64);
        let name = wanted.map(str::to_owned).or_else(|| tags(one).into_iter().next());
        let name = name.and_then(|name| Reference::parse(&name).ok());
        Ok(Files { top, made: Some(made), names, name, opened })
    }

    pub(super) fn transport(&self) -> &'static str {
        self.opened.transport()
    }

    pub(super) fn shown(&self) -> &str {
        &self.opened.shown
    }

    pub(super) fn name(&self) -> Option<&Reference> {
        self.name.as_ref()
    }

    pub(super) fn top(&self) -> Result<Raw, Error> {
        match &self.made {
            Some(made) => self.raw(made.clone(), &self.top),
            None => self.document(&self.top),
        }
    }

    pub(super) fn document(&self, entry: &Descriptor) -> Result<Raw, Error> {
        self.raw(self.small(entry, MAX_DOCUMENT_BYTES as u64)?, entry)
    }

    pub(super) fn small(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
        let bytes = self.opened.place.read(&self.file(&blob.digest), limit)?;
        let found = Digest::of(blob.digest.algorithm(), &bytes);
        if found != blob.digest {
            let what = format!("blob {} of {}", blob.digest, self.opened.shown);
            return Err(Error::Verification { what, why: format!("its digest is {found}") });
        }
        Ok(bytes)
    }

    pub(super) fn blob(&self, blob: &Descriptor, offset: u64) -> Result<Range, Error> {
        let mut range = self.opened.place.file(&self.file(&blob.digest))?;
        let size = range.size().map_err(|error| Error::io("reading", self.opened.shown.as_ref(), error))?;
        if size != blob.size {
            let what = format!("blob {} of {}", blob.digest, self.opened.shown);
            return Err(Error::Verification {
                what,
                why: format!("it has {size} bytes and not {}", blob.size),
            });
        }
        range.skip(offset);
        Ok(range)
    }

    fn raw(&self, bytes: Vec<u8>, entry: &Descriptor) -> Result<Raw, Error> {
        Raw::read(bytes, entry).map_err(|error| Error::invalid(&self.opened.shown, error))
    }

    fn file(&self, digest: &Digest) -> String {
        self.names.get(digest).cloned().unwrap_or_else(|| import::blob_file(digest))
    }
}

fn several(shown: &str, matching: usize, wanted: Option<&str>, names: &[String]) -> Error {
    let there = if names.is_empty() { "none has a name".to_owned() } else { names.join(", ") };
    let why = match wanted {
        Some(wanted) => format!("{matching} of its images are called {wanted}; there are: {there}"),
        None => format!("it has {matching} images, so say which (path:NAME); there are: {there}"),
    };
    Error::invalid(shown, why)
}

/// The digest, the size, and the first bytes of a file.
fn measure(place: &Place, file: &str) -> Result<(Digest, u64, Vec<u8>), Error> {
    let mut range = place.file(file)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let (mut size, mut start) = (0, Vec::new());
    let mut piece = vec![0; READ_BYTES];
    loop {
        let read = range.read(&mut piece).map_err(|error| Error::io("reading", file.as_ref(), error))?;
        if read == 0 {
            return Ok((hasher.finish(), size, start));
        }
        if start.is_empty() {
            start = piece[..read.min(4)].to_vec();
        }
        hasher.update(&piece[..read]);
        size += read as u64;
    }
}

/// By its first bytes, since a docker archive says nothing of it.
fn layer_type(start: &[u8]) -> String {
    match start {
        [0x1f, 0x8b, ..] => format!("{LAYER}+gzip"),
        [0x28, 0xb5, 0x2f, 0xfd] => format!("{LAYER}+zstd"),
        _ => LAYER.to_owned(),
    }
}

/// What a docker archive calls an image's configuration is read with the same bound everywhere.
pub(super) const MAX_CONFIG: u64 = MAX_CONFIG_BYTES;
