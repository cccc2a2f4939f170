//! One layer: downloaded here, unpacked in a thread beside it.

use std::cmp::Reverse;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use futures_util::TryFutureExt;
use futures_util::future::try_join_all;
use tokio::sync::{Notify, OwnedMutexGuard, OwnedSemaphorePermit};
use tracing::Instrument;

use super::counted::Counted;
use super::source::{Downloaded, Pipe, download, pipe};
use super::windows::{self, Where};
use super::{LayerStage, LayerWatch, Pulls, blocking};
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Layer;
use crate::images::step;
use crate::manifest::Descriptor;
use crate::registry::Repository;
use crate::store::Hold;
use crate::unpack::apart::{Blame, unpack_apart};
use crate::unpack::decrypt::Cipher;
use crate::unpack::window::{self, Asked, LARGEST_LOG, USUAL_LOG};
use crate::unpack::{self, Expected, Limits, SMALL_BYTES, Unpacked, Way};

/// What a thread must hold while it makes a layer: its turn, and one of the node's slots.
pub(crate) struct Permission {
    _turn: OwnedMutexGuard<()>,
    _slot: OwnedSemaphorePermit,
}

/// A blob that a pull is to have.
#[derive(Clone, Copy)]
pub(super) struct WantedBlob<'a> {
    pub(super) name: &'a str,
    pub(super) repository: &'a Repository,
    pub(super) descriptor: &'a Descriptor,
    pub(super) watch: LayerWatch<'a>,
}

/// A layer that a pull is to have.
pub(super) struct Wanted<'a> {
    pub(super) blob: WantedBlob<'a>,
    pub(super) diff_id: Digest,
    pub(super) cipher: Option<Cipher>,
    pub(super) counted: Option<&'a Counted>,
    /// What its zstd frames are known to ask for.
    pub(super) window_log: u32,
}

/// What a layer must turn out to be, and what opens it.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) expected: Expected,
    /// None where it is not encrypted.
    pub(crate) cipher: Option<Cipher>,
    /// None where it is unpacked by a thread.
    pub(crate) counted: Option<Counted>,
    pub(crate) window_log: u32,
}

/// Why there is no layer.
#[derive(Debug)]
pub(crate) struct Unmade {
    pub(crate) error: Error,
    /// The bytes may not have been those that were asked for, so others may do better.
    pub(crate) wrong_bytes: bool,
    /// Some of them were of an earlier pull, so the registry need not be to blame.
    pub(crate) resumed: bool,
    /// A frame after the first asks for a larger window than that: it is to be had with the largest.
    pub(crate) larger_window: bool,
}

impl From<Error> for Unmade {
    fn from(error: Error) -> Unmade {
        Unmade { error, wrong_bytes: false, resumed: false, larger_window: false }
    }
}

impl From<Unmade> for Error {
    fn from(unmade: Unmade) -> Error {
        unmade.error
    }
}

impl Wanted<'_> {
    pub(super) fn sealed(&self) -> Sealed {
        let (digest, size) = (self.blob.descriptor.digest.clone(), self.blob.descriptor.size);
        let expected = Expected { digest: Some(digest), size: Some(size), diff_id: self.diff_id.clone() };
        let (cipher, counted) = (self.cipher.clone(), self.counted.cloned());
        Sealed { expected, cipher, counted, window_log: self.window_log }
    }
}

impl Pulls {
    /// Holds all layers, in their order. The largest are begun first: what is still under way at the end is then
    /// small, and no processor waits long for the last one.
    pub(super) async fn layers(&self, wanted: Vec<Wanted<'_>>) -> Result<Vec<Hold>, Error> {
        let mut wanted: Vec<_> = wanted.into_iter().enumerate().collect();
        wanted.sort_by_key(|(_, layer)| Reverse(layer.blob.descriptor.size));
        let making = wanted.into_iter().map(|(at, layer)| {
            let span = step("image.layer", layer.blob.descriptor.digest.as_str());
            self.layer(layer).instrument(span).map_ok(move |hold| (at, hold))
        });
        let mut made = try_join_all(making).await?;
        made.sort_by_key(|(at, _)| *at);
        Ok(made.into_iter().map(|(_, hold)| hold).collect())
    }

    /// Holds a layer that is there, or makes it. Wrong bytes are asked for again of whoever else has them.
    async fn layer(&self, mut wanted: Wanted<'_>) -> Result<Hold, Error> {
        let WantedBlob { watch, repository, descriptor, .. } = wanted.blob;
        loop {
            let made = match self.permission(&wanted.diff_id).await? {
                Ok(hold) => Ok((hold, LayerStage::WasThere)),
                Err(permission) => {
                    let fetched = self.fetch_layer(&wanted, permission).await;
                    fetched.map(|hold| (hold, LayerStage::Fetched))
                }
            };
            match made {
                Ok((hold, stage)) => {
                    watch.finished(stage);
                    return Ok(hold);
                }
                Err(unmade) if unmade.larger_window && wanted.window_log < LARGEST_LOG => {
                    wanted.window_log = LARGEST_LOG;
                    watch.again();
                }
                // What was kept is gone by now, and each endpoint is distrusted once, so this ends.
                Err(unmade) if unmade.resumed => watch.again(),
                Err(unmade) if unmade.wrong_bytes && repository.distrust(&descriptor.digest) => watch.again(),
                Err(unmade) => return Err(unmade.error),
            }
        }
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

    async fn fetch_layer(&self, wanted: &Wanted<'_>, permission: Permission) -> Result<Hold, Unmade> {
        let (pulls, sealed) = (self.clone(), wanted.sealed());
        self.fetch_blob(wanted.blob, |pipe, give_up| pulls.make_layer(pipe, sealed, permission, give_up))
            .await
    }

    /// A blob into whatever `consume` makes of its bytes, in a thread beside the download. That says by what it is given
    /// that it wants no more of them.
    pub(super) async fn fetch_blob<T, C: Future<Output = Result<T, Unmade>>>(
        &self,
        wanted: WantedBlob<'_>,
        consume: impl FnOnce(Pipe, GiveUp) -> C,
    ) -> Result<T, Unmade> {
        if wanted.descriptor.size < self.parts_from_bytes {
            return fetch_at_once(wanted, consume).await;
        }
        match self.take_part(wanted).await? {
            Some(taken) => self.fetch_resumable(wanted, taken, consume).await,
            // Another layer is made of the same blob at this very moment.
            None => fetch_at_once(wanted, consume).await,
        }
    }

    /// Unpacks, verifies and commits a layer in a thread of its own. The thread ends when its source does,
    /// so a caller who leaves has only to let the source go; `give_up` is called when the thread wants no
    /// more of it.
    pub(crate) async fn make_layer(
        self,
        source: impl BufRead + Send + 'static,
        sealed: Sealed,
        permission: Permission,
        give_up: impl Fn() + Send + Sync + 'static,
    ) -> Result<Hold, Unmade> {
        let limits = Limits::new(self.max_layer_bytes);
        let alone_below = self.alone_below();
        let made = blocking(move || {
            let made = make(&self, source, &sealed, alone_below, limits, &give_up);
            if made.is_err() {
                give_up();
            }
            drop(permission);
            Ok(made)
        });
        made.await?
    }
}

impl Pulls {
    /// Where other layers keep all processors busy, a second thread for a layer that is not large would only
    /// carry its bytes from one processor's cache to another's.
    fn alone_below(&self) -> u64 {
        let others = self.parallel_layers.saturating_sub(self.slots.available_permits() + 1);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        if others >= processors { self.parts_from_bytes.max(SMALL_BYTES) } else { SMALL_BYTES }
    }
}

/// Nothing lies on the disk but what is made: what is small is sooner fetched again than looked for.
async fn fetch_at_once<T, C: Future<Output = Result<T, Unmade>>>(
    wanted: WantedBlob<'_>,
    consume: impl FnOnce(Pipe, GiveUp) -> C,
) -> Result<T, Unmade> {
    let (sender, pipe) = pipe();
    let (unwanted, give_up) = unwanted();
    let download = async {
        tokio::select! {
            biased;
            downloaded = download(wanted.repository, wanted.descriptor, sender, wanted.watch) => downloaded,
            () = unwanted.notified() => Downloaded::Unwanted,
        }
    };
    match tokio::join!(download, consume(pipe, give_up)) {
        (_, Ok(made)) => Ok(made),
        (Downloaded::Failed(error), Err(_)) => Err(Error::registry(wanted.name, error).into()),
        (Downloaded::Done | Downloaded::Unwanted, Err(unmade)) => Err(unmade),
    }
}

fn make(
    pulls: &Pulls,
    mut source: impl BufRead + Send,
    sealed: &Sealed,
    alone_below: u64,
    limits: Limits,
    give_up: &(impl Fn() + Sync),
) -> Result<Hold, Unmade> {
    let (store, Sealed { expected, cipher, counted, window_log }) = (&pulls.store, sealed);
    let failed = |error: unpack::Error| {
        let (wrong_bytes, larger_window) = (error.may_be_wrong_bytes(), error.wants_larger_window());
        let error = Error::layer(&expected.diff_id, store.root(), error);
        Unmade { error, wrong_bytes, resumed: false, larger_window }
    };
    let ingest = store.ingest()?;
    let asked = source.fill_buf().map_err(|error| failed(unpack::Error::Stream(error)))?;
    let asked = if cipher.is_some() { Asked::Unknown } else { window::asked(asked) };
    let place = windows::decide(asked, *window_log);
    let window_log = if place == Where::Apart { LARGEST_LOG } else { USUAL_LOG };
    let way = Way { cipher: cipher.as_ref(), alone_below, window_log };
    let what = (ingest.path(), expected);
    let _window = pulls.windows.take(place);
    let unpacked = match (counted, place) {
        (_, Where::TooMuch) => Err(unpack::Error::Window(1 << LARGEST_LOG)),
        (Some(counted), _) => unpack_counted(source, counted, what, way, limits, give_up),
        (None, Where::Apart) if !pulls.unpacker.is_empty() => {
            unpack_apart(source, &pulls.unpacker, |_| Ok(()), what, way, limits, give_up)
        }
        (None, _) => {
            let root = ingest.open()?;
            unpack::unpack_sealed(source, root, expected, way, limits, |_| give_up())
        }
    };
    let unpacked = unpacked.map_err(failed)?;
    let layer = Layer {
        diff_id: expected.diff_id.clone(),
        bytes: unpacked.bytes,
        inodes: unpacked.inodes,
        has_root: unpacked.has_root,
        opaque_root: unpacked.opaque_root,
        undescribed: unpacked.undescribed,
    };
    store.keep_recipe(&layer.diff_id, &unpacked.recorded);
    Ok(ingest.commit(&store.layers, layer)?)
}

fn unpack_counted(
    source: impl BufRead,
    counted: &Counted,
    what: (&Path, &Expected),
    way: Way<'_>,
    limits: Limits,
    give_up: &(impl Fn() + Sync),
) -> Result<Unpacked, unpack::Error> {
    let blame = Blame::Machine;
    let leaf = counted.leaf().map_err(|error| unpack::Error::Apart {
        why: format!("making a cgroup to unpack in: {error}"),
        blame,
    })?;
    unpack_apart(source, counted.program(), |pid| leaf.enter(pid), what, way, limits, give_up)
}

/// What a thread calls when it wants no more of a blob's bytes.
pub(super) type GiveUp = Box<dyn Fn() + Send + Sync>;

/// What is told when the thread that takes a blob's bytes wants no more of them, and how it tells.
pub(super) fn unwanted() -> (Arc<Notify>, GiveUp) {
    let unwanted = Arc::new(Notify::new());
    let told = unwanted.clone();
    (unwanted, Box::new(move || told.notify_one()))
}
