//! Writes an OCI image layout in a directory (image-spec, image-layout.md). Each file is written beside its
//! place and moved there when it is whole, so a layout that others read never shows half a blob.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::target::check;
use crate::bounded;
use crate::digest::Hasher;
use crate::error::Error;
use crate::gc::random_name;
use crate::import::{FULL_NAME, REF_NAME, blob_file};
use crate::manifest::{Descriptor, MAX_DOCUMENT_BYTES};
use crate::reference::Reference;
use crate::registry::Raw;

pub(super) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const READ_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Layout {
    dir: PathBuf,
    reference: Option<String>,
}

/// A file on its way to its place. Unless committed, it goes.
#[derive(Debug)]
pub(super) struct Placed {
    file: File,
    made: PathBuf,
    place: PathBuf,
}

impl Layout {
    pub(super) fn open(dir: &Path, reference: Option<String>) -> Result<Layout, Error> {
        let layout = Layout { dir: dir.to_owned(), reference };
        // A directory with other things in it is hardly meant.
        let strange = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
            && !dir.join("oci-layout").exists();
        if strange {
            let why = "it is a directory with other things in it, and no OCI layout";
            return Err(Error::invalid(dir.display().to_string(), why));
        }
        layout.index()?;
        layout.put(&dir.join("oci-layout"), LAYOUT)?;
        Ok(layout)
    }

    /// Whether the blob lies there, whole.
    pub(super) fn has(&self, blob: &Descriptor) -> Result<bool, Error> {
        let path = self.dir.join(blob_file(&blob.digest));
        let Ok(mut file) = File::open(&path) else { return Ok(false) };
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let (mut count, mut piece) = (0, vec![0; READ_BYTES]);
        loop {
            match file.read(&mut piece).map_err(|error| Error::io("reading", &path, error))? {
                0 => return Ok(check(blob, count, &hasher.finish()).is_ok()),
                read => {
                    hasher.update(&piece[..read]);
                    count += read as u64;
                }
            }
        }
    }

    pub(super) fn begin(&self, blob: &Descriptor) -> Result<Placed, Error> {
        Placed::begin(self.dir.join(blob_file(&blob.digest)))
    }

    pub(super) fn document(&self, raw: &Raw) -> Result<(), Error> {
        self.put(&self.dir.join(blob_file(&raw.digest)), &raw.bytes)
    }

    /// Puts the image into the layout's index, in place of the one that had its name.
    pub(super) fn finish(&self, top: &Raw, name: Option<&Reference>) -> Result<(), Error> {
        let mut index = self.index()?;
        let entry = entry(top, self.reference.as_deref(), name);
        if let Some(entries) = index["manifests"].as_array_mut() {
            let same = |other: &Value| match &entry["annotations"][REF_NAME] {
                Value::Null => other["digest"] == entry["digest"],
                name => other["annotations"][REF_NAME] == *name,
            };
            entries.retain(|other| !same(other));
            entries.push(entry);
        }
        self.put(&self.dir.join("index.json"), index.to_string().as_bytes())
    }

    fn index(&self) -> Result<Value, Error> {
        let path = self.dir.join("index.json");
        let bytes = match bounded::read(&path, MAX_DOCUMENT_BYTES as u64) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(index(&[])),
            other => other.map_err(|error| Error::io("reading", &path, error))?,
        };
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Error::invalid(path.display().to_string(), error))?;
        if !value["manifests"].is_array() {
            return Err(Error::invalid(path.display().to_string(), "it is not an index"));
        }
        Ok(value)
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut placed = Placed::begin(path.to_owned())?;
        placed.write(bytes)?;
        placed.commit()
    }
}

pub(super) fn index(entries: &[Value]) -> Value {
    let media_type = crate::manifest::MediaType::OciIndex.as_str();
    json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
}

/// What the index says of an image: the name that was asked for, and the one it had, which an import takes.
pub(super) fn entry(top: &Raw, reference: Option<&str>, name: Option<&Reference>) -> Value {
    let mut descriptor = top.descriptor();
    let mut note = |key: &str, value: String| descriptor.annotations.insert(key.to_owned(), value);
    let tag = || name.and_then(|name| name.tag().map(str::to_owned));
    if let Some(reference) = reference.map(str::to_owned).or_else(tag) {
        note(REF_NAME, reference);
    }
    if let Some(name) = name.and_then(Reference::repo_tag) {
        note(FULL_NAME, name);
    }
    serde_json::to_value(descriptor).expect("a descriptor is plain data")
}

impl Placed {
    pub(super) fn begin(place: PathBuf) -> Result<Placed, Error> {
        let dir = place.parent().unwrap_or(Path::new(".")).to_owned();
        let made = dir.join(format!(".{}", random_name()));
        let failed = |error| Error::io("making", &made, error);
        std::fs::create_dir_all(&dir).map_err(failed)?;
        let file = File::options().read(true).write(true).create_new(true).open(&made).map_err(failed)?;
        Ok(Placed { file, made: made.clone(), place })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| Error::io("writing", &self.place, error))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    pub(super) fn commit(self) -> Result<(), Error> {
        let moved = self.file.sync_all().and_then(|()| std::fs::rename(&self.made, &self.place));
        moved.map_err(|error| Error::io("writing", &self.place, error))
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        // After a commit there is nothing of this name.
        let _ = std::fs::remove_file(&self.made);
    }
}
