//! A layer whose blob is large: what comes of it after the first moments goes to the disk and is unpacked from
//! there right behind, and the next pull goes on with it when this one breaks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::behind::Behind;
use super::bring::{Bringing, Stopped};
use super::frontier::Frontier;
use super::layer::{GiveUp, Unmade, WantedBlob, unwanted};
use super::source::{Download, Downloaded, Piece, Pipe, pipe};
use super::{Pulls, blocking};
use crate::error::Error;
use crate::registry::Blob;
use crate::store::{Came, Part};

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
    pub(super) async fn take_part(&self, wanted: WantedBlob<'_>) -> Result<Option<Taken>, Error> {
        let (store, digest, size) =
            (self.store.clone(), wanted.descriptor.digest.clone(), wanted.descriptor.size);
        blocking(move || {
            let taken = store.parts.take(&digest, size);
            let taken =
                taken.map_err(|error| Error::io("looking for parts of a blob in", store.root(), error))?;
            Ok(taken.map(|(part, came)| Taken { part: Arc::new(part), came }))
        })
        .await
    }

    /// What was there before counts like what comes: the layer's digest is of both. Should it be wrong, all
    /// of it goes, and all is fetched once more.
    pub(super) async fn fetch_resumable<T, C: Future<Output = Result<T, Unmade>>>(
        &self,
        wanted: WantedBlob<'_>,
        taken: Taken,
        consume: impl FnOnce(Pipe, GiveUp) -> C,
    ) -> Result<T, Unmade> {
        let Taken { part, came } = taken;
        let came_bytes: u64 = came.iter().map(|came| came.filled).sum();
        let resumed = came_bytes > 0;
        wanted.watch.came(usize::try_from(came_bytes).unwrap_or(usize::MAX));
        let (sender, pipe) = pipe();
        let (unwanted, give_up) = unwanted();
        let bring = async {
            tokio::select! {
                biased;
                brought = self.bring(wanted, &part, came, sender) => brought,
                () = unwanted.notified() => Brought::Unwanted,
            }
        };
        match tokio::join!(bring, consume(pipe, give_up)) {
            (_, Ok(made)) => {
                remove(part).await?;
                Ok(made)
            }
            (Brought::Not(Stopped::Registry(error)), Err(_)) => {
                Err(Error::registry(wanted.name, error).into())
            }
            (Brought::Not(Stopped::Disk(error)), Err(_)) => {
                remove(part).await?;
                Err(error.into())
            }
            // The bytes were right, and are wanted again.
            (Brought::All | Brought::Unwanted, Err(unmade)) if unmade.larger_window => Err(unmade),
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
        wanted: WantedBlob<'_>,
        part: &Arc<Part>,
        came: Vec<Came>,
        sender: mpsc::Sender<Piece>,
    ) -> Brought {
        let begun = if came.is_empty() {
            match self.bring_unkept(wanted, sender.clone()).await {
                Ok(blob) => Some(blob),
                Err(brought) => return brought,
            }
        } else {
            None
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
    async fn bring_unkept(
        &self,
        wanted: WantedBlob<'_>,
        sender: mpsc::Sender<Piece>,
    ) -> Result<Blob, Brought> {
        let failed = |error| Brought::Not(Stopped::Registry(error));
        let download = Download::open(wanted.repository, wanted.descriptor, sender, wanted.watch).await;
        let mut download = download.map_err(failed)?;
        loop {
            let age = download.began.elapsed();
            if download.may_turn() && is_worth_keeping(age, download.waited, self.parts_after) {
                return Ok(download.blob);
            }
            // Who sends nothing is judged, too.
            let looks = [SLOW_AFTER, self.parts_after].into_iter().filter(|look| *look > age);
            match download.step(looks.min().map(|look| download.began + look)).await {
                None => {}
                Some(Downloaded::Done) => return Err(Brought::All),
                Some(Downloaded::Unwanted) => return Err(Brought::Unwanted),
                Some(Downloaded::Failed(error)) => return Err(failed(error)),
            }
        }
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

/// Whether a download of this age, which has `waited` so long for the registry, is to be kept from now on.
fn is_worth_keeping(age: Duration, waited: Duration, after: Duration) -> bool {
    age >= after || (age >= SLOW_AFTER && waited > age / 2)
}

async fn remove(part: Arc<Part>) -> Result<(), Error> {
    blocking(move || {
        part.remove();
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_for_long_or_slowly_is_worth_keeping() {
        let ms = Duration::from_millis;
        for (age, waited, expected) in [
            (0, 0, false),
            (299, 299, false),
            (300, 151, true),
            (300, 150, false),
            (1999, 999, false),
            (1999, 1000, true),
            (2000, 0, true),
        ] {
            assert_eq!(
                is_worth_keeping(ms(age), ms(waited), ms(2000)),
                expected,
                "{age} ms, {waited} waited"
            );
        }
        assert!(is_worth_keeping(ms(0), ms(0), ms(0)));
    }
}
