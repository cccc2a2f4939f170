//! What a container may use: its limits as they are now, in the words of cAdvisor.

use super::descriptors as names;
use super::seconds;
use super::series::Series;
use crate::container::Container;

/// From here on a limit of memory is none: the kernel rounds its greatest number down to a page.
const UNLIMITED_BYTES: i64 = 1 << 62;

pub(super) fn add(series: &mut Series, container: &Container) {
    let resources = container.resources();
    series.add(&names::SPEC_CPU_PERIOD, positive(resources.cpu_period));
    series.add(&names::SPEC_CPU_SHARES, positive(resources.cpu_shares));
    if resources.cpu_quota > 0 {
        series.add(&names::SPEC_CPU_QUOTA, positive(resources.cpu_quota));
    }
    series.add(&names::SPEC_MEMORY_LIMIT, memory(resources.memory_limit_in_bytes));
    series.add(&names::SPEC_MEMORY_SWAP_LIMIT, memory(resources.memory_swap_limit_in_bytes));
    let reserved = resources.unified.get("memory.min").and_then(|bytes| bytes.parse().ok());
    series.add(&names::SPEC_MEMORY_RESERVATION, memory(reserved.unwrap_or_default()));
    series.add(&names::START_TIME, seconds(container.life.started_at_ns()));
}

fn positive(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// No limit is 0.
fn memory(bytes: i64) -> u64 {
    if bytes > UNLIMITED_BYTES { 0 } else { positive(bytes) }
}
