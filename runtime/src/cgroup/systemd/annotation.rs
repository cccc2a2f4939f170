//! Annotations that are properties of the scope: `org.systemd.property.NAME`, with values as GVariant text.

use std::collections::BTreeMap;

use super::property::Property;
use super::variant;
use super::wire::Value;
use crate::cgroup::Error;

/// Annotations that are properties of the scope, with their values as GVariant text.
const ANNOTATION: &str = "org.systemd.property.";
/// A container without one of these would be no container of ours.
const OURS: [&str; 3] = ["PIDs", "Slice", "Delegate"];
const SECOND_US: f64 = 1_000_000.0;

pub(super) fn annotated(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>, Error> {
    let named = annotations.iter().filter_map(|(key, text)| Some((key.strip_prefix(ANNOTATION)?, text)));
    named.map(|(name, text)| annotated_one(name, text)).collect()
}

fn annotated_one(name: &str, text: &str) -> Result<Property, Error> {
    let refuse = |reason| Error::Annotation { key: format!("{ANNOTATION}{name}"), reason };
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_plain || !name.starts_with(|first: char| first.is_ascii_uppercase()) {
        return Err(refuse("names no property of a unit"));
    }
    if OURS.contains(&name) {
        return Err(refuse("is the runtime's own property"));
    }
    let value = variant::parse(text).ok_or_else(|| refuse("has no value in GVariant's text format"))?;
    match name.strip_suffix("Sec") {
        // Unit files have seconds; the properties behind them are in microseconds.
        Some(stem) if !name.ends_with("USec") => {
            let value = microseconds(&value).ok_or_else(|| refuse("is no number of seconds"))?;
            Ok((format!("{stem}USec"), Value::U64(value)))
        }
        _ => Ok((name.to_owned(), value)),
    }
}

fn microseconds(value: &Value) -> Option<u64> {
    let seconds = match value {
        Value::Double(seconds) => *seconds,
        Value::I32(seconds) => f64::from(*seconds),
        Value::U32(seconds) => f64::from(*seconds),
        Value::I64(seconds) => *seconds as f64,
        Value::U64(seconds) => *seconds as f64,
        _ => return None,
    };
    (seconds >= 0.0).then_some((seconds * SECOND_US) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotation(key: &str, value: &str) -> Result<Vec<Property>, Error> {
        annotated(&[(key.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn annotations_are_properties() {
        let check = |key: &str, text: &str, name: &str, value: Value| {
            assert_eq!(annotation(key, text).unwrap(), [(name.to_owned(), value)]);
        };
        check(
            "org.systemd.property.CollectMode",
            "'inactive-or-failed'",
            "CollectMode",
            Value::text("inactive-or-failed"),
        );
        check(
            "org.systemd.property.TimeoutStopUSec",
            "uint64 5000000",
            "TimeoutStopUSec",
            Value::U64(5_000_000),
        );
        check("org.systemd.property.TimeoutStopSec", "1.5", "TimeoutStopUSec", Value::U64(1_500_000));
        assert_eq!(annotation("org.systemd.propertyX", "1").unwrap(), []);
    }

    #[test]
    fn an_annotation_that_is_no_property_is_refused() {
        for (key, value) in [
            ("org.systemd.property.", "1"),
            ("org.systemd.property.A-b", "1"),
            ("org.systemd.property.Slice", "'x.slice'"),
            ("org.systemd.property.PIDs", "@au [1]"),
            ("org.systemd.property.Wants", "x.service"),
            ("org.systemd.property.TimeoutStopSec", "'soon'"),
            ("org.systemd.property.TimeoutStopSec", "-1"),
        ] {
            let error = annotation(key, value).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
