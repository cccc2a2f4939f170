//! Collects the values of one sandbox or container under its labels.

use proto::v1;

use super::descriptors::{BASE_LABELS, Described};
use crate::container::Container;
use crate::sandbox::Sandbox;

pub(super) const NS_PER_S: u64 = 1_000_000_000;
/// The name that cAdvisor gave to what is the pod's and no container's.
const POD: &str = "POD";

/// The values so far, and what all of them have in common.
#[derive(Debug)]
pub(super) struct Series {
    labels: [String; BASE_LABELS.len()],
    at_ns: i64,
    metrics: Vec<v1::Metric>,
}

impl Series {
    pub(super) fn of_sandbox(sandbox: &Sandbox, at_ns: i64) -> Self {
        let metadata = sandbox.facts.config().metadata.clone().unwrap_or_default();
        let id = sandbox.facts.id.to_string();
        let labels = [id, String::new(), metadata.namespace, metadata.name, POD.to_owned()];
        Self { labels, at_ns, metrics: Vec::new() }
    }

    pub(super) fn of_container(sandbox: &Sandbox, container: &Container, at_ns: i64) -> Self {
        let pod = sandbox.facts.config().metadata.clone().unwrap_or_default();
        let facts = &container.facts;
        let asked = facts.config.image.clone().unwrap_or_default();
        let image = [asked.user_specified_image, asked.image].into_iter().find(|name| !name.is_empty());
        let name = facts.config.metadata.clone().unwrap_or_default().name;
        let labels = [facts.id.to_string(), image.unwrap_or_default(), pod.namespace, pod.name, name];
        Self { labels, at_ns, metrics: Vec::with_capacity(64) }
    }

    pub(super) fn add(&mut self, what: &Described, value: u64) {
        self.add_of(what, &[], value);
    }

    /// Nothing when there is no such value.
    pub(super) fn add_known(&mut self, what: &Described, value: Option<u64>) {
        if let Some(value) = value {
            self.add(what, value);
        }
    }

    pub(super) fn add_seconds(&mut self, what: &Described, ns: u64) {
        self.add(what, ns / NS_PER_S);
    }

    /// With the values of the labels that only this metric has.
    pub(super) fn add_of(&mut self, what: &Described, own: &[&str], value: u64) {
        debug_assert_eq!(own.len(), what.labels.len(), "{}", what.name);
        let label_values = self.labels.iter().cloned().chain(own.iter().map(ToString::to_string)).collect();
        self.metrics.push(v1::Metric {
            name: what.name.to_owned(),
            timestamp: self.at_ns,
            metric_type: what.kind.into(),
            label_values,
            value: Some(v1::UInt64Value { value }),
        });
    }

    pub(super) fn done(self) -> Vec<v1::Metric> {
        self.metrics
    }
}
