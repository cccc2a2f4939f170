//! One question put to the endpoints of a repository in turn, until one answers well.

use std::sync::atomic::Ordering;

use super::endpoint::Endpoint;
use super::failure::{Cause, Failure};
use super::retry::Retry;
use super::{Error, Inner};
use crate::digest::Digest;

#[derive(Debug)]
pub(super) struct Round<'a> {
    repository: &'a Inner,
    order: Vec<usize>,
    /// Who of the order is being asked.
    place: usize,
    retry: Retry,
    failure: Failure,
    /// Somebody is left out who may well have what this leads to.
    partial: bool,
}

impl<'a> Round<'a> {
    pub(super) fn new(repository: &'a Inner, what: String) -> Round<'a> {
        Round::among(repository, repository.order(), what)
    }

    /// What a tag means is asked of those alone who are to say so.
    pub(super) fn naming(repository: &'a Inner, selector: &str, what: String) -> Round<'a> {
        let order = repository.order();
        let resolves = |index: &usize| repository.endpoints[*index].place.access.resolves;
        let able: Vec<usize> = order.iter().copied().filter(resolves).collect();
        // Where nobody is to say, as for an image by its digest, all are asked for what goes by a tag beside it.
        let partial = Digest::parse(selector).is_err() && !able.is_empty() && able.len() < order.len();
        Round { partial, ..Round::among(repository, if partial { able } else { order }, what) }
    }

    /// `order` has one at least: who opens a repository sees to it.
    fn among(repository: &'a Inner, order: Vec<usize>, what: String) -> Round<'a> {
        let retry = Retry::new(repository.shared.settings.patience.clone(), order.len() == 1);
        Round { repository, order, place: 0, retry, failure: Failure::new(what), partial: false }
    }

    /// Whom to ask now.
    pub(super) fn endpoint(&self) -> &'a Endpoint {
        &self.repository.endpoints[self.order[self.place]]
    }

    /// Remembers that this endpoint answered well.
    pub(super) fn served<T>(&self, answer: T) -> T {
        if !self.partial {
            self.repository.preferred.store(self.order[self.place], Ordering::Relaxed);
        }
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
