//! `cargo xtask bench runtime`: berth-runtime, crun and runc on the same bundle, and the floor below them all.
//!
//! The contenders take turns within each round, in an order that rotates. Before each command there is an idle spell, as
//! there is before a real pod start: back to back the kernel's largest cost, an RCU grace period, would hide.
//! To be run in a mount namespace of its own.

mod bundle;
mod contender;
mod report;

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::programs::Programs;
use bundle::Bundle;
use contender::Contender;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub rounds: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { rounds: 50 }
    }
}

/// Measures, and answers the tables and ratios.
pub fn run(options: Options) -> Result<String> {
    // Who makes a container ends before it does: its init becomes ours to reap.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("becoming a subreaper")?;
    let bundle = Bundle::make()?;
    let mut contenders = contenders(&bundle)?;
    // A first turn that does not count: caches are filled, and what cannot run says so at once.
    for contender in &mut contenders {
        contender.round(&bundle).with_context(|| format!("{} in its first round", contender.name))?;
        contender.forget();
    }
    for round in 0..options.rounds {
        contenders.rotate_left(1);
        for contender in &mut contenders {
            contender.round(&bundle).with_context(|| format!("{} in round {round}", contender.name))?;
        }
    }
    for contender in &mut contenders {
        contender.count_system_calls(&bundle)?;
    }
    Ok(report::text(&contenders, options.rounds))
}

/// What one `run` of the bundle costs, whoever else is at work on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Of all its processes, the container's program included.
    pub system_calls: u64,
    /// The largest resident set that any of some runs had.
    pub peak_kib: u64,
}

/// Counts it; in a mount namespace of its own.
pub fn cost_of_a_run() -> Result<Cost> {
    const RUNS: u32 = 3;
    let bundle = Bundle::make()?;
    let mut berth = berth(&bundle)?;
    for _ in 0..=RUNS {
        berth.run(&bundle)?;
    }
    berth.count_system_calls(&bundle)?;
    let peak_kib = berth.samples.percentile("run_rss", 100.0) as u64;
    Ok(Cost { system_calls: berth.system_calls, peak_kib })
}

/// What a guest that runs this needs of this machine besides the programs.
pub fn prepare_for_a_guest() -> Result<()> {
    bundle::keep_profile()
}

fn berth(bundle: &Bundle) -> Result<Contender> {
    let program = bundle.local(&Programs::built().runtime)?;
    Ok(Contender::runtime("berth-runtime", &program, bundle))
}

fn contenders(bundle: &Bundle) -> Result<Vec<Contender>> {
    let berth = berth(bundle)?;
    berth.keep_a_filter(bundle)?;
    let mut contenders = vec![berth];
    for (name, program) in [("crun", "/usr/bin/crun"), ("runc", "/usr/sbin/runc")] {
        ensure!(Path::new(program).exists(), "{program} is missing (Debian package {name})");
        contenders.push(Contender::runtime(name, Path::new(program), bundle));
    }
    contenders.push(Contender::floor(&bundle.local(&Programs::built().floor)?));
    Ok(contenders)
}
