//! A making in flight: who asks for the same again waits for it here.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Noun};
use crate::step::Progress;

/// One making, for all who wait for it.
#[derive(Debug, Clone)]
pub struct Underway {
    pub noun: Noun,
    pub id: Arc<str>,
    pub progress: Progress,
    done: watch::Receiver<Option<Result<(), Error>>>,
}

/// Held by the maker. Dropped without a word, it tells that the work was given up.
#[derive(Debug)]
pub struct Done(watch::Sender<Option<Result<(), Error>>>);

impl Underway {
    pub fn new(noun: Noun, id: Arc<str>, progress: Progress) -> (Self, Done) {
        let (sender, done) = watch::channel(None);
        (Self { noun, id, progress, done }, Done(sender))
    }

    /// The id once it is made, or why it is not. At the deadline: how far it is; the work goes on.
    ///
    /// # Errors
    /// What the making came to, or that it is still at some step.
    pub async fn wait(mut self, deadline: Option<Instant>) -> Result<Arc<str>, Error> {
        let id = self.id.clone();
        let finished = async {
            let outcome = self.done.wait_for(Option::is_some).await.map_err(|_| Error::Stopping)?;
            outcome.clone().expect("it was just seen to be there")
        };
        let outcome = match deadline {
            None => finished.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, finished).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let step = self.progress.step();
                    return Err(Error::StillMaking { noun: self.noun, id: id.to_string(), step });
                }
            },
        };
        outcome.map(|()| id)
    }
}

impl Done {
    pub fn tell(self, outcome: Result<(), Error>) {
        let _ = self.0.send(Some(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Step;
    use std::time::Duration;

    fn underway() -> (Underway, Done) {
        let id: Arc<str> = "s1".into();
        Underway::new(Noun::Sandbox, id.clone(), Progress::new(id, Step::SandboxNetwork))
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_hears_the_step() {
        let (underway, _done) = underway();
        let deadline = Instant::now() + Duration::from_secs(240);
        let error = underway.wait(Some(deadline)).await.unwrap_err();
        assert!(error.to_string().starts_with("making sandbox s1 is at sandbox.network"), "{error}");
    }

    #[tokio::test]
    async fn all_who_wait_hear_the_outcome() {
        let (underway, done) = underway();
        let other = underway.clone();
        done.tell(Ok(()));
        assert_eq!(&*underway.wait(None).await.unwrap(), "s1");
        assert_eq!(&*other.wait(None).await.unwrap(), "s1");
    }

    #[tokio::test]
    async fn a_maker_that_vanishes_leaves_nobody_waiting() {
        let (underway, done) = underway();
        drop(done);
        assert!(matches!(underway.wait(None).await, Err(Error::Stopping)));
    }
}
