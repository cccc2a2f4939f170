//! A pod's bandwidth, as its annotations ask for it: `kubernetes.io/ingress-bandwidth: 10M`.
//!
//! The CRI has no field for it; every runtime reads these annotations and passes them to the plugin that
//! declares the `bandwidth` capability.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Error;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// Limits in bits per second and in bits; zero means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    pub ingress_rate: u64,
    pub ingress_burst: u64,
    pub egress_rate: u64,
    pub egress_burst: u64,
}

impl Bandwidth {
    /// What the annotations ask for, if they do.
    pub(crate) fn asked_by(annotations: &BTreeMap<String, String>) -> Result<Option<Bandwidth>, Error> {
        let rate = |name: &'static str| annotations.get(name).map(|text| parse(name, text)).transpose();
        let (ingress, egress) = (rate(INGRESS)?, rate(EGRESS)?);
        let limits = Bandwidth {
            ingress_rate: ingress.unwrap_or_default(),
            egress_rate: egress.unwrap_or_default(),
            ..Bandwidth::default()
        };
        Ok((ingress.is_some() || egress.is_some()).then_some(limits))
    }
}

/// A Kubernetes quantity in the range that Kubernetes allows here: 1k to 1P.
fn parse(field: &'static str, text: &str) -> Result<u64, Error> {
    let rate = quantity(text).filter(|rate| (1e3..=1e15).contains(rate));
    let rule = "a quantity from 1k to 1P";
    rate.map(|rate| rate.round() as u64).ok_or_else(|| Error::Invalid { field, value: text.into(), rule })
}

fn quantity(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let scale = match suffix {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Result<Option<Bandwidth>, Error> {
        let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        Bandwidth::asked_by(&pairs.iter().map(own).collect())
    }

    #[test]
    fn annotations_ask_for_rates() {
        assert_eq!(asked(&[("other", "x")]).unwrap(), None);
        let both = asked(&[(INGRESS, "10M"), (EGRESS, "1.5Mi")]).unwrap().unwrap();
        assert_eq!((both.ingress_rate, both.egress_rate), (10_000_000, 1_572_864));
        let one = asked(&[(EGRESS, "1000")]).unwrap().unwrap();
        assert_eq!((one.ingress_rate, one.egress_rate), (0, 1000));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for text in ["", "fast", "-1M", "10X", "1", "2P", "1.2.3k", "NaN", "inf"] {
            let error = asked(&[(INGRESS, text)]).unwrap_err().to_string();
            assert!(error.contains(INGRESS), "{text}: {error}");
        }
    }
}
