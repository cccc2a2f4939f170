//! A layer whose blob is large: brought to the disk, unpacked from there right behind, and gone on with by
//! the next pull when this one breaks.

use std::sync::Arc;

use super::behind::Behind;
use super::bring::{Bringing, Stopped};
use super::frontier::Frontier;
use super::layer::{Permission, Unmade, Wanted, unwanted};
use super::{Pulls, blocking};
use crate::error::Error;
use crate::store::Hold;

/// A blob's place on the disk and what of it is there.
pub(super) struct Taken {
    frontier: Arc<Frontier>,
    resumed: bool,
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
            let failed = |error| Error::io("making a place for a blob in", store.root(), error);
            let Some((part, came)) = store.parts.take(&digest, size).map_err(failed)? else {
                return Ok(None);
            };
            let frontier = Arc::new(Frontier::new(part, came, size).map_err(failed)?);
            let resumed = frontier.came() > 0;
            Ok(Some(Taken { frontier, resumed }))
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
        let Taken { frontier, resumed } = taken;
        wanted.watch.came(usize::try_from(frontier.came()).unwrap_or(usize::MAX));
        let (unwanted, give_up) = unwanted();
        let behind = Behind::new(frontier.clone());
        let unpack = self.clone().make_layer(behind, wanted.sealed(), permission, give_up);
        let bringing = Bringing {
            repository: wanted.repository,
            descriptor: wanted.descriptor,
            frontier: &frontier,
            watch: wanted.watch,
            more: &self.more_connections,
            worth_bytes: self.parts_from_bytes,
        };
        let bring = async {
            let _ends = EndsWithMe(&frontier);
            tokio::select! {
                biased;
                brought = bringing.bring() => brought.map_or_else(Brought::Not, |()| Brought::All),
                () = unwanted.notified() => Brought::Unwanted,
            }
        };
        match tokio::join!(bring, unpack) {
            (_, Ok(hold)) => {
                remove(frontier).await?;
                Ok(hold)
            }
            (Brought::Not(Stopped::Registry(error)), Err(_)) => {
                Err(Error::registry(wanted.name, error).into())
            }
            (Brought::Not(Stopped::Disk(error)), Err(_)) => {
                remove(frontier).await?;
                Err(error.into())
            }
            (Brought::All | Brought::Unwanted, Err(unmade)) => {
                remove(frontier).await?;
                if unmade.wrong_bytes && resumed {
                    tracing::warn!(blob = %wanted.descriptor.digest, "what was kept of a blob was wrong; it is fetched anew");
                    return Err(Unmade { wrong_bytes: true, resumed: true, ..unmade });
                }
                Err(unmade)
            }
        }
    }
}

async fn remove(frontier: Arc<Frontier>) -> Result<(), Error> {
    blocking(move || {
        frontier.part().remove();
        Ok(())
    })
    .await
}
