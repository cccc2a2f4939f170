//! When to ask the same endpoint again, and when the server is too slow to be waited for.

use std::time::Duration;

use super::Patience;
use super::failure::{Again, Cause};

/// A host that can't be reached is seldom there a moment later, and the kubelet comes back by itself.
const MAX_CONNECTS: u32 = 3;

/// Counts the tries at one endpoint, and waits between them.
#[derive(Debug)]
pub(super) struct Retry {
    patience: Patience,
    last_endpoint: bool,
    failures: u32,
    progress_bytes: u64,
}

impl Retry {
    pub(super) fn new(patience: Patience, last_endpoint: bool) -> Retry {
        Retry { patience, last_endpoint, failures: 0, progress_bytes: 0 }
    }

    /// Waits until another try is due, or gives the cause back when none is.
    pub(super) async fn pause(&mut self, cause: Cause) -> Result<(), Cause> {
        match self.decide(&cause.again()) {
            Some(wait) => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            None => Err(cause),
        }
    }

    /// Bytes have come: after enough of them, former failures count no more. One byte between two
    /// failures is not enough, or a hostile server could keep us for ever.
    pub(super) fn progress(&mut self, bytes: u64) {
        self.progress_bytes += bytes;
        if self.progress_bytes >= self.patience.floor_bytes {
            (self.progress_bytes, self.failures) = (0, 0);
        }
    }

    fn decide(&mut self, again: &Again) -> Option<Duration> {
        self.failures += 1;
        self.progress_bytes = 0;
        if self.failures >= self.patience.attempts {
            return None;
        }
        let pause = self.patience.pause * 2u32.saturating_pow(self.failures - 1);
        match again {
            Again::Never => None,
            Again::IfLast => (self.last_endpoint && self.failures < MAX_CONNECTS).then_some(pause),
            Again::After(None) => Some(pause),
            Again::After(Some(asked)) => (*asked <= self.patience.retry_after).then_some((*asked).max(pause)),
        }
    }
}

/// Tells slow from dead: over each window of waiting, at least so many bytes must come.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Notes that `bytes` came after waiting so long; false when that is too slow to go on.
    pub(super) fn keep(&mut self, patience: &Patience, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < patience.window {
            return true;
        }
        let enough = self.bytes >= patience.floor_bytes;
        *self = Pace::default();
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn retry(last: bool) -> Retry {
        Retry::new(
            Patience { attempts: 4, pause: SECOND, retry_after: 30 * SECOND, ..Patience::default() },
            last,
        )
    }

    #[test]
    fn pauses_grow_and_end() {
        let mut retry = retry(false);
        let waits: Vec<_> = (0..4).map(|_| retry.decide(&Again::After(None))).collect();
        assert_eq!(waits, [Some(SECOND), Some(2 * SECOND), Some(4 * SECOND), None]);
    }

    #[test]
    fn the_server_may_ask_for_a_wait_within_reason() {
        assert_eq!(retry(false).decide(&Again::After(Some(20 * SECOND))), Some(20 * SECOND));
        assert_eq!(retry(false).decide(&Again::After(Some(Duration::ZERO))), Some(SECOND));
        assert_eq!(retry(false).decide(&Again::After(Some(31 * SECOND))), None);
        assert_eq!(retry(true).decide(&Again::IfLast), Some(SECOND));
        assert_eq!(retry(false).decide(&Again::IfLast), None);
        assert_eq!(retry(true).decide(&Again::Never), None);
    }

    #[test]
    fn only_real_progress_forgives() {
        let mut patient = retry(true);
        let floor = patient.patience.floor_bytes;
        for _ in 0..20 {
            assert!(patient.decide(&Again::After(None)).is_some());
            patient.progress(floor);
        }
        let mut drip = retry(true);
        let tries = (0..20).take_while(|_| {
            drip.progress(1);
            drip.decide(&Again::After(None)).is_some()
        });
        assert_eq!(tries.count(), 3);
    }

    #[test]
    fn slow_is_borne_and_nearly_dead_is_not() {
        let patience = Patience::default();
        let mut slow = Pace::default();
        assert!((0..200).all(|_| slow.keep(&patience, SECOND, patience.floor_bytes / 30)));
        let mut drip = Pace::default();
        let seconds = (0..200).take_while(|_| drip.keep(&patience, SECOND, 1)).count();
        assert_eq!(seconds as u64 + 1, patience.window.as_secs());
    }
}
