//! A layer whose blob is large: what comes of it after the first moments goes to the disk and is unpacked from
//! there right behind, and the next pull goes on with it when this one breaks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::behind::Behind;
use super::bring::{Bringing, Stopped};
use super::frontier::Frontier;
use super::layer::{Permission, Unmade, Wanted, unwanted};
use super::source::{Download, Downloaded, Piece, pipe};
use super::{Pulls, blocking};
use crate::error::Error;
use crate::registry::Blob;
use crate::store::{Came, Hold, Part};

/// A blob that comes more slowly than it is unpacked is worth a place on the disk after this long.
const SLOW_AFTER: Duration = Duration::from_millis(300);

/// A blob's place on the disk and what of it is there.
pub(super) struct Taken {
    part: Arc<Part>,
    came: Vec<Came>,
}

/// Tells the reader that nothing more comes, however the download ends.
struct EndsWithMe<'a>(&'a Frontier);

impl Drop for EndsWithMe<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

enum Brought {
    All,
    /// The thread gave up, and says why.
    Unwanted,
    Not(Stopped),
}

impl Pulls {
    pub(super) async fn take_part(&self, wanted: &Wanted<'_>) -> Result<Option<Taken>, Error> {
        let (store, digest, size) =
            (self.store.clone(), wanted.descriptor.digest.clone(), wanted.descriptor.size);
        blocking(move || {
            let taken = store.parts.take(&digest, size);
            let taken =
                taken.map_err(|error| Error::io("making a place for a blob in", store.root(), error))?;
            Ok(taken.map(|(part, came)| Taken { part: Arc::new(part), came }))
        })
        .await
    }

    /// What was there before counts like what comes: the layer's digest is of both. Should it be wrong, all
    /// of it goes, and all is fetched once more.
    pub(super) async fn fetch_resumable(
        &self,
        wanted: &Wanted<'_>,
        permission: Permission,
        taken: Taken,
    ) -> Result<Hold, Unmade> {
        let Taken { part, came } = taken;
        let came_bytes: u64 = came.iter().map(|came| came.filled).sum();
        let resumed = came_bytes > 0;
        wanted.watch.came(usize::try_from(came_bytes).unwrap_or(usize::MAX));
        let (sender, pipe) = pipe();
        let (unwanted, give_up) = unwanted();
        let unpack = self.clone().make_layer(pipe, wanted.sealed(), permission, give_up);
        let bring = async {
            tokio::select! {
                biased;
                brought = self.bring(wanted, &part, came, sender) => brought,
                () = unwanted.notified() => Brought::Unwanted,
            }
        };
        match tokio::join!(bring, unpack) {
            (_, Ok(hold)) => {
                remove(part).await?;
                Ok(hold)
            }
            (Brought::Not(Stopped::Registry(error)), Err(_)) => {
                Err(Error::registry(wanted.name, error).into())
            }
            (Brought::Not(Stopped::Disk(error)), Err(_)) => {
                remove(part).await?;
                Err(error.into())
            }
            (Brought::All | Brought::Unwanted, Err(unmade)) => {
                remove(part).await?;
                if unmade.wrong_bytes && resumed {
                    tracing::warn!(blob = %wanted.descriptor.digest, "what was kept of a blob was wrong; it is fetched anew");
                    return Err(Unmade { wrong_bytes: true, resumed: true, ..unmade });
                }
                Err(unmade)
            }
        }
    }

    /// All of a blob to the thread that unpacks it: from memory until its bytes are worth keeping, then by way
    /// of the disk.
    async fn bring(
        &self,
        wanted: &Wanted<'_>,
        part: &Arc<Part>,
        came: Vec<Came>,
        sender: mpsc::Sender<Piece>,
    ) -> Brought {
        let begun = match came.is_empty() {
            true => match self.bring_unkept(wanted, sender.clone()).await {
                Ok(blob) => Some(blob),
                Err(brought) => return brought,
            },
            false => None,
        };
        let from = begun.as_ref().map_or(0, Blob::position);
        let frontier = match self.frontier(part.clone(), came, from, wanted.descriptor.size).await {
            Ok(frontier) => frontier,
            Err(error) => return Brought::Not(Stopped::Disk(error)),
        };
        let _ends = EndsWithMe(&frontier);
        if sender.send(Piece::Behind(Behind::new(frontier.clone(), from))).await.is_err() {
            return Brought::Unwanted;
        }
        let bringing = Bringing {
            repository: wanted.repository,
            descriptor: wanted.descriptor,
            frontier: &frontier,
            watch: wanted.watch,
            more: &self.more_connections,
            worth_bytes: self.parts_from_bytes,
        };
        bringing.bring(begun).await.map_or_else(Brought::Not, |()| Brought::All)
    }

    /// The download once what comes of it is to be kept; how it ended, where that was sooner.
    ///
    /// To write a blob and to read it back costs a third of unpacking it, and what a crash loses of it is sooner
    /// fetched again than the rest is unpacked: it came in the first moments, and no more slowly than that.
    async fn bring_unkept(&self, wanted: &Wanted<'_>, sender: mpsc::Sender<Piece>) -> Result<Blob, Brought> {
        let failed = |error| Brought::Not(Stopped::Registry(error));
        let download = Download::open(wanted.repository, wanted.descriptor, sender, wanted.watch).await;
        let mut download = download.map_err(failed)?;
        while !self.is_worth_keeping(&download) {
            match download.step().await {
                None => {}
                Some(Downloaded::Done) => return Err(Brought::All),
                Some(Downloaded::Unwanted) => return Err(Brought::Unwanted),
                Some(Downloaded::Failed(error)) => return Err(failed(error)),
            }
        }
        Ok(download.blob)
    }

    fn is_worth_keeping(&self, download: &Download<'_>) -> bool {
        let (age, after) = (download.age(), self.parts_after);
        download.may_go_elsewhere() && (age >= after || (age >= SLOW_AFTER && download.is_slow()))
    }

    async fn frontier(
        &self,
        part: Arc<Part>,
        came: Vec<Came>,
        from: u64,
        size: u64,
    ) -> Result<Arc<Frontier>, Error> {
        let store = self.store.clone();
        blocking(move || {
            let frontier = Frontier::new(part, came, from, size);
            frontier
                .map(Arc::new)
                .map_err(|error| Error::io("keeping a part of a blob in", store.root(), error))
        })
        .await
    }
}

async fn remove(part: Arc<Part>) -> Result<(), Error> {
    blocking(move || {
        part.remove();
        Ok(())
    })
    .await
}
