//! What the store can prove of itself: documents against their digests, layers against their diff IDs
//! (`unpack::prove`).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::index::Change;
use super::{Store, record};
use crate::digest::{Digest, Hasher};
use crate::error::Error;
use crate::image::Layer;
use crate::unpack::open_root;
use crate::unpack::prove::prove;
use crate::unpack::recipe::Recorded;

const READ_BYTES: usize = 256 << 10;

/// What was found of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    Whole,
    /// It may be whole; why nobody can tell.
    Unknown(&'static str),
    Damaged(String),
}

impl Store {
    /// Where the recipe of a layer lies.
    pub(crate) fn recipe(&self, diff_id: &Digest) -> PathBuf {
        self.layers.recipe(diff_id)
    }

    /// Gives a recipe its name, before the layer has its own.
    pub(crate) fn keep_recipe(&self, diff_id: &Digest, recorded: &Recorded) {
        let place = self.recipe(diff_id);
        let kept = self.trash.take(&place).and_then(|()| match &recorded.0 {
            None => Ok(()),
            Some(file) => Ok(link(file, &place)?),
        });
        if let Err(error) = kept {
            tracing::warn!(layer = %diff_id, %error, "a layer is kept without what could prove it later");
        }
    }

    /// Looks at all that lies on the disk of a layer.
    pub(crate) fn prove(&self, diff_id: &Digest) -> Proof {
        if let Some(proof) = self.prove_artifact(diff_id) {
            return proof;
        }
        let recipe = match File::open(self.recipe(diff_id)) {
            Ok(recipe) => recipe,
            Err(_) if self.is_mended(diff_id) => return Proof::Unknown("berth made it itself"),
            Err(_) => {
                return Proof::Unknown(
                    "it was unpacked without a record, or its archive replaces too much of itself",
                );
            }
        };
        let proved = open_root(&self.layers.path(diff_id))
            .map_err(|errno| format!("its directory can't be opened: {errno}"))
            .and_then(|root| prove(recipe, root, diff_id));
        proved.map_or_else(Proof::Damaged, |()| Proof::Whole)
    }

    /// The files of an artifact against their digests; None when the layer is of no artifact.
    fn prove_artifact(&self, id: &Digest) -> Option<Proof> {
        let manifest = self.document(id).ok().flatten()?;
        let files = super::artifact_files(&manifest)?;
        let root = self.layers.path(id);
        let damaged = files.iter().find(|file| !is_whole(&root.join(&file.path), &file.blob.digest));
        Some(damaged.map_or(Proof::Whole, |file| Proof::Damaged(format!("{} has changed", file.path))))
    }

    /// Whether no configuration names the layer: it was added to make an image whole (`mend`).
    fn is_mended(&self, diff_id: &Digest) -> bool {
        let images = self.images();
        let last = |layers: &[Layer]| layers.last().is_some_and(|layer| layer.diff_id == *diff_id);
        images.values().any(|entry| last(&entry.record.layers))
            && !images.values().any(|entry| {
                let config = self.index.document(&entry.record.id).ok().flatten().unwrap_or_default();
                crate::image::ImageConfig::parse(&config).is_ok_and(|(_, ids)| ids.contains(diff_id))
            })
    }

    /// An image's documents that are not what their digests say, or not there.
    pub(crate) fn damaged_documents(&self, id: &Digest) -> Result<Vec<Digest>, Error> {
        let documents = match self.images().get(id) {
            Some(entry) => entry.record.documents.clone(),
            None => return Ok(Vec::new()),
        };
        let mut damaged = Vec::new();
        for digest in documents {
            let bytes = self.document(&digest)?;
            if bytes.is_none_or(|bytes| Digest::of(digest.algorithm(), &bytes) != digest) {
                damaged.push(digest);
            }
        }
        Ok(damaged)
    }

    /// All documents of an image that are what their digests say.
    pub(crate) fn documents(&self, id: &Digest) -> Result<Vec<(Digest, Vec<u8>)>, Error> {
        let names = self.images().get(id).map(|entry| entry.record.documents.clone()).unwrap_or_default();
        let mut found = Vec::new();
        for digest in names {
            if let Some(bytes) = self.document(&digest)?
                && Digest::of(digest.algorithm(), &bytes) == digest
            {
                found.push((digest, bytes));
            }
        }
        Ok(found)
    }

    /// Writes documents anew.
    pub(crate) fn rewrite(&self, documents: Vec<(Digest, Vec<u8>)>) -> Result<(), Error> {
        let change = Change { put_documents: documents, ..Change::default() };
        self.index.apply(&change).map_err(|error| self.index_error(error))
    }

    /// The names of an image, as a commit takes them.
    pub(crate) fn names(&self, id: &Digest) -> Vec<record::Name> {
        let images = self.images();
        let Some(entry) = images.get(id) else { return Vec::new() };
        let tags = entry.record.repo_tags.iter().cloned().map(record::Name::Tag);
        tags.chain(entry.record.repo_digests.iter().cloned().map(record::Name::Digest)).collect()
    }
}

fn is_whole(path: &Path, digest: &Digest) -> bool {
    let mut hasher = Hasher::new(digest.algorithm());
    let (mut piece, file) = (vec![0; READ_BYTES], File::open(path));
    let Ok(mut file) = file else { return false };
    loop {
        match file.read(&mut piece) {
            Ok(0) => return hasher.finish() == *digest,
            Ok(read) => hasher.update(&piece[..read]),
            Err(_) => return false,
        }
    }
}

/// linkat(2) by way of `/proc`, as open(2) says under O_TMPFILE.
fn link(file: &File, place: &Path) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(rustix::fs::CWD, name, rustix::fs::CWD, place, rustix::fs::AtFlags::SYMLINK_FOLLOW)
}
