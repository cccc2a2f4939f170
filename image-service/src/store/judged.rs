//! What the policy has found good of an image, and what it is asked about.

use super::Store;
use super::index::Change;
use crate::digest::Digest;
use crate::error::Error;
use crate::manifest::{self, Document};
use crate::policy::Verdict;

/// What is known of an image's signatures.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) verdicts: Vec<Verdict>,
    /// The manifests that this image came by, whole and verified; of a docker archive none.
    pub(crate) manifests: Vec<(Digest, Vec<u8>)>,
}

impl Store {
    /// Of an image that is gone, nothing.
    pub(crate) fn judged(&self, id: &Digest) -> Result<Judged, Error> {
        let (verdicts, documents) = {
            let images = self.images();
            let Some(entry) = images.get(id) else { return Ok(Judged::default()) };
            (entry.record.verdicts.clone(), entry.record.documents.clone())
        };
        let mut manifests = Vec::new();
        for digest in documents {
            let bytes = self.document(&digest)?.unwrap_or_default();
            let whole = Digest::of(digest.algorithm(), &bytes) == digest;
            if whole && is_manifest_of(id, &digest, &bytes) {
                manifests.push((digest, bytes));
            }
        }
        Ok(Judged { verdicts, manifests })
    }

    /// Keeps a verdict with its image; one that is gone needs none.
    pub(crate) fn keep_verdict(&self, id: &Digest, verdict: &Verdict) -> Result<(), Error> {
        let mut images = self.images();
        let Some(entry) = images.get_mut(id) else { return Ok(()) };
        let mut record = entry.record.clone();
        record.remember(verdict);
        if record != entry.record {
            let change = Change { put: vec![record.clone()], ..Change::default() };
            self.index.apply(&change).map_err(|error| self.index_error(error))?;
            entry.record = record;
        }
        Ok(())
    }
}

/// An artifact is known by its manifest's own digest.
fn is_manifest_of(id: &Digest, digest: &Digest, bytes: &[u8]) -> bool {
    match manifest::parse(bytes, None) {
        Ok(Document::Manifest(manifest)) => manifest.config.digest == *id || digest == id,
        Ok(Document::Index(_)) | Err(_) => false,
    }
}
