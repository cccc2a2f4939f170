//! What is counted, for Prometheus. The names are CRI-O's with `berth` for `container_runtime_crio` where
//! they mean the same, so that a dashboard needs no more than another prefix.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};
use tonic::Code;

use crate::error::Error;
use crate::world::Snapshot;

mod serve;

pub use serve::{Listener, serve};

/// From a list (0.25 ms) to a pull (minutes), in steps of four.
const BUCKETS: [f64; 12] = [0.000_25, 0.001, 0.004, 0.016, 0.064, 0.256, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];

/// All that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: IntCounterVec,
    errors: IntCounterVec,
    seconds: HistogramVec,
    stalled: IntCounterVec,
    pulled: IntCounter,
    pulls_failed: IntCounterVec,
    pulled_bytes: IntCounter,
    skipped_bytes: IntCounter,
    reused_layers: IntCounter,
    out_of_memory: IntCounter,
    events_dropped: IntCounter,
    pods: IntGaugeVec,
    containers: IntGaugeVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let in_it = Family { registry: &registry };
        Self {
            calls: in_it.counters("operations_total", "CRI calls answered.", &["operation"]),
            errors: in_it.counters(
                "operations_errors_total",
                "CRI calls refused, by gRPC code.",
                &["operation", "code"],
            ),
            seconds: in_it.seconds("operations_latency_seconds", "Time a CRI call took.", &["operation"]),
            stalled: in_it.counters(
                "resources_stalled_at_stage_total",
                "Callers who gave up on a pod or container that was still being made, by the step it was at.",
                &["stage"],
            ),
            pulled: in_it.counter("image_pulls_success_total", "Images pulled."),
            pulls_failed: in_it.counters("image_pulls_failure_total", "Pulls that failed.", &["error"]),
            pulled_bytes: in_it.counter("image_pulls_bytes_total", "Bytes of layers fetched."),
            skipped_bytes: in_it.counter(
                "image_pulls_skipped_bytes_total",
                "Bytes of layers that needed no fetching: they were there.",
            ),
            reused_layers: in_it.counter("image_layer_reuse_total", "Layers that were there already."),
            out_of_memory: in_it.counter("containers_oom_total", "Containers that ran out of memory."),
            events_dropped: in_it
                .counter("containers_events_dropped_total", "Events that a slow watcher did not get."),
            pods: in_it.gauges("pods", "Pods there are.", &["state"]),
            containers: in_it.gauges("containers", "Containers there are.", &["state"]),
            registry,
        }
    }
}

/// The layers of one pull.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pulled {
    pub fetched_bytes: u64,
    pub skipped_bytes: u64,
    pub reused_layers: u64,
}

impl Metrics {
    pub fn called(&self, operation: &'static str, took: Duration, code: Option<Code>) {
        self.calls.with_label_values(&[operation]).inc();
        self.seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
        if let Some(code) = code {
            self.errors.with_label_values(&[operation, &format!("{code:?}")]).inc();
        }
    }

    /// Where a refusal says more than its code.
    pub fn refused(&self, error: &Error) {
        if let Error::StillMaking { step, .. } = error {
            self.stalled.with_label_values(&[step.name()]).inc();
        }
    }

    pub fn pulled(&self, layers: Pulled) {
        self.pulled.inc();
        self.pulled_bytes.inc_by(layers.fetched_bytes);
        self.skipped_bytes.inc_by(layers.skipped_bytes);
        self.reused_layers.inc_by(layers.reused_layers);
    }

    /// `kind` is one of a few words, since each makes a series of its own.
    pub fn pull_failed(&self, kind: &'static str) {
        self.pulls_failed.with_label_values(&[kind]).inc();
    }

    pub fn ran_out_of_memory(&self) {
        self.out_of_memory.inc();
    }

    pub fn dropped_events(&self, count: u64) {
        self.events_dropped.inc_by(count);
    }

    /// In the text format of Prometheus, with the world as it is now.
    pub fn text(&self, world: &Snapshot) -> String {
        self.pods.reset();
        for sandbox in world.sandboxes.values() {
            let state = if sandbox.life.is_ready() { "ready" } else { "not_ready" };
            self.pods.with_label_values(&[state]).inc();
        }
        self.containers.reset();
        for container in world.containers.values() {
            self.containers.with_label_values(&[container.life.word()]).inc();
        }
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// Makes what counts and enters it; the names are constants, so nothing of it can fail.
struct Family<'a> {
    registry: &'a Registry,
}

impl Family<'_> {
    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.enter(IntCounter::with_opts(opts(name, help)).expect("the name is proper"))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.enter(IntCounterVec::new(opts(name, help), labels).expect("the names are proper"))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.enter(IntGaugeVec::new(opts(name, help), labels).expect("the names are proper"))
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let opts = HistogramOpts::from(opts(name, help)).buckets(BUCKETS.to_vec());
        self.enter(HistogramVec::new(opts, labels).expect("the names are proper"))
    }

    fn enter<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.registry.register(Box::new(collector.clone())).expect("the names differ");
        collector
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("berth")
}

#[cfg(test)]
mod tests;
