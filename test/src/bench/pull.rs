//! `cargo xtask bench pull`: what a pull costs, beside Debian's containerd and skopeo, and above the floor.
//!
//! Every pull goes to a file system of its own, fresh and of the same kind for everyone: on some machines
//! the root's ext4 spends more on each file made than the pull itself. The contenders take turns. A pull is
//! measured from asking to the answer; how long its bytes then still take to the disk is a row of its own,
//! since some answer before and some after.

mod disk;
mod images;
mod list;
mod pullers;
mod usage;

use std::path::Path;

use anyhow::{Context, Result};

use self::disk::Disk;
use self::images::{Picture, Shape};
use self::pullers::Puller;
use self::usage::Usage;
use crate::bench::samples::Samples;
use crate::registry::DockerRegistry;

/// The rows of the report, and the contenders in the order in which they take turns.
const ROWS: [&str; 6] = ["wall s", "cpu s", "peak rss MiB", "written MiB", "flushes", "wall + sync s"];
const CONTENDERS: [&str; 4] = ["berth", "containerd", "skopeo", "floor"];

#[derive(Debug, Clone)]
pub struct Options {
    pub rounds: u32,
    /// Only the shape of this name.
    pub only: Option<String>,
    /// Where the file systems' files lie.
    pub backing: std::path::PathBuf,
    /// Only berth and the floor: quick, for whoever makes berth faster.
    pub no_peers: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { rounds: 3, only: None, backing: crate::programs::target_dir(), no_peers: false }
    }
}

/// Runs the benchmark; the report.
pub async fn run(options: Options) -> Result<String> {
    let scratch = tempfile::Builder::new().prefix("bench-pull-").tempdir_in(&options.backing)?;
    let registry = DockerRegistry::start(scratch.path())?;
    let shapes: Vec<Shape> = Shape::ALL
        .into_iter()
        .filter(|shape| options.only.as_deref().is_none_or(|only| only == shape.name()))
        .collect();
    let mut report = String::new();
    let mut all = Vec::new();
    for shape in shapes {
        let picture = shape.build().with_context(|| format!("building the image {}", shape.name()))?;
        println!("{}: {}", shape.name(), picture.describe());
        registry.push(shape.name(), &["1"], &picture.built).await?;
        let samples = measure(&options, scratch.path(), &registry, shape, &picture).await?;
        let table = table(shape.name(), &samples);
        print!("{table}");
        report += &table;
        all.push((shape, samples));
    }
    if options.only.as_deref().is_none_or(|only| only == "list") {
        let p50 = list::list(&options.backing, &registry).await?;
        report += &format!("list_images_p50_ms {p50:.3}\n");
    }
    if !all.is_empty() {
        report += &ratios(&all);
    }
    Ok(report)
}

type BySide = [Samples; CONTENDERS.len()];

async fn measure(
    options: &Options,
    scratch: &Path,
    registry: &DockerRegistry,
    shape: Shape,
    picture: &Picture,
) -> Result<BySide> {
    let mut samples: BySide = Default::default();
    for round in 0..options.rounds {
        println!("  round {} of {}", round + 1, options.rounds);
        for (side, name) in CONTENDERS.into_iter().enumerate() {
            if options.no_peers && (name == "containerd" || name == "skopeo") {
                continue;
            }
            let disk = Disk::make(scratch)?;
            let puller = Puller::start(name, disk.root(), registry.address(), picture).await?;
            let before = disk.counters()?;
            let usage = puller.pull(shape.name()).await.with_context(|| format!("pulling with {name}"))?;
            record(&mut samples[side], &usage, &disk, before)?;
        }
    }
    Ok(samples)
}

fn record(samples: &mut Samples, usage: &Usage, disk: &Disk, before: disk::Counters) -> Result<()> {
    let answered = disk.counters()?;
    let sync = disk.sync()?;
    let after = disk.counters()?;
    let values = [
        usage.wall.as_secs_f64(),
        usage.cpu.as_secs_f64(),
        usage.peak_rss_bytes as f64 / f64::from(1 << 20),
        (after.written_bytes - before.written_bytes) as f64 / f64::from(1 << 20),
        (answered.flushes - before.flushes) as f64,
        (usage.wall + sync).as_secs_f64(),
    ];
    for (row, value) in ROWS.into_iter().zip(values) {
        samples.add_value(row, value);
    }
    Ok(())
}

fn table(title: &str, samples: &BySide) -> String {
    let mut text = format!("{title:<16}");
    for name in CONTENDERS {
        text += &format!("{name:>12}");
    }
    text.push('\n');
    for row in ROWS {
        text += &format!("  {row:<14}");
        for side in samples {
            text += &format!("{:>12.2}", side.p50(row));
        }
        text.push('\n');
    }
    text
}

/// Each line is a claim that somebody may check: ours over the better of the peers.
fn ratios(all: &[(Shape, BySide)]) -> String {
    let mut text = String::new();
    let peer = |samples: &BySide, row| samples[1].p50(row).min(samples[2].p50(row));
    for (shape, samples) in all {
        let name = shape.name();
        let wall = samples[0].p50("wall s");
        text += &format!("ratio pull_{name} {:.3}\n", wall / peer(samples, "wall s"));
        text += &format!("ratio pull_{name}_floor {:.3}\n", wall / samples[3].p50("wall s"));
        // The one of these that a busy machine does not change much.
        let cpu = samples[0].p50("cpu s") / samples[3].p50("cpu s");
        text += &format!("ratio pull_{name}_floor_cpu {cpu:.3}\n");
    }
    let sum = |pick: &dyn Fn(&BySide) -> f64| all.iter().map(|(_, samples)| pick(samples)).sum::<f64>();
    let ours = sum(&|samples| samples[0].p50("cpu s"));
    text += &format!("ratio pull_cpu {:.3}\n", ours / sum(&|samples| peer(samples, "cpu s")));
    let rss = all.iter().map(|(_, samples)| samples[0].percentile("peak rss MiB", 100.0)).fold(0.0, f64::max);
    text += &format!("ratio pull_rss_mib {rss:.1}\n");
    text
}
