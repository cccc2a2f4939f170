//! How soon another monitor is tried for a pod that has none.

use std::time::{Duration, Instant};

/// Between two attempts when many have failed.
const LONG: Duration = Duration::from_secs(2);
/// The first pause after a failure; it doubles. A dying monitor holds its lock for a moment after its sockets.
const SHORT: Duration = Duration::from_millis(5);
/// A monitor that lived so long died of something new.
const HEALTHY: Duration = Duration::from_secs(10);
/// Deaths in a row that cost nobody a pause: somebody kills them, and each time the next one is wanted at once. A monitor
/// that dies of what it finds would else be started again and again without an end.
const FREE_DEATHS: u32 = 256;

#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
    deaths: u32,
    reached_at: Option<Instant>,
}

impl Pace {
    pub(super) fn reached(&mut self, now: Instant) {
        self.failures = 0;
        self.reached_at = Some(now);
    }

    /// There was one, and it died.
    pub(super) fn lost(&mut self, now: Instant) -> Duration {
        let was_healthy = self.reached_at.take().is_some_and(|at| now.duration_since(at) >= HEALTHY);
        self.deaths = if was_healthy { 0 } else { self.deaths.saturating_add(1) };
        if self.deaths > FREE_DEATHS { LONG } else { Duration::ZERO }
    }

    /// None could be had.
    pub(super) fn failed(&mut self) -> Duration {
        let pause = SHORT.saturating_mul(1 << self.failures.min(16)).min(LONG);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_costs_no_pause_and_a_failure_ever_longer_ones() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.reached(now);
        assert_eq!(pace.lost(now), Duration::ZERO);
        let pauses: Vec<Duration> = (0..20).map(|_| pace.failed()).collect();
        assert_eq!(pauses[..3], [5, 10, 20].map(Duration::from_millis));
        assert_eq!(pauses[19], LONG);
        pace.reached(now);
        assert_eq!(pace.failed(), SHORT, "a success forgives");
    }

    #[test]
    fn a_monitor_that_dies_again_and_again_is_given_time() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let mut lose = |after: Duration| {
            pace.reached(now);
            pace.lost(now + after)
        };
        (0..FREE_DEATHS).for_each(|_| assert_eq!(lose(Duration::from_millis(20)), Duration::ZERO));
        assert_eq!(lose(Duration::from_millis(20)), LONG);
        assert_eq!(lose(HEALTHY), Duration::ZERO, "it lived");
        assert_eq!(lose(Duration::ZERO), Duration::ZERO);
    }
}
