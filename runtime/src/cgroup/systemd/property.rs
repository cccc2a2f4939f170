//! Limits as systemd's own properties (systemd.resource-control(5); org.freedesktop.systemd1(5) has their types).
//!
//! Made from the writes that cgroup2 gets, so that one place translates the specification. What systemd has no
//! property for is held by the container's own cgroup alone.

use std::collections::BTreeMap;

use super::super::Error;
use super::super::limits::{Absent, Write};
use super::wire::Value;

/// systemd's "infinity".
const INFINITY: u64 = u64::MAX;
const SECOND_US: u64 = 1_000_000;
/// systemd keeps CPU time by the second in steps of one percent of a CPU. Rounded up: the exact value is the
/// container's own cgroup's.
const QUOTA_STEP_US: u64 = 10_000;
/// More than any machine has CPUs.
const MAX_CPU: usize = 1 << 16;

/// A property of a unit.
pub(super) type Property = (String, Value);

pub(super) fn properties(writes: &[Write]) -> Result<Vec<Property>, Error> {
    let mut found = Vec::new();
    let mut devices: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for write in writes {
        match write.file.as_str() {
            "cpu.max" => found.extend(cpu_max(&write.value)),
            "cpuset.cpus" => found.extend(bits(write, "AllowedCPUs")?),
            "cpuset.mems" => found.extend(bits(write, "AllowedMemoryNodes")?),
            // Zero is systemd's weight of what runs only when nothing else does.
            "cpu.idle" if write.value == "1" => found.push(("CPUWeight".into(), Value::U64(0))),
            // And its way back, where no weight follows, is to have none set.
            "cpu.idle" if !writes.iter().any(|write| write.file == "cpu.weight") => {
                found.push(("CPUWeight".into(), Value::U64(INFINITY)))
            }
            "io.max" => throttle(&write.value, &mut devices),
            "io.bfq.weight" | "io.weight" => found.extend(io_weight(write, &mut devices)),
            // systemd has no 0; with the init there, it is the same.
            "pids.max" if write.value == "0" => found.push(("TasksMax".into(), Value::U64(1))),
            file => found.extend(plain(file, &write.value)),
        }
    }
    found.extend(devices.into_iter().map(|(name, items)| (name.into(), Value::Array("(st)".into(), items))));
    Ok(found)
}

/// Files with a property that takes the same number.
fn plain(file: &str, value: &str) -> Option<Property> {
    let name = match file {
        "memory.max" => "MemoryMax",
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.swap.max" => "MemorySwapMax",
        "cpu.weight" => "CPUWeight",
        "pids.max" => "TasksMax",
        _ => return None,
    };
    Some((name.into(), Value::U64(number(value)?)))
}

fn number(value: &str) -> Option<u64> {
    if value == "max" { Some(INFINITY) } else { value.parse().ok() }
}

/// `QUOTA PERIOD` in microseconds.
fn cpu_max(value: &str) -> Vec<Property> {
    let mut words = value.split(' ');
    let quota = words.next().and_then(number);
    let period = words.next().and_then(|word| word.parse::<u64>().ok()).filter(|period| *period > 0);
    let mut found = Vec::new();
    if let Some(period) = period {
        found.push(("CPUQuotaPeriodUSec".into(), Value::U64(period)));
    }
    if let Some(quota) = quota {
        // The kernel's default period.
        let per_second = quota.saturating_mul(SECOND_US) / period.unwrap_or(100_000);
        let rounded = per_second.checked_next_multiple_of(QUOTA_STEP_US).unwrap_or(INFINITY);
        let rounded = if quota == INFINITY { INFINITY } else { rounded };
        found.push(("CPUQuotaPerSecUSec".into(), Value::U64(rounded)));
    }
    found
}

/// A list such as `0-3,8` as a bit for each, the lowest first; an empty line takes an earlier list back.
fn bits(write: &Write, name: &str) -> Result<Option<Property>, Error> {
    let invalid = Error::Invalid { field: write.field, reason: "is no list such as 0-3,7" };
    let mut bytes: Vec<u8> = Vec::new();
    for range in write.value.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
            return Err(invalid);
        };
        if first > last || last >= MAX_CPU {
            return Err(invalid);
        }
        bytes.resize(bytes.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|bit| bytes[bit / 8] |= 1 << (bit % 8));
    }
    let value = Value::Array("y".into(), bytes.into_iter().map(Value::Byte).collect());
    Ok((!write.value.is_empty()).then(|| (name.into(), value)))
}

/// `MAJOR:MINOR KEY=RATE`, or several of these as the kernel says them.
fn throttle(value: &str, devices: &mut BTreeMap<&str, Vec<Value>>) {
    let Some((device, limits)) = value.split_once(' ') else { return };
    for (key, rate) in limits.split(' ').filter_map(|limit| limit.split_once('=')) {
        let name = match key {
            "rbps" => "IOReadBandwidthMax",
            "wbps" => "IOWriteBandwidthMax",
            "riops" => "IOReadIOPSMax",
            "wiops" => "IOWriteIOPSMax",
            _ => continue,
        };
        if let Some(rate) = number(rate) {
            devices.entry(name).or_default().push(per_device(device, rate));
        }
    }
}

/// `N` or `default N`, or `MAJOR:MINOR N`; BFQ's own scale has the other beside it.
fn io_weight(write: &Write, devices: &mut BTreeMap<&str, Vec<Value>>) -> Option<Property> {
    let value = match &write.absent {
        Absent::Instead(_, value) => value,
        Absent::Refuse | Absent::Skip => &write.value,
    };
    let value = value.strip_prefix("default ").unwrap_or(value);
    match value.split_once(' ') {
        None => Some(("IOWeight".into(), Value::U64(value.parse().ok()?))),
        Some((device, weight)) => {
            let weight = weight.parse().ok()?;
            devices.entry("IODeviceWeight").or_default().push(per_device(device, weight));
            None
        }
    }
}

fn per_device(device: &str, number: u64) -> Value {
    Value::Struct(vec![Value::Text(format!("/dev/block/{device}")), Value::U64(number)])
}

#[cfg(test)]
mod tests {
    use super::super::super::layout::Version;
    use super::super::super::limits;
    use super::*;

    fn of(resources: &str) -> Result<BTreeMap<String, Value>, Error> {
        let resources = serde_json::from_str(resources).unwrap();
        let writes = limits::plan(&resources, &|_| Some(Version::V2))?;
        Ok(properties(&writes)?.into_iter().collect())
    }

    #[test]
    fn each_limit_has_its_property() {
        let check = |resources: &str, expected: &[(&str, Value)]| {
            let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            assert_eq!(of(resources).unwrap(), expected, "{resources}");
        };
        let bytes = |bytes: &[u8]| Value::Array("y".into(), bytes.iter().copied().map(Value::Byte).collect());
        let on_sda = |n| {
            let device = Value::Struct(vec![Value::text("/dev/block/8:0"), Value::U64(n)]);
            Value::Array("(st)".into(), vec![device])
        };
        check("{}", &[]);
        check(
            r#"{"memory": {"limit": 4096, "swap": 8192, "reservation": 1024}, "pids": {"limit": 7}}"#,
            &[
                ("MemoryMax", Value::U64(4096)),
                ("MemorySwapMax", Value::U64(4096)),
                ("MemoryLow", Value::U64(1024)),
                ("TasksMax", Value::U64(7)),
            ],
        );
        check(
            r#"{"memory": {"limit": -1}}"#,
            &[("MemoryMax", Value::U64(u64::MAX)), ("MemorySwapMax", Value::U64(u64::MAX))],
        );
        check(
            r#"{"cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-2,9", "mems": "0"}}"#,
            &[
                ("CPUWeight", Value::U64(100)),
                ("CPUQuotaPerSecUSec", Value::U64(500_000)),
                ("CPUQuotaPeriodUSec", Value::U64(100_000)),
                ("AllowedCPUs", bytes(&[0b111, 0b10])),
                ("AllowedMemoryNodes", bytes(&[1])),
            ],
        );
        // Never less than what the container's own cgroup allows.
        check(
            r#"{"cpu": {"quota": 33333, "period": 100000}}"#,
            &[("CPUQuotaPerSecUSec", Value::U64(340_000)), ("CPUQuotaPeriodUSec", Value::U64(100_000))],
        );
        check(r#"{"cpu": {"quota": -1}}"#, &[("CPUQuotaPerSecUSec", Value::U64(u64::MAX))]);
        check(
            r#"{"blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 9}],
                "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}"#,
            &[
                ("IOWeight", Value::U64(4950)),
                ("IOReadBandwidthMax", on_sda(9)),
                ("IODeviceWeight", on_sda(1)),
            ],
        );
        check(
            r#"{"unified": {"memory.high": "77", "hugetlb.2MB.max": "0", "cpu.idle": "1"}}"#,
            &[("MemoryHigh", Value::U64(77)), ("CPUWeight", Value::U64(0))],
        );
    }

    #[test]
    fn idleness_ends_with_the_weight_that_is_asked_for_or_with_none() {
        let weight = |cpu: &str| of(&format!(r#"{{"cpu": {cpu}}}"#)).unwrap().remove("CPUWeight");
        assert_eq!(weight(r#"{"idle": 1, "shares": 1024}"#), Some(Value::U64(0)));
        assert_eq!(weight(r#"{"idle": 0}"#), Some(Value::U64(u64::MAX)));
        assert_eq!(weight(r#"{"idle": 0, "shares": 1024}"#), Some(Value::U64(100)));
        assert_eq!(weight("{}"), None);
    }

    #[test]
    fn what_the_kernel_said_before_can_be_said_again() {
        let mut writes =
            limits::plan(&serde_json::from_str(r#"{"cpu": {"cpus": "0"}}"#).unwrap(), &|_| Some(Version::V2))
                .unwrap();
        writes[0].value = "\n".into();
        let none = Value::Array("y".into(), Vec::new());
        assert_eq!(properties(&writes).unwrap(), [("AllowedCPUs".into(), none)]);
        let mut devices = BTreeMap::new();
        throttle("8:16 rbps=2 wbps=max riops=max wiops=7", &mut devices);
        assert_eq!(
            devices.keys().copied().collect::<Vec<_>>(),
            ["IOReadBandwidthMax", "IOReadIOPSMax", "IOWriteBandwidthMax", "IOWriteIOPSMax"]
        );
        assert_eq!(devices["IOWriteBandwidthMax"], [per_device("8:16", INFINITY)]);
    }

    #[test]
    fn a_list_of_no_cpus_is_refused() {
        for cpus in ["3-1", "1-", "99999999", "1:2"] {
            of(&format!(r#"{{"cpu": {{"cpus": "{cpus}"}}}}"#)).unwrap_err();
        }
    }
}
