//! A blob as it comes: bounded by its descriptor, mended when the connection breaks, moved to another
//! endpoint when one is beyond mending.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::endpoint::Opened;
use super::failure::{Cause, Failure};
use super::retry::{Pace, Retry};
use super::{Error, Inner};
use crate::manifest::Descriptor;

/// How long the end of an answer is waited for, once all its bytes have come: only then can its
/// connection be used again.
const END: Duration = Duration::from_secs(1);

/// The bytes of a part of a blob. Exactly those of its range come, or an error; the digest is for the
/// reader to check, who sees every byte anyway.
#[derive(Debug)]
pub struct Blob {
    repository: Arc<Inner>,
    descriptor: Descriptor,
    position: u64,
    end: u64,
    /// The endpoints still to be asked, the current one first.
    endpoints: Vec<usize>,
    opened: Option<Opened>,
    retry: Retry,
    pace: Pace,
    failure: Failure,
}

impl Blob {
    pub(super) async fn open(
        repository: Arc<Inner>,
        descriptor: &Descriptor,
        range: Range<u64>,
    ) -> Result<Blob, Error> {
        let end = range.end.min(descriptor.size);
        let endpoints = repository.order();
        let patience = repository.shared.settings.patience.clone();
        let mut blob = Blob {
            failure: Failure::new(format!("fetching blob {} of {}", descriptor.digest, repository.reference)),
            retry: Retry::new(patience, endpoints.len() == 1),
            pace: Pace::default(),
            descriptor: descriptor.clone(),
            position: range.start.min(end),
            end,
            opened: None,
            endpoints,
            repository,
        };
        if blob.position < blob.end {
            blob.reopen().await?;
        }
        Ok(blob)
    }

    /// Where the next bytes belong.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the server gave the range that was asked for, and not all of the blob.
    pub fn is_part(&self) -> bool {
        self.opened.as_ref().is_none_or(|opened| opened.is_part)
    }

    /// The next bytes; None after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.position < self.end {
            if self.opened.is_none() {
                self.reopen().await?;
            }
            match self.read().await {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Ok(Some(bytes)),
                Err(cause) => self.stumble(cause).await?,
            }
        }
        match self.end().await {
            Ok(()) => Ok(None),
            Err(cause) => Err(self.give_up(&cause)),
        }
    }

    async fn reopen(&mut self) -> Result<(), Error> {
        loop {
            let endpoint = &self.repository.endpoints[self.endpoints[0]];
            match endpoint.blob(&self.repository.shared, &self.descriptor, self.position..self.end).await {
                Ok(opened) => {
                    self.repository.served(&self.descriptor.digest, self.endpoints[0]);
                    self.opened = Some(opened);
                    self.pace = Pace::default();
                    return Ok(());
                }
                Err(cause) => self.stumble(cause).await?,
            }
        }
    }

    /// Waits for another try at the same endpoint, or goes on to the next one.
    async fn stumble(&mut self, cause: Cause) -> Result<(), Error> {
        self.opened = None;
        let Err(cause) = self.retry.pause(cause).await else { return Ok(()) };
        let error = self.give_up(&cause);
        if self.endpoints.len() == 1 {
            return Err(error);
        }
        self.endpoints.remove(0);
        let patience = self.repository.shared.settings.patience.clone();
        self.retry = Retry::new(patience, self.endpoints.len() == 1);
        Ok(())
    }

    /// Notes the cause; the error tells it with all before it.
    fn give_up(&mut self, cause: &Cause) -> Error {
        self.failure.add(self.repository.endpoints[self.endpoints[0]].name(), cause);
        self.failure.clone().into_error()
    }

    async fn read(&mut self) -> Result<Bytes, Cause> {
        let position = self.position;
        let patience = &self.repository.shared.settings.patience;
        let Some(opened) = &mut self.opened else { return Ok(Bytes::new()) };
        let started = Instant::now();
        let frame = tokio::time::timeout(patience.idle, opened.body.frame());
        let frame = frame.await.map_err(|_| Cause::Stalled { position })?;
        let frame = frame.ok_or(Cause::Broken { position, source: None })?;
        let frame = frame.map_err(|source| Cause::Broken { position, source: Some(source) })?;
        let mut bytes = frame.into_data().unwrap_or_default();
        if !self.pace.keep(patience, started.elapsed(), bytes.len() as u64) {
            return Err(Cause::Stalled { position });
        }
        let skipped = bytes.split_to(bytes.len().min(usize::try_from(opened.skip).unwrap_or(usize::MAX)));
        opened.skip -= skipped.len() as u64;
        let room = self.end - position;
        if bytes.len() as u64 > room {
            // The whole was given where a part of it was asked for.
            if opened.is_part || self.end == self.descriptor.size {
                return Err(Cause::TooLong(self.descriptor.size));
            }
            bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        }
        self.position += bytes.len() as u64;
        self.retry.progress(bytes.len() as u64);
        Ok(bytes)
    }

    /// Nothing may come after the last byte, but where more than the part was given.
    async fn end(&mut self) -> Result<(), Cause> {
        let Some(mut opened) = self.opened.take() else { return Ok(()) };
        if !opened.is_part && self.end < self.descriptor.size {
            return Ok(());
        }
        loop {
            match tokio::time::timeout(END, opened.body.frame()).await {
                Ok(Some(Ok(frame))) if frame.data_ref().is_some_and(|data| !data.is_empty()) => {
                    return Err(Cause::TooLong(self.descriptor.size));
                }
                Ok(Some(Ok(_))) => {}
                // Broken or silent after the last byte: that is no loss.
                Ok(Some(Err(_)) | None) | Err(_) => return Ok(()),
            }
        }
    }
}
