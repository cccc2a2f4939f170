//! One layer: downloaded here, unpacked in a thread beside it.

use std::io::BufRead;
use std::sync::Arc;

use tokio::sync::{Notify, OwnedMutexGuard, OwnedSemaphorePermit, mpsc};

use super::source::{Piece, pipe};
use super::{LayerWatch, Pulls, blocking};
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Layer;
use crate::manifest::Descriptor;
use crate::registry::Repository;
use crate::store::{Hold, Store};
use crate::unpack::{self, Expected, Limits};

/// What a thread must hold while it makes a layer: its turn, and one of the node's slots.
pub(crate) struct Permission {
    _turn: OwnedMutexGuard<()>,
    _slot: OwnedSemaphorePermit,
}

impl Pulls {
    /// Holds a layer that is there, or makes it.
    pub(super) async fn layer(
        &self,
        name: &str,
        repository: &Repository,
        descriptor: &Descriptor,
        diff_id: Digest,
        watch: LayerWatch<'_>,
    ) -> Result<Hold, Error> {
        let hold = match self.permission(&diff_id).await? {
            Ok(hold) => hold,
            Err(permission) => {
                self.fetch_layer(name, repository, descriptor, diff_id, watch, permission).await?
            }
        };
        watch.finished();
        Ok(hold)
    }

    /// The layer when it is there, else the permission to make it.
    pub(crate) async fn permission(&self, diff_id: &Digest) -> Result<Result<Hold, Permission>, Error> {
        let turn = self.turn(diff_id).await;
        if let Some(hold) = self.store.layers.hold([diff_id]) {
            return Ok(Ok(hold));
        }
        // The semaphore is never closed.
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| Error::Cancelled)?;
        Ok(Err(Permission { _turn: turn, _slot: slot }))
    }

    async fn fetch_layer(
        &self,
        name: &str,
        repository: &Repository,
        descriptor: &Descriptor,
        diff_id: Digest,
        watch: LayerWatch<'_>,
        permission: Permission,
    ) -> Result<Hold, Error> {
        let (sender, pipe) = pipe();
        let unwanted = Arc::new(Notify::new());
        let give_up = {
            let unwanted = unwanted.clone();
            move || unwanted.notify_one()
        };
        let expected =
            Expected { digest: Some(descriptor.digest.clone()), size: Some(descriptor.size), diff_id };
        let unpack = self.clone().make_layer(pipe, expected, permission, give_up);
        let download = async {
            tokio::select! {
                biased;
                downloaded = download(repository, descriptor, sender, watch) => downloaded,
                () = unwanted.notified() => Downloaded::Unwanted,
            }
        };
        match tokio::join!(download, unpack) {
            (_, Ok(hold)) => Ok(hold),
            (Downloaded::Failed(error), Err(_)) => Err(Error::registry(name, error)),
            (Downloaded::Done | Downloaded::Unwanted, Err(error)) => Err(error),
        }
    }

    /// Unpacks, verifies and commits a layer in a thread of its own. The thread ends when its source does,
    /// so a caller who leaves has only to let the source go; `give_up` is called when the thread wants no
    /// more of it.
    pub(crate) async fn make_layer(
        self,
        source: impl BufRead + Send + 'static,
        expected: Expected,
        permission: Permission,
        give_up: impl Fn() + Send + 'static,
    ) -> Result<Hold, Error> {
        let limits = Limits::new(self.max_layer_bytes);
        blocking(move || {
            let made = make(&self.store, source, &expected, limits, &give_up);
            if made.is_err() {
                give_up();
            }
            drop(permission);
            made
        })
        .await
    }
}

enum Downloaded {
    Done,
    /// The thread gave up, and says why.
    Unwanted,
    Failed(crate::registry::Error),
}

async fn download(
    repository: &Repository,
    descriptor: &Descriptor,
    sender: mpsc::Sender<Piece>,
    watch: LayerWatch<'_>,
) -> Downloaded {
    let mut blob = match repository.blob(descriptor, 0).await {
        Ok(blob) => blob,
        Err(error) => return Downloaded::Failed(error),
    };
    loop {
        let piece = match blob.next().await {
            Ok(Some(bytes)) => {
                watch.came(bytes.len());
                Piece::Bytes(bytes)
            }
            Ok(None) => Piece::End,
            Err(error) => return Downloaded::Failed(error),
        };
        let ended = matches!(piece, Piece::End);
        if sender.send(piece).await.is_err() {
            return Downloaded::Unwanted;
        }
        if ended {
            return Downloaded::Done;
        }
    }
}

fn make(
    store: &Arc<Store>,
    source: impl BufRead + Send,
    expected: &Expected,
    limits: Limits,
    give_up: &impl Fn(),
) -> Result<Hold, Error> {
    let ingest = store.ingest()?;
    let unpacked = unpack::unpack(source, ingest.open()?, expected, limits, give_up)
        .map_err(|error| Error::layer(&expected.diff_id, store.root(), error))?;
    let layer = Layer {
        diff_id: expected.diff_id.clone(),
        bytes: unpacked.bytes,
        inodes: unpacked.inodes,
        has_root: unpacked.has_root,
        opaque_root: unpacked.opaque_root,
        undescribed: unpacked.undescribed,
    };
    ingest.commit(&store.layers, layer)
}
