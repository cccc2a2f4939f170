//! The documents of one import: each is read and held once, and all of them have one bound. A list of a thousand
//! images is a few bytes for each; what they are made of may be the same document, or a thousand large ones.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Opened, blob_file};
use crate::digest::Digest;
use crate::error::Error;

/// For all images of one archive, which wait together until the policy has spoken of each. A manifest and a
/// configuration have a few KiB.
const MAX_BYTES: usize = 64 << 20;

pub(super) struct Documents<'a> {
    archive: &'a Opened,
    held: HashMap<String, Bytes>,
    left: usize,
}

impl Documents<'_> {
    pub(super) fn of(archive: &Opened) -> Documents<'_> {
        Documents { archive, held: HashMap::new(), left: MAX_BYTES }
    }

    /// A small file of the archive, whole.
    pub(super) fn read(&mut self, file: &str, max: u64) -> Result<Bytes, Error> {
        if let Some(held) = self.held.get(file) {
            return Ok(held.clone());
        }
        let bytes = Bytes::from(self.archive.place.read(file, max)?);
        let Some(left) = self.left.checked_sub(bytes.len()) else {
            let why = format!(
                "the manifests and configurations of its images have more than {MAX_BYTES} bytes: import fewer \
                 images at a time"
            );
            return Err(Error::invalid(&self.archive.shown, why));
        };
        self.left = left;
        self.held.insert(file.to_owned(), bytes.clone());
        Ok(bytes)
    }

    /// A small blob, whole and verified.
    pub(super) fn blob(&mut self, digest: &Digest, max: u64) -> Result<Bytes, Error> {
        let bytes = self.read(&blob_file(digest), max)?;
        let found = Digest::of(digest.algorithm(), &bytes);
        if found != *digest {
            let what = format!("blob {digest} of {}", self.archive.shown);
            return Err(Error::Verification { what, why: format!("its digest is {found}") });
        }
        Ok(bytes)
    }
}
