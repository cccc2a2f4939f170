//! What limits were before they are changed, so that a change that is refused half-way leaves none behind.

use std::path::Path;

use super::limits::{Absent, Write};
use super::{Cgroup, apply, files};

/// The writes that bring the earlier limits back.
#[derive(Debug, Default)]
pub(crate) struct Before(Vec<Write>);

impl Cgroup {
    /// Of each file that these writes are for. One that can't be read is left as it will be.
    pub(super) fn before(&self, writes: &[Write]) -> Before {
        let one = |write: &Write| {
            let dir = self.dir(self.layout.serving(&write.controller)?);
            let was = was(&dir, &write.file, &write.value, write).or_else(|| match &write.absent {
                Absent::Instead(file, value) => was(&dir, file, value, write),
                Absent::Refuse | Absent::Skip => None,
            })?;
            let weight = weight_of_idle(&dir, &was);
            Some([Some(was), weight])
        };
        Before(writes.iter().filter_map(one).flatten().flatten().collect())
    }

    /// As far as the kernel lets us: why the change failed is what its caller wants to hear.
    pub(crate) fn put_back(&self, before: &Before) {
        if let Some(scope) = &self.scope {
            let _ = scope.update(&before.0);
        }
        for group in before.0.chunk_by(|one, other| one.controller == other.controller) {
            let Some(hierarchy) = self.layout.serving(&group[0].controller) else { continue };
            let dir = self.dir(hierarchy);
            let all: Vec<&Write> = group.iter().collect();
            if apply::write_limits(&dir, &all, &self.written).is_err() {
                // One that can't be had back does not keep the others from it.
                for one in all {
                    let _ = apply::write_limits(&dir, &[one], &self.written);
                }
            }
        }
    }
}

fn was(dir: &Path, file: &str, value: &str, write: &Write) -> Option<Write> {
    let now = files::read(dir, file).ok()?;
    let value = earlier(file, &now, value)?;
    Some(Write { file: file.to_owned(), value, absent: Absent::Skip, ..write.clone() })
}

/// Whoever is idle for a moment forgets its weight, and may be given one only after that.
fn weight_of_idle(dir: &Path, idle: &Write) -> Option<Write> {
    let is_to_be_had = idle.file == "cpu.idle" && idle.value == "0";
    ["cpu.weight", "cpu.shares"]
        .into_iter()
        .filter(|_| is_to_be_had)
        .find_map(|file| was(dir, file, "", idle))
}

/// The words that make a file say again what it says `now`, once `new` has been written to it.
fn earlier(file: &str, now: &str, new: &str) -> Option<String> {
    if file == "memory.oom_control" {
        return now.lines().find_map(|line| line.strip_prefix("oom_kill_disable ")).map(str::to_owned);
    }
    let Some((key, _)) = new.split_once(' ').filter(|_| has_keys(file)) else {
        // An empty list is written as an empty line: a write of nothing does nothing.
        let lines = now.lines().count();
        return (lines <= 1).then(|| if now.is_empty() { "\n".to_owned() } else { now.to_owned() });
    };
    let there = now.lines().find(|line| line.split(' ').next() == Some(key));
    there.map(str::to_owned).or_else(|| none(file).map(|none| format!("{key} {none}")))
}

/// Files of one line for each device, or whatever else is named first.
fn has_keys(file: &str) -> bool {
    matches!(file, "io.max" | "io.weight" | "io.latency" | "rdma.max" | "misc.max" | "net_prio.ifpriomap")
        || file.ends_with("weight_device")
        || file.ends_with("bfq.weight")
        || file.starts_with("blkio.throttle.")
}

/// What is written for a device that has no line.
fn none(file: &str) -> Option<&'static str> {
    match file {
        "io.max" => Some("rbps=max wbps=max riops=max wiops=max"),
        "rdma.max" => Some("hca_handle=max hca_object=max"),
        "misc.max" => Some("max"),
        file if file.ends_with("weight") => Some("default"),
        file if file.starts_with("blkio.") || file == "net_prio.ifpriomap" => Some("0"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::earlier;

    #[test]
    fn each_kind_of_file_has_words_for_what_it_said() {
        let check = |file, now, new, words: Option<&str>| {
            assert_eq!(earlier(file, now, new).as_deref(), words, "{file} {now:?} {new:?}");
        };
        check("memory.max", "max", "4096", Some("max"));
        check("cpu.max", "50000 100000", "max 100000", Some("50000 100000"));
        check("cpuset.cpus", "", "0-1", Some("\n"));
        check("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 0", "0", Some("1"));
        check(
            "io.max",
            "8:0 rbps=1 wbps=max riops=max wiops=max\n8:16 rbps=2",
            "8:16 rbps=9",
            Some("8:16 rbps=2"),
        );
        check("io.max", "", "8:0 rbps=9", Some("8:0 rbps=max wbps=max riops=max wiops=max"));
        check("io.weight", "default 100\n8:0 50", "default 200", Some("default 100"));
        check("io.weight", "default 100", "8:0 200", Some("8:0 default"));
        check("io.bfq.weight", "100", "200", Some("100"));
        check("blkio.throttle.read_bps_device", "8:0 7", "8:16 9", Some("8:16 0"));
        check("blkio.throttle.read_bps_device", "8:0 7", "8:0 9", Some("8:0 7"));
        check(
            "rdma.max",
            "mlx hca_handle=2 hca_object=max",
            "mlx hca_handle=9",
            Some("mlx hca_handle=2 hca_object=max"),
        );
        check("some.stat", "one 1\ntwo 2", "9", None);
    }
}
