//! What a pull tells while it goes on: a line in the log when bytes begin to come, one now and then, one at its end;
//! and to whoever asks, which pulls are under way.
//!
//! Why a pull failed is told to its askers, and by them: here it is told only that nobody waits any more.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::{LayerStage, Progress};
use crate::error::Error;

/// A line for the log this often.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// A pull that goes on, as it is now.
#[derive(Debug, Clone)]
pub struct PullUnderWay {
    /// What the first who asked called it.
    pub name: String,
    /// Of the image's manifest.
    pub digest: crate::digest::Digest,
    pub age: Duration,
    pub progress: Progress,
}

/// Waits for a pull and logs how far it is.
pub(super) async fn told<T>(
    name: &str,
    mut progress: watch::Receiver<Progress>,
    every: Duration,
    fetching: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let mut telling = Telling { name, began: Instant::now(), seen: Seen::Nothing };
    let mut fetching = std::pin::pin!(fetching);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            biased;
            done = &mut fetching => {
                telling.end(&progress.borrow(), done.is_ok());
                return done;
            }
            changed = progress.changed(), if telling.seen == Seen::Nothing && progress.has_changed().is_ok() => {
                if changed.is_ok() {
                    telling.begin(&progress.borrow_and_update());
                }
            }
            _ = ticks.tick() => telling.go_on(&progress.borrow()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Nothing has come yet: what is here already is not worth a line.
    Nothing,
    Coming,
    End,
}

struct Telling<'a> {
    name: &'a str,
    began: Instant,
    seen: Seen,
}

impl Telling<'_> {
    fn begin(&mut self, now: &Progress) {
        if now.fetched_bytes() > 0 {
            let (layers, bytes) = (now.layers.len(), now.size_bytes());
            tracing::info!(image = self.name, layers, bytes, "pulling");
            self.seen = Seen::Coming;
        }
    }

    fn go_on(&mut self, now: &Progress) {
        self.seen = Seen::Coming;
        let done_layers = now.layers.iter().filter(|layer| layer.stage.is_finished()).count();
        tracing::info!(
            image = self.name,
            layers = now.layers.len(),
            done_layers,
            bytes = now.size_bytes(),
            done_bytes = now.done_bytes(),
            seconds = self.began.elapsed().as_secs(),
            "still pulling"
        );
    }

    fn end(&mut self, now: &Progress, is_good: bool) {
        let (ms, fetched_bytes) = (self.began.elapsed().as_millis() as u64, now.fetched_bytes());
        match (is_good, fetched_bytes) {
            (false, _) => tracing::debug!(image = self.name, ms, fetched_bytes, "the pull failed"),
            (true, 0) => tracing::debug!(image = self.name, ms, "pulled: all layers were there"),
            (true, _) => tracing::info!(image = self.name, ms, fetched_bytes, "pulled"),
        }
        self.seen = Seen::End;
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if self.seen == Seen::Coming {
            let seconds = self.began.elapsed().as_secs();
            tracing::info!(image = self.name, seconds, "the pull is given up: nobody waits for it any more");
        }
    }
}

impl Progress {
    pub fn size_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size_bytes).sum()
    }

    /// Fetched or there already.
    pub fn done_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.done_bytes.min(layer.size_bytes)).sum()
    }

    /// What came with this pull.
    fn fetched_bytes(&self) -> u64 {
        let came = self.layers.iter().filter(|layer| layer.stage != LayerStage::WasThere);
        came.map(|layer| layer.done_bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;
    use crate::digest::Digest;
    use crate::pull::LayerProgress;

    /// What was logged, as it reads.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            match field.name() {
                "message" => self.0 = format!("{value:?}{}", self.0),
                "ms" | "seconds" => {}
                name => self.0 += &format!(" {name}={value:?}"),
            }
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= Level::INFO
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(String::new());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }
    }

    fn layers(done: [(u64, LayerStage); 2]) -> Progress {
        let layer = |(done_bytes, stage)| {
            let digest = Digest::sha256(b"layer");
            LayerProgress { digest, size_bytes: 100, done_bytes, stage }
        };
        Progress { layers: done.map(layer).to_vec() }
    }

    /// Runs a pull with this progress, a step a moment, and gives what was logged.
    async fn logged(steps: &[Progress], every: Duration, is_good: Option<bool>) -> Vec<String> {
        let lines = Lines::default();
        let _logging = tracing::subscriber::set_default(lines.clone());
        let (sender, progress) = watch::channel(Progress::default());
        let pull = async {
            for step in steps {
                sender.send_replace(step.clone());
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            match is_good {
                Some(true) => Ok(()),
                Some(false) => Err(Error::Cancelled),
                None => std::future::pending().await,
            }
        };
        let told = told("a", progress, every, pull);
        _ = tokio::time::timeout(Duration::from_millis(300), told).await;
        lines.0.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn a_pull_tells_that_it_began_how_far_it_is_and_that_it_ended() {
        use LayerStage::{Coming, Fetched, WasThere};
        let hour = Duration::from_secs(3600);
        let here = layers([(100, WasThere), (100, WasThere)]);
        assert_eq!(logged(std::slice::from_ref(&here), hour, Some(true)).await, Vec::<String>::new());
        let steps = [layers([(0, Coming), (0, Coming)]), layers([(100, WasThere), (7, Coming)])];
        let begins = "pulling image=\"a\" layers=2 bytes=200";
        let all = [&steps[..], &[layers([(100, WasThere), (100, Fetched)])]].concat();
        let ends = "pulled image=\"a\" fetched_bytes=100";
        assert_eq!(logged(&all, hour, Some(true)).await, [begins, ends]);
        assert_eq!(logged(&steps, hour, Some(false)).await, [begins], "its askers tell why");
        let given_up = "the pull is given up: nobody waits for it any more image=\"a\"";
        assert_eq!(logged(&steps, hour, None).await, [begins, given_up]);
        let now_and_then = logged(&steps, Duration::from_millis(110), None).await;
        let goes_on = "still pulling image=\"a\" layers=2 done_layers=1 bytes=200 done_bytes=107";
        assert_eq!(now_and_then[1], goes_on);
        assert!(now_and_then.len() >= 4, "{now_and_then:?}");
    }
}
