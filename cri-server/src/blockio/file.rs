//! The operator's file of block I/O classes: goresctrl's format, YAML or JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::bounded::read_text;

/// More than any list of classes.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// Of the I/O schedulers that have weights, as goresctrl takes them.
const WEIGHTS: std::ops::RangeInclusive<u64> = 10..=1000;
const DECIMAL: [(&str, f64); 6] = [("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15), ("E", 1e18)];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// One entry of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameters {
    /// Wildcards; none: the weight is for all devices that no other entry names.
    pub(super) devices: Option<Vec<String>>,
    pub(super) weight: Option<u16>,
    pub(super) read_bps: Option<u64>,
    pub(super) write_bps: Option<u64>,
    pub(super) read_iops: Option<u64>,
    pub(super) write_iops: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "Classes")]
    classes: BTreeMap<String, Option<Vec<Entry>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Entry {
    devices: Option<Vec<String>>,
    weight: Option<Quantity>,
    throttle_read_bps: Option<Quantity>,
    throttle_write_bps: Option<Quantity>,
    #[serde(rename = "ThrottleReadIOPS")]
    throttle_read_iops: Option<Quantity>,
    #[serde(rename = "ThrottleWriteIOPS")]
    throttle_write_iops: Option<Quantity>,
}

/// A number, or text as `50M`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Quantity {
    Number(u64),
    Text(String),
}

pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Vec<Parameters>>, String> {
    parse(&read_text(path, FILE_MAX_BYTES).map_err(|error| error.to_string())?)
}

pub(super) fn parse(text: &str) -> Result<BTreeMap<String, Vec<Parameters>>, String> {
    let document: Document = serde_norway::from_str(text).map_err(|error| error.to_string())?;
    let class = |(name, entries): (String, Option<Vec<Entry>>)| {
        let entries = entries.unwrap_or_default().into_iter().map(parameters).collect::<Result<_, _>>();
        let entries = entries.map_err(|why| format!("class {name:?}: {why}"))?;
        Ok((name, entries))
    };
    document.classes.into_iter().map(class).collect()
}

fn parameters(entry: Entry) -> Result<Parameters, String> {
    let value = |key: &str, quantity: Option<Quantity>| match quantity {
        None => Ok(None),
        Some(Quantity::Number(number)) => Ok(Some(number)),
        Some(Quantity::Text(text)) if text.is_empty() => Ok(None),
        Some(Quantity::Text(text)) => {
            amount(&text).map(Some).ok_or_else(|| format!("{key}: {text:?} is no number such as 50M or 64Ki"))
        }
    };
    let weight = value("Weight", entry.weight)?;
    if let Some(weight) = weight.filter(|weight| !WEIGHTS.contains(weight)) {
        return Err(format!("Weight: {weight} is not from {} to {}", WEIGHTS.start(), WEIGHTS.end()));
    }
    let parameters = Parameters {
        devices: entry.devices,
        weight: weight.and_then(|weight| u16::try_from(weight).ok()),
        read_bps: value("ThrottleReadBps", entry.throttle_read_bps)?,
        write_bps: value("ThrottleWriteBps", entry.throttle_write_bps)?,
        read_iops: value("ThrottleReadIOPS", entry.throttle_read_iops)?,
        write_iops: value("ThrottleWriteIOPS", entry.throttle_write_iops)?,
    };
    let rates = [parameters.read_bps, parameters.write_bps, parameters.read_iops, parameters.write_iops];
    if parameters.devices.is_none() && rates.iter().any(Option::is_some) {
        return Err("rates are of devices, and the entry with them lists no Devices".to_owned());
    }
    Ok(parameters)
}

/// A quantity of Kubernetes, rounded up.
fn amount(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let binary = BINARY.iter().position(|known| *known == unit).map(|place| 1024_f64.powi(place as i32 + 1));
    let decimal = DECIMAL.iter().find(|(known, _)| *known == unit).map(|(_, factor)| *factor);
    let factor = if unit.is_empty() { Some(1.0) } else { binary.or(decimal) }?;
    // Whole numbers keep all their digits.
    if let Ok(number) = number.parse::<u64>() {
        return number.checked_mul(factor as u64);
    }
    let value = number.parse::<f64>().ok()? * factor;
    (value.is_finite() && value < u64::MAX as f64).then_some(value.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        let check = |text: &str, value: Option<u64>| assert_eq!(amount(text), value, "{text}");
        check("0", Some(0));
        check("5k", Some(5000));
        check("10 M", Some(10_000_000));
        check("1.5Ki", Some(1536));
        check("0.0001", Some(1));
        check("2Ei", Some(2 << 60));
        check("18446744073709551615", Some(u64::MAX));
        for bad in ["", "M", "-1", "1x", "1K", "1..2", "99999E"] {
            check(bad, None);
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_class() {
        let check = |text: &str, words: &str| {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        };
        check("Classes: {a: [{Weight: 5}]}", "class \"a\": Weight: 5 is not from 10 to 1000");
        check("Classes: {a: [{ThrottleReadBps: 5M}]}", "class \"a\": rates are of devices");
        check("Classes: {a: [{Devices: [], ThrottleWriteIOPS: fast}]}", "ThrottleWriteIOPS: \"fast\"");
        check("Classes: {a: [{Speed: 5}]}", "Speed");
        check("Klasses: {}", "Klasses");
        assert!(parse("{}").unwrap().is_empty());
        assert!(parse("Classes: {a: }").unwrap()["a"].is_empty());
    }
}
