//! The kernel's small texts: a number, a list of names and numbers, a pressure file.

use super::detail::DeviceIo;
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

/// io.stat of cgroup2: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`, a line a device.
pub(super) fn devices(text: &[u8]) -> Vec<DeviceIo> {
    let text = String::from_utf8_lossy(text);
    let device = |line: &str| {
        let (numbers, fields) = line.split_once(' ')?;
        let (major, minor) = numbers.split_once(':')?;
        let of = |name: &str| {
            let found = fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            found.and_then(|number| number.parse().ok()).unwrap_or_default()
        };
        Some(DeviceIo {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            read_bytes: of("rbytes"),
            written_bytes: of("wbytes"),
            reads: of("rios"),
            writes: of("wios"),
        })
    };
    text.lines().filter_map(device).collect()
}

/// The files of v1: `8:0 Read 1`, a line for each device and direction. `set` is given the number of one of them.
pub(super) fn device_io(
    text: &[u8],
    found: &mut Vec<DeviceIo>,
    set: impl Fn(&mut DeviceIo, Option<u64>, Option<u64>),
) {
    for line in String::from_utf8_lossy(text).lines() {
        let mut words = line.split(' ');
        let (Some(numbers), Some(what), Some(number)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let parsed = numbers.split_once(':').and_then(|(major, minor)| {
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?, number.parse::<u64>().ok()?))
        });
        let Some((major, minor, number)) = parsed else { continue };
        let index = found.iter().position(|device| (device.major, device.minor) == (major, minor));
        let index = index.unwrap_or_else(|| {
            found.push(DeviceIo { major, minor, ..DeviceIo::default() });
            found.len() - 1
        });
        match what {
            "Read" => set(&mut found[index], Some(number), None),
            "Write" => set(&mut found[index], None, Some(number)),
            _ => {}
        }
    }
}
