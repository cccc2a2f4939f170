//! The kernel's small texts: a number, a list of names and numbers, a pressure file.

use super::{Pressure, Stall};

/// `max` is no limit.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// The number behind `name` in a text of `name number` lines.
pub(super) fn keyed(text: &[u8], name: &str) -> Option<u64> {
    let mut lines = text.split(|byte| *byte == b'\n');
    lines.find_map(|line| number(line.strip_prefix(name.as_bytes())?.strip_prefix(b" ")?))
}

/// A kernel may leave `full` out for the CPU, where it means nothing.
pub(super) fn pressure(text: &[u8]) -> Option<Pressure> {
    let text = std::str::from_utf8(text).ok()?;
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(stall);
    Some(Pressure { some: line("some ")?, full: line("full ").unwrap_or_default() })
}

/// `avg10=0.12 avg60=0.00 avg300=0.00 total=12345`, percent and microseconds.
fn stall(line: &str) -> Stall {
    let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)).unwrap_or_default();
    let average = |name: &str| field(name).parse().unwrap_or_default();
    let total_us: u64 = field("total=").trim().parse().unwrap_or_default();
    Stall {
        total_ns: total_us.saturating_mul(1000),
        average_10s: average("avg10="),
        average_60s: average("avg60="),
        average_300s: average("avg300="),
    }
}
