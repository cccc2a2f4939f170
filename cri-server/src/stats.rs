//! What a cgroup has used, read from the kernel and put into the interface's words.
//!
//! Nothing is kept but the last CPU reading of each cgroup, which the rate is made from. [`read`] asks the
//! kernel, [`words`] translates; the interface gets a value only when the kernel gave one.
//!
//! [`read`]: Reader::read

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub mod detail;
mod parse;
mod read;
mod words;

#[cfg(test)]
mod tests;

pub use detail::Detail;
pub use read::{Error, Reader};
pub use words::{container_stats, filesystem_usage, network_usage, sandbox_stats};

/// A rate over less than this says more about the scheduler than about the container.
const RATE_MIN_NS: i64 = 100_000_000;
/// Cgroups whose last reading is kept; far more than a node runs. Beyond it all are forgotten,
/// and the next rates take one reading longer.
const SAMPLES_MAX: usize = 4096;

/// What a cgroup has used, each part stamped with the time it was read at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CgroupStats {
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub swap: Option<Swap>,
    pub processes: Option<Processes>,
    pub io: Option<Io>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    pub at_ns: i64,
    pub usage_ns: u64,
    /// Nanoseconds of CPU per second, since the reading before this one.
    pub rate_nanocores: Option<u64>,
    pub pressure: Option<Pressure>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    pub at_ns: i64,
    pub usage_bytes: u64,
    /// What is used and cannot be given back at once: all but the inactive file cache.
    pub working_set_bytes: u64,
    /// Up to the limit; `None` without one.
    pub available_bytes: Option<u64>,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pressure: Option<Pressure>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swap {
    pub at_ns: i64,
    pub usage_bytes: u64,
    pub available_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Processes {
    pub at_ns: i64,
    pub count: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Io {
    pub at_ns: i64,
    pub pressure: Pressure,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    pub some: Stall,
    pub full: Stall,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    pub total_ns: u64,
    pub average_10s: f64,
    pub average_60s: f64,
    pub average_300s: f64,
}

/// Reads cgroups for all requests, and remembers what a rate needs.
#[derive(Debug)]
pub struct Stats {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    reader: Reader,
    samples: HashMap<String, Sample>,
}

/// The reading that the next rate starts from, and the rate that ended at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    at_ns: i64,
    usage_ns: u64,
    rate_nanocores: Option<u64>,
}

impl Stats {
    /// # Errors
    /// When the machine's cgroup hierarchies are not where they always are.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { inner: Mutex::new(Inner { reader: Reader::open()?, samples: HashMap::new() }) })
    }

    /// Blocking, for some tens of microseconds.
    ///
    /// # Errors
    /// When there is no such cgroup, as after the container ended.
    pub fn read(&self, cgroup_path: &str) -> Result<CgroupStats, Error> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stats = inner.reader.read(cgroup_path, now_ns())?;
        if let Some(cpu) = &mut stats.cpu {
            let sample = Sample::after(inner.samples.get(cgroup_path), cpu.at_ns, cpu.usage_ns);
            cpu.rate_nanocores = sample.rate_nanocores;
            inner.remember(cgroup_path, sample);
        }
        Ok(stats)
    }

    /// The same, and how many processes there are. Blocking.
    ///
    /// # Errors
    /// When there is no such cgroup.
    pub fn read_pod(&self, cgroup_path: &str) -> Result<CgroupStats, Error> {
        let stats = self.read(cgroup_path)?;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(CgroupStats { processes: inner.reader.processes(cgroup_path, now_ns()), ..stats })
    }

    /// More of the same, for metrics. Blocking, for some hundred microseconds.
    ///
    /// # Errors
    /// When there is no such cgroup.
    pub fn read_detail(&self, cgroup_path: &str) -> Result<Detail, Error> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.reader.read_detail(cgroup_path, now_ns())
    }

    /// The cgroup is gone.
    pub fn forget(&self, cgroup_path: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.samples.remove(cgroup_path);
    }
}

impl Inner {
    fn remember(&mut self, cgroup_path: &str, sample: Sample) {
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.clear();
        }
        self.samples.insert(cgroup_path.to_owned(), sample);
    }
}

impl Sample {
    /// Readings too close together share the rate of the earlier one, so that two clients do not spoil it for
    /// each other. A counter that went back belongs to another life of the cgroup.
    fn after(last: Option<&Sample>, at_ns: i64, usage_ns: u64) -> Sample {
        let fresh = Sample { at_ns, usage_ns, rate_nanocores: None };
        let Some(last) = last.filter(|last| last.at_ns < at_ns && last.usage_ns <= usage_ns) else {
            return fresh;
        };
        let elapsed_ns = at_ns - last.at_ns;
        if elapsed_ns < RATE_MIN_NS {
            return *last;
        }
        let used = u128::from(usage_ns - last.usage_ns) * 1_000_000_000;
        let rate = used / u128::from(elapsed_ns.unsigned_abs());
        Sample { rate_nanocores: u64::try_from(rate).ok(), ..fresh }
    }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
