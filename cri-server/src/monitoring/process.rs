//! What a container's processes hold open: the one part that no cgroup counts.

use std::path::PathBuf;

use super::descriptors as names;
use super::series::Series;
use crate::stats::Detail;

/// Descriptors of one container that are looked at; a program with more is a rarity that must not stall the rest.
const DESCRIPTORS_MAX: u64 = 100_000;

pub(super) fn add(series: &mut Series, detail: &Detail, init: Option<i32>) {
    series.add(&names::PROCESSES, detail.pids.len() as u64);
    series.add_known(&names::THREADS, detail.basic.processes.map(|threads| threads.count));
    series.add(&names::THREADS_MAX, detail.threads_max.unwrap_or_default());
    let (descriptors, sockets) = open_files(&detail.pids);
    series.add(&names::FILE_DESCRIPTORS, descriptors);
    series.add(&names::SOCKETS, sockets);
    if let Some(limit) = init.and_then(open_files_limit) {
        series.add_of(&names::ULIMITS_SOFT, &["max_open_files"], limit);
    }
}

/// All of them, and how many are sockets. A process that ends meanwhile has none.
fn open_files(pids: &[i32]) -> (u64, u64) {
    let (mut descriptors, mut sockets) = (0, 0);
    let dirs = pids.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok());
    for descriptor in dirs.flatten().flatten() {
        if descriptors == DESCRIPTORS_MAX {
            break;
        }
        descriptors += 1;
        let target = std::fs::read_link(descriptor.path()).unwrap_or_default();
        sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
    }
    (descriptors, sockets)
}

/// The soft limit, as proc(5) has it in a table; none is as good as the greatest number.
fn open_files_limit(pid: i32) -> Option<u64> {
    let table = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/limits"))).ok()?;
    soft_limit(&table, "Max open files")
}

fn soft_limit(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_files_open() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (_socket, before) =
            (std::os::unix::net::UnixDatagram::unbound().unwrap(), open_files(&[own, i32::MAX]));
        assert!(before.0 > before.1 && before.1 >= 1, "{before:?}");
        assert!(open_files_limit(own).is_some_and(|limit| limit >= before.0));
        assert_eq!(soft_limit("Max open files   unlimited  9  files", "Max open files"), Some(u64::MAX));
        assert_eq!(soft_limit("Max cpu time 1 2 s", "Max open files"), None);
    }
}
