//! `update`: limits from options, or from a file of `linux.resources`.

use std::io::Read as _;

use runtime::spec::{self, BlockIo, Cpu, IntelRdt, Memory, Pids, Resources};

use super::args::{Args, unknown};
use super::{Error, Global};

#[derive(Default)]
struct Options {
    file: Option<String>,
    cpu: Cpu,
    memory: Memory,
    pids: Option<i64>,
    blkio_weight: Option<u16>,
    rdt: Option<IntelRdt>,
}

pub(crate) fn update(global: &Global, mut args: Args) -> Result<u8, Error> {
    let mut options = Options::read(&mut args)?;
    let id = args.id()?;
    args.end()?;
    let rdt = options.rdt.take();
    global.runtime.update_with_rdt(&id, &options.resources()?, rdt.as_ref())?;
    Ok(0)
}

impl Options {
    fn read(args: &mut Args) -> Result<Options, Error> {
        let mut options = Options::default();
        while let Some(option) = args.option() {
            let (cpu, memory) = (&mut options.cpu, &mut options.memory);
            match option.as_str() {
                "-r" | "--resources" => options.file = Some(args.value(&option)?),
                "--blkio-weight" => options.blkio_weight = Some(args.integer(&option)?),
                "--cpu-period" => cpu.period = Some(args.integer(&option)?),
                "--cpu-quota" => cpu.quota = Some(args.integer(&option)?),
                "--cpu-burst" => cpu.burst = Some(args.integer(&option)?),
                "--cpu-share" => cpu.shares = Some(args.integer(&option)?),
                "--cpu-rt-period" => cpu.realtime_period = Some(args.integer(&option)?),
                "--cpu-rt-runtime" => cpu.realtime_runtime = Some(args.integer(&option)?),
                "--cpu-idle" => cpu.idle = Some(args.integer(&option)?),
                "--cpuset-cpus" => cpu.cpus = Some(args.value(&option)?),
                "--cpuset-mems" => cpu.mems = Some(args.value(&option)?),
                "--memory" => memory.limit = Some(bytes(&option, &args.value(&option)?)?),
                "--memory-reservation" => memory.reservation = Some(bytes(&option, &args.value(&option)?)?),
                "--memory-swap" => memory.swap = Some(bytes(&option, &args.value(&option)?)?),
                "--kernel-memory" | "--kernel-memory-tcp" => {
                    // runc took them, with a warning, long after the kernel had stopped to.
                    args.value(&option)?;
                }
                "--pids-limit" => options.pids = Some(args.integer(&option)?),
                "--l3-cache-schema" => options.rdt().l3_cache_schema = Some(args.value(&option)?),
                "--mem-bw-schema" => options.rdt().mem_bw_schema = Some(args.value(&option)?),
                _ => return Err(unknown(&option)),
            }
        }
        Ok(options)
    }

    fn rdt(&mut self) -> &mut IntelRdt {
        self.rdt.get_or_insert_default()
    }

    /// With a file, all other options but those of resctrl, which it cannot name, are ignored.
    fn resources(self) -> Result<Resources, Error> {
        if let Some(file) = &self.file {
            return read(file);
        }
        Ok(Resources {
            cpu: Some(self.cpu),
            memory: Some(self.memory),
            pids: self.pids.map(|limit| Pids { limit: Some(limit) }),
            block_io: self.blkio_weight.map(|weight| BlockIo { weight: Some(weight), ..BlockIo::default() }),
            ..Resources::default()
        })
    }
}

fn read(file: &str) -> Result<Resources, Error> {
    let mut text = Vec::new();
    let read = if file == "-" {
        std::io::stdin().lock().read_to_end(&mut text).map(drop)
    } else {
        std::fs::read(file).map(|bytes| text = bytes)
    };
    read.map_err(|e| Error::io("reading", file, e))?;
    spec::parse(&text).map_err(|source| Error::Json { path: file.into(), source })
}

/// `-1`, or a number with a unit: `64M`, `1.5GiB`, `100kb`; a unit is always a power of 1024.
fn bytes(option: &str, text: &str) -> Result<i64, Error> {
    let wrong = || Error::Usage(format!("{option}: {text:?} is no size such as 64M"));
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let unit = lower.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = lower[..lower.len() - unit.len()].parse().map_err(|_| wrong())?;
    let power = match unit.trim_start().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    let bytes = number * 1024_f64.powi(power);
    if bytes < i64::MAX as f64 { Ok(bytes as i64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_read_with_their_units() {
        let size = |text| bytes("--memory", text).ok();
        assert_eq!(size("-1"), Some(-1));
        assert_eq!(size("1048576"), Some(1 << 20));
        assert_eq!(size("64M"), Some(64 << 20));
        assert_eq!(size("1.5GiB"), Some(3 << 29));
        assert_eq!(size("100 kb"), Some(102_400));
        for wrong in ["", "-2", "x", "1x", "M", "1e3", "99999999999999999999"] {
            assert_eq!(size(wrong), None, "{wrong:?}");
        }
    }
}
