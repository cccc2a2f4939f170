//! What a node has that can leak: mounts, namespaces' pins, cgroups, processes,
//! descriptors, addresses, files. Compared before and after.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything of one node that must be the same after as before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    pub mounts: BTreeSet<String>,
    pub cgroups: BTreeSet<PathBuf>,
    /// `pid command` of monitors, runtimes and what runs under this node's folders.
    pub processes: BTreeSet<String>,
    pub links: BTreeSet<String>,
    pub files: BTreeSet<PathBuf>,
    pub addresses: BTreeSet<String>,
    pub descriptors: usize,
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The node's own folder: everything it mounts or writes is below.
    pub dir: PathBuf,
    /// Folders whose files are counted (`RUN/sandboxes`, writable layers, CNI records).
    pub counted: Vec<PathBuf>,
    /// The cgroup below which the node's pods are, such as `/berth-test-1`.
    pub cgroup: String,
    /// The bridge that the node's pods are on.
    pub bridge: String,
    /// host-local's folder of addresses in use.
    pub ipam_dir: PathBuf,
    /// The daemon whose descriptors are counted.
    pub daemon_pid: Option<u32>,
}

impl Inventory {
    pub fn take(scope: &Scope) -> Inventory {
        Inventory {
            mounts: mounts_below(&scope.dir),
            cgroups: cgroups_named(&scope.cgroup),
            processes: processes_of(&scope.dir),
            links: links_of(&scope.bridge),
            files: scope.counted.iter().flat_map(|dir| files_below(dir)).collect(),
            addresses: names_in(&scope.ipam_dir)
                .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
                .collect(),
            descriptors: scope.daemon_pid.map_or(0, descriptors_of),
        }
    }

    /// What is here that was not there before, one line each; empty when nothing leaked.
    pub fn leaked_since(&self, before: &Inventory) -> Vec<String> {
        let mut leaks = Vec::new();
        let mut add = |what: &str, names: Vec<String>| {
            leaks.extend(names.into_iter().map(|name| format!("{what}: {name}")));
        };
        add("mount", self.mounts.difference(&before.mounts).cloned().collect());
        add("cgroup", paths(self.cgroups.difference(&before.cgroups)));
        add("process", self.processes.difference(&before.processes).cloned().collect());
        add("link", self.links.difference(&before.links).cloned().collect());
        add("file", paths(self.files.difference(&before.files)));
        add("address", self.addresses.difference(&before.addresses).cloned().collect());
        leaks
    }
}

fn paths<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Vec<String> {
    paths.map(|path| path.display().to_string()).collect()
}

fn mounts_below(dir: &Path) -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount_points = table.lines().filter_map(|line| line.split(' ').nth(4));
    mount_points.filter(|point| Path::new(point).starts_with(dir)).map(str::to_owned).collect()
}

/// All cgroups below this path in every hierarchy.
fn cgroups_named(cgroup: &str) -> BTreeSet<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten();
    let tops = hierarchies.map(|entry| entry.path()).chain([root.to_path_buf()]);
    let relative = cgroup.trim_start_matches('/');
    tops.map(|top| top.join(relative)).flat_map(|top| directories_below(&top)).collect()
}

fn directories_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            found.extend(directories_below(&entry.path()));
        }
    }
    found
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path()));
        }
    }
    found
}

/// Processes whose command line names the node's folder, except the daemon itself.
fn processes_of(dir: &Path) -> BTreeSet<String> {
    let needle = dir.to_string_lossy().into_owned();
    let own = std::process::id().to_string();
    let mut found = BTreeSet::new();
    for pid in names_in(Path::new("/proc")).filter(|name| name.parse::<u32>().is_ok() && *name != own) {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&needle) && command.contains("conmon") {
            found.insert(format!("{pid} {command}"));
        }
    }
    found
}

/// The links on a bridge: one a pod. Other nodes may share the network namespace.
fn links_of(bridge: &str) -> BTreeSet<String> {
    let listed = Command::new("ip").args(["-o", "link", "show", "master", bridge]).output();
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
}

fn names_in(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn descriptors_of(pid: u32) -> usize {
    names_in(Path::new(&format!("/proc/{pid}/fd"))).count()
}
