//! One question put to the endpoints of a repository in turn, until one answers well.

use std::sync::atomic::Ordering;

use super::endpoint::Endpoint;
use super::failure::{Cause, Failure};
use super::retry::Retry;
use super::{Error, Inner};

#[derive(Debug)]
pub(super) struct Round<'a> {
    repository: &'a Inner,
    order: Vec<usize>,
    /// Who of the order is being asked.
    place: usize,
    retry: Retry,
    failure: Failure,
}

impl<'a> Round<'a> {
    pub(super) fn new(repository: &'a Inner, what: String) -> Round<'a> {
        let order = repository.order();
        let retry = Retry::new(repository.shared.settings.patience.clone(), order.len() == 1);
        Round { repository, order, place: 0, retry, failure: Failure::new(what) }
    }

    /// Whom to ask now.
    pub(super) fn endpoint(&self) -> &'a Endpoint {
        &self.repository.endpoints[self.order[self.place]]
    }

    /// Remembers that this endpoint answered well.
    pub(super) fn served<T>(&self, answer: T) -> T {
        self.repository.preferred.store(self.order[self.place], Ordering::Relaxed);
        answer
    }

    /// Waits until the same endpoint may be asked again, or goes on to the next; the error when there is none.
    pub(super) async fn failed(&mut self, cause: Cause) -> Result<(), Error> {
        let Err(cause) = self.retry.pause(cause).await else { return Ok(()) };
        self.failure.add(self.endpoint().name(), &cause);
        self.place += 1;
        if self.place == self.order.len() {
            return Err(self.failure.clone().into_error());
        }
        let patience = self.repository.shared.settings.patience.clone();
        self.retry = Retry::new(patience, self.place + 1 == self.order.len());
        Ok(())
    }
}
