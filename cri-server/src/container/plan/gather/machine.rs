//! What of the machine does not change while berthd runs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::sync::LazyLock;

use oci_spec::runtime::Capability;

use super::super::capabilities;

/// Every file of /proc or /sys that is read here is far smaller.
const FACT_MAX_BYTES: u64 = 1 << 16;

/// What does not change while berthd runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub cgroup: CgroupVersion,
    /// What we hold ourselves, and so all that a container can get.
    pub capabilities: Vec<Capability>,
    /// The lowest oom_score_adj that we can give; without CAP_SYS_RESOURCE it is our own.
    pub oom_score_adj_floor: i32,
    pub apparmor: bool,
    pub selinux: bool,
    /// Page sizes that the hugetlb controller can limit, as the CRI names them: `2MB`.
    pub hugepage_sizes: BTreeSet<String>,
    pub swap_accounting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy per controller, perhaps with an empty cgroup2 beside them.
    V1,
    V2,
}

/// Read once.
pub fn machine() -> &'static Machine {
    static MACHINE: LazyLock<Machine> = LazyLock::new(Machine::read);
    &MACHINE
}

impl Machine {
    pub fn read() -> Self {
        let status = read_fact("/proc/self/status");
        let held = capabilities::from_mask(hex_field(&status, "CapPrm:") & hex_field(&status, "CapBnd:"));
        let cgroup = cgroup_version();
        Self {
            oom_score_adj_floor: oom_score_adj_floor(&held),
            capabilities: held,
            apparmor: read_fact("/sys/module/apparmor/parameters/enabled").starts_with('Y'),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            hugepage_sizes: limitable_hugepage_sizes(cgroup),
            swap_accounting: swap_accounting(cgroup),
            cgroup,
        }
    }
}

impl CgroupVersion {
    /// Whether a controller is at hand, by the name that it has in this version.
    pub fn has_controller(self, name: &str) -> bool {
        match self {
            CgroupVersion::V1 => Path::new("/sys/fs/cgroup").join(name).exists(),
            CgroupVersion::V2 => {
                let controllers = read_fact("/sys/fs/cgroup/cgroup.controllers");
                controllers.split_whitespace().any(|controller| controller == name)
            }
        }
    }
}

fn cgroup_version() -> CgroupVersion {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if unified { CgroupVersion::V2 } else { CgroupVersion::V1 }
}

/// The kernel's `oom_score_adj_min` cannot be read; our own value is never below it.
fn oom_score_adj_floor(held: &[Capability]) -> i32 {
    if held.contains(&Capability::SysResource) {
        return -1000;
    }
    read_fact("/proc/self/oom_score_adj").trim().parse().unwrap_or(0)
}

/// On v2 the root has no `memory.swap.max`, so a kernel that can account swap is one with swap support.
fn swap_accounting(cgroup: CgroupVersion) -> bool {
    match cgroup {
        CgroupVersion::V1 => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        CgroupVersion::V2 => Path::new("/proc/swaps").exists(),
    }
}

/// None where the controller is not at hand, as on a v1 host that has not mounted it.
fn limitable_hugepage_sizes(cgroup: CgroupVersion) -> BTreeSet<String> {
    if cgroup.has_controller("hugetlb") { hugepage_sizes() } else { BTreeSet::new() }
}

/// Sizes of this machine's huge pages, as the interface names them: `2MB`.
pub fn hugepage_sizes() -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return BTreeSet::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| hugepage_size(&name)).collect()
}

/// `hugepages-2048kB` is `2MB` to the interface and to the controller.
fn hugepage_size(directory: &str) -> Option<String> {
    let kib: u64 = directory.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        _ if kib.is_multiple_of(1 << 20) => format!("{}GB", kib >> 20),
        _ if kib.is_multiple_of(1 << 10) => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    })
}

fn hex_field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    u64::from_str_radix(value.trim(), 16).unwrap_or(0)
}

/// A fact of the kernel; one that cannot be read is empty.
fn read_fact(path: &str) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FACT_MAX_BYTES).read_to_string(&mut text));
    read.map(|_| text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_named_as_the_interface_names_them() {
        let check = |directory: &str, size: Option<&str>| {
            assert_eq!(hugepage_size(directory).as_deref(), size, "{directory}");
        };
        check("hugepages-2048kB", Some("2MB"));
        check("hugepages-1048576kB", Some("1GB"));
        check("hugepages-64kB", Some("64KB"));
        check("other", None);
    }
}
