//! Brings a large blob to the disk, over one connection or, where that leaves the reader waiting, over a few.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::frontier::{Claim, Frontier, Room};
use super::{LayerWatch, blocking};
use crate::error::Error;
use crate::manifest::Descriptor;
use crate::registry::{self, Blob, Repository};

/// What is written at once; a crash costs no more than this for each connection. Each costs two threads a switch.
const BATCH_BYTES: u64 = 512 << 10;
/// What one call takes (writev(2), `IOV_MAX`).
const MAX_PIECES: usize = 1024;
/// From a slow server, bytes are written this soon after they came.
const BATCH_AGE: Duration = Duration::from_millis(100);
/// How often it is asked whether the reader waits.
const LOOK: Duration = Duration::from_millis(300);

/// Why bytes stopped to come.
#[derive(Debug)]
pub(super) enum Stopped {
    Registry(registry::Error),
    Disk(Error),
}

/// What all connections of one blob share.
#[derive(Clone, Copy)]
pub(super) struct Bringing<'a> {
    pub(super) repository: &'a Repository,
    pub(super) descriptor: &'a Descriptor,
    pub(super) frontier: &'a Arc<Frontier>,
    pub(super) watch: LayerWatch<'a>,
    /// More connections than one for a blob: so many over all pulls of the node.
    pub(super) more: &'a Arc<Semaphore>,
    /// What is worth a connection of its own.
    pub(super) worth_bytes: u64,
}

/// How one connection ended. Only the first one's failure is the blob's: the others' work is done by it.
enum Ended {
    First(Result<(), Stopped>),
    More { run: Option<u64>, failed: bool },
}

impl Bringing<'_> {
    /// Ends when all is there. What is begun already goes on where the reader begins.
    pub(super) async fn bring(self, begun: Option<Blob>) -> Result<(), Stopped> {
        let mut connections: FuturesUnordered<BoxFuture<'_, Ended>> = FuturesUnordered::new();
        connections.push(self.first(begun).boxed());
        let mut more_help = true;
        let mut looks = tokio::time::interval(LOOK);
        looks.tick().await;
        loop {
            tokio::select! {
                ended = connections.next() => match ended {
                    Some(Ended::First(result)) => result?,
                    Some(Ended::More { run, failed }) => {
                        more_help &= !failed;
                        if let Some(run) = run {
                            self.frontier.release(run);
                        }
                    }
                    // What others left undone is still to be brought.
                    None if self.frontier.is_whole() => return Ok(()),
                    None => connections.push(self.first(None).boxed()),
                },
                _ = looks.tick(), if more_help => {
                    if let Some((permit, claim)) = self.help() {
                        connections.push(self.more(permit, claim).boxed());
                    }
                }
            }
        }
    }

    fn help(&self) -> Option<(OwnedSemaphorePermit, Claim)> {
        let starved = self.frontier.was_starved();
        let claim = self.frontier.split_point(self.worth_bytes).filter(|_| starved)?;
        Some((self.more.clone().try_acquire_owned().ok()?, claim))
    }

    /// Brings whatever nobody else does, in order.
    async fn first(self, mut begun: Option<Blob>) -> Ended {
        while let Some(claim) = self.frontier.claim() {
            let blob = match begun.take() {
                Some(blob) => Ok(blob),
                None => self.repository.blob_range(self.descriptor, claim.position..claim.end).await,
            };
            let result = match blob {
                Ok(blob) => self.copy(blob, claim.run).await,
                Err(error) => Err(Stopped::Registry(error)),
            };
            self.frontier.release(claim.run);
            if result.is_err() {
                return Ended::First(result);
            }
        }
        Ended::First(Ok(()))
    }

    /// Brings the far half of what another connection has before it, if the server gives parts at all.
    async fn more(self, _permit: OwnedSemaphorePermit, claim: Claim) -> Ended {
        let blob = self.repository.blob_range(self.descriptor, claim.position..claim.end).await;
        let Ok(blob) = blob else { return Ended::More { run: None, failed: true } };
        if !blob.is_part() {
            return Ended::More { run: None, failed: true };
        }
        match self.frontier.split(&claim) {
            Ok(true) => {
                let failed = self.copy(blob, claim.run).await.is_err();
                Ended::More { run: Some(claim.run), failed }
            }
            Ok(false) => Ended::More { run: None, failed: false },
            Err(_) => Ended::More { run: None, failed: true },
        }
    }

    async fn copy(&self, mut blob: Blob, run: u64) -> Result<(), Stopped> {
        let (mut batch, mut bytes, mut since) = (Vec::new(), 0, Instant::now());
        loop {
            let next = blob.next().await;
            // What came before a failure is kept, too.
            let last = !matches!(next, Ok(Some(_)));
            let failed = next.map(|piece| {
                bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
                batch.extend(piece);
            });
            if last || bytes >= BATCH_BYTES || since.elapsed() > BATCH_AGE {
                let wrote = self.write(run, std::mem::take(&mut batch), bytes).await?;
                failed.map_err(Stopped::Registry)?;
                // Somebody else brings the rest of what this run once was.
                if last || wrote < bytes {
                    return Ok(());
                }
                (bytes, since) = (0, Instant::now());
            }
        }
    }

    async fn write(&self, run: u64, batch: Vec<Bytes>, bytes: u64) -> Result<u64, Stopped> {
        let Some(room) = self.frontier.room(run, bytes) else { return Ok(0) };
        let wrote = room.bytes;
        let path = self.frontier.part().path().to_owned();
        let write = move || {
            write(&room, &batch).map_err(|error| Error::io("writing a part of a blob to", &path, error))
        };
        blocking(write).await.map_err(Stopped::Disk)?;
        self.frontier.wrote(run);
        self.watch.came(wrote as usize);
        Ok(wrote)
    }
}

/// All pieces by as few calls as the kernel takes them in (pwritev(2)).
fn write(room: &Room, batch: &[Bytes]) -> std::io::Result<()> {
    let mut left = usize::try_from(room.bytes).unwrap_or(usize::MAX);
    let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(batch.len());
    for piece in batch {
        let piece = &piece[..piece.len().min(left)];
        left -= piece.len();
        slices.push(IoSlice::new(piece));
    }
    let (mut slices, mut offset) = (&mut slices[..], room.offset);
    // What has no bytes is passed over.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match rustix::io::pwritev(&*room.file, &slices[..slices.len().min(MAX_PIECES)], offset) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(wrote) => {
                IoSlice::advance_slices(&mut slices, wrote);
                offset += wrote as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
