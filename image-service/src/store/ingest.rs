//! A layer on its way into the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fd::OwnedFd;

use super::{Hold, Layers};
use crate::error::Error;
use crate::gc::Trash;
use crate::image::Layer;
use crate::unpack;

/// A directory for a layer that is being unpacked. Unless committed, it goes to the trash.
#[derive(Debug)]
pub(crate) struct Ingest {
    pub(super) path: PathBuf,
    pub(super) trash: Arc<Trash>,
}

impl Ingest {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn open(&self) -> Result<OwnedFd, Error> {
        unpack::open_root(&self.path).map_err(|errno| Error::io("opening", &self.path, errno.into()))
    }

    /// Makes what was unpacked here a layer of the node.
    pub(crate) fn commit(self, layers: &Arc<Layers>, layer: Layer) -> Result<Hold, Error> {
        layers.add(layer, &self.path).map_err(|error| Error::io("committing", &self.path, error))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // After a commit there is nothing of this name.
        if let Err(error) = self.trash.take(&self.path) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "an unfinished layer can't be removed; a restart tries again");
        }
    }
}
