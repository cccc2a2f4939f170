//! What the numbers say, and that the dashboard asks for nothing else.

use std::collections::BTreeSet;

use super::*;
use crate::error::Noun;
use crate::step::Step;

fn text(metrics: &Metrics) -> String {
    metrics.text(&Snapshot::default())
}

#[test]
fn calls_and_errors_are_counted_by_name() {
    let metrics = Metrics::default();
    metrics.called("StartContainer", Duration::from_millis(3), None);
    metrics.called("StartContainer", Duration::from_millis(3), Some(Code::NotFound));
    let text = text(&metrics);
    assert!(text.contains("berth_operations_total{operation=\"StartContainer\"} 2"), "{text}");
    assert!(text.contains("berth_operations_errors_total{code=\"NotFound\",operation=\"StartContainer\"} 1"));
}

#[test]
fn a_caller_who_gave_up_is_counted_at_the_step() {
    let metrics = Metrics::default();
    metrics.refused(&Error::Recovering);
    metrics.refused(&Error::StillMaking { noun: Noun::Sandbox, id: "s".into(), step: Step::SandboxNetwork });
    let text = text(&metrics);
    assert!(text.contains("berth_resources_stalled_at_stage_total{stage=\"sandbox.network\"} 1"), "{text}");
}

#[test]
fn a_pull_counts_what_came_and_what_was_there() {
    let metrics = Metrics::default();
    metrics.pulled(Pulled { fetched_bytes: 10, skipped_bytes: 5, reused_layers: 1 });
    let text = text(&metrics);
    for line in [
        "berth_image_pulls_success_total 1",
        "berth_image_pulls_bytes_total 10",
        "berth_image_pulls_skipped_bytes_total 5",
        "berth_image_layer_reuse_total 1",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

/// Every series there can be, counted once so that it shows.
fn names() -> BTreeSet<String> {
    let metrics = Metrics::default();
    metrics.called("Status", Duration::ZERO, Some(Code::Internal));
    metrics.refused(&Error::StillMaking { noun: Noun::Sandbox, id: "s".into(), step: Step::SandboxStore });
    metrics.pull_failed("registry");
    metrics.pods.with_label_values(&["ready"]).inc();
    metrics.containers.with_label_values(&["running"]).inc();
    let families = metrics.registry.gather();
    families.iter().map(|family| family.name().to_owned()).collect()
}

#[test]
fn every_metric_of_the_dashboard_exists_and_every_metric_is_on_it() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/dashboards/berth.json");
    let dashboard: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut asked = BTreeSet::new();
    for target in targets {
        let expression = target["expr"].as_str().expect("a target asks for something");
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        asked.extend(words.filter(|word| word.starts_with("berth_")).map(|word| {
            let parts = ["_bucket", "_sum", "_count"];
            parts.iter().find_map(|part| word.strip_suffix(part)).unwrap_or(word).to_owned()
        }));
    }
    assert_eq!(asked, names());
}
