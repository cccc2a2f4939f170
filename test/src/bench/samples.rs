//! Milliseconds measured, by what was measured, and the table made of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Samples of one daemon.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    by_name: BTreeMap<&'static str, Vec<f64>>,
}

impl Samples {
    pub fn add(&mut self, name: &'static str, took: Duration) {
        self.add_value(name, took.as_secs_f64() * 1000.0);
    }

    /// Measures `work`, however it ends.
    pub fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.add(name, start.elapsed());
        done
    }

    pub fn add_value(&mut self, name: &'static str, value: f64) {
        self.by_name.entry(name).or_default().push(value);
    }

    pub fn take_in(&mut self, others: Samples) {
        for (name, values) in others.by_name {
            self.by_name.entry(name).or_default().extend(values);
        }
    }

    /// The value below which `percent` of the samples are; NaN without samples.
    pub fn percentile(&self, name: &str, percent: f64) -> f64 {
        let Some(samples) = self.by_name.get(name) else { return f64::NAN };
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len() - 1;
        sorted[(last as f64 * percent / 100.0).round() as usize]
    }

    pub fn p50(&self, name: &str) -> f64 {
        self.percentile(name, 50.0)
    }
}

/// A table of what both have, with the ratio of the medians.
pub fn table(ours: &Samples, peer: &Samples, peer_name: &str, rows: &[(&'static str, &str)]) -> String {
    let mut text = format!(
        "{:<22} {:>10} {:>10} {:>12} {:>12} {:>8}\n",
        "",
        "berth p50",
        "p90",
        format!("{peer_name} p50"),
        "p90",
        "ratio"
    );
    for (name, title) in rows {
        let (our_p50, peer_p50) = (ours.p50(name), peer.p50(name));
        text += &format!(
            "{title:<22} {our_p50:>10.2} {:>10.2} {peer_p50:>12.2} {:>12.2} {:>8.2}\n",
            ours.percentile(name, 90.0),
            peer.percentile(name, 90.0),
            our_p50 / peer_p50
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_samples() {
        let mut samples = Samples::default();
        for value in [5.0, 1.0, 3.0, 2.0, 4.0] {
            samples.add_value("x", value);
        }
        assert_eq!(samples.p50("x"), 3.0);
        assert_eq!(samples.percentile("x", 100.0), 5.0);
        assert!(samples.p50("y").is_nan());
    }
}
