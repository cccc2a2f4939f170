//! Reads one cgroup's files, relative to descriptors of the hierarchies and into one buffer.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::parse::{keyed, number, pressure};
use super::{CgroupStats, Cpu, Io, Memory, Pressure, Processes, Swap};

const CGROUPS: &str = "/sys/fs/cgroup";
/// memory.stat, the largest, is under 4 KiB today.
const FILE_MAX_BYTES: usize = 64 * 1024;
/// v1 writes "no limit" as the greatest whole number of pages.
const V1_UNLIMITED: u64 = 1 << 60;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("opening the cgroup hierarchy {}", path.display())]
    Hierarchy { path: PathBuf, source: std::io::Error },
    #[error("there is no cgroup {path}")]
    Gone { path: String },
    #[error("opening the cgroup {path}")]
    Open { path: String, source: std::io::Error },
}

/// Where the hierarchies are.
#[derive(Debug)]
pub struct Reader {
    pub(super) hierarchies: Hierarchies,
    /// Page sizes of this machine, as the controller names them.
    pub(super) hugepage_sizes: Vec<String>,
    pub(super) buffer: Vec<u8>,
}

#[derive(Debug)]
pub(super) enum Hierarchies {
    V2(OwnedFd),
    /// One for each controller that is mounted, and the empty cgroup2 that a hybrid host has beside them.
    V1 {
        cpu: Option<OwnedFd>,
        cpuacct: Option<OwnedFd>,
        memory: Option<OwnedFd>,
        pids: Option<OwnedFd>,
        blkio: Option<OwnedFd>,
        hugetlb: Option<OwnedFd>,
        unified: Option<OwnedFd>,
    },
}

impl Reader {
    /// # Errors
    /// When the machine's cgroup hierarchies are not where they always are.
    pub fn open() -> Result<Self, Error> {
        let root = Path::new(CGROUPS);
        let hierarchies = if root.join("cgroup.controllers").exists() {
            Hierarchies::V2(directory(root)?)
        } else {
            let mounted = |name: &str| directory(&root.join(name)).ok();
            Hierarchies::V1 {
                cpu: mounted("cpu").or_else(|| mounted("cpu,cpuacct")),
                cpuacct: mounted("cpuacct").or_else(|| mounted("cpu,cpuacct")),
                memory: Some(directory(&root.join("memory"))?),
                pids: mounted("pids"),
                blkio: mounted("blkio"),
                hugetlb: mounted("hugetlb"),
                unified: mounted("unified"),
            }
        };
        let hugepage_sizes = crate::container::plan::hugepage_sizes().into_iter().collect();
        Ok(Self { hierarchies, hugepage_sizes, buffer: Vec::with_capacity(8192) })
    }

    /// Everything that the kernel tells about the cgroup but its [`processes`](Self::processes); what it does not tell
    /// stays `None`.
    ///
    /// # Errors
    /// When there is no such cgroup.
    pub fn read(&mut self, cgroup_path: &str, at_ns: i64) -> Result<CgroupStats, Error> {
        let buffer = &mut self.buffer;
        match &self.hierarchies {
            Hierarchies::V2(root) => Ok(v2(&open(root, cgroup_path)?, at_ns, buffer)),
            Hierarchies::V1 { cpuacct, memory, unified, .. } => {
                let find = |hierarchy: &Option<OwnedFd>| find(hierarchy, cgroup_path);
                let (memory, cpuacct) = (find(memory)?, find(cpuacct)?);
                let mut stats = v1(cpuacct.as_ref(), memory.as_ref(), at_ns, buffer);
                if let Ok(Some(unified)) = find(unified) {
                    add_pressure(&mut stats, &unified, at_ns, buffer);
                }
                Ok(stats)
            }
        }
    }

    /// How many there are, those of cgroups below it among them: asked of pods, while of containers nobody wants to know.
    pub fn processes(&mut self, cgroup_path: &str, at_ns: i64) -> Option<Processes> {
        let cgroup = match &self.hierarchies {
            Hierarchies::V2(root) => open(root, cgroup_path).ok()?,
            Hierarchies::V1 { pids, .. } => find(pids, cgroup_path).ok()??,
        };
        number(text(&cgroup, "pids.current", &mut self.buffer)).map(|count| Processes { at_ns, count })
    }
}

fn directory(path: &Path) -> Result<OwnedFd, Error> {
    let opened = File::open(path).map(OwnedFd::from);
    opened.map_err(|source| Error::Hierarchy { path: path.to_owned(), source })
}

/// The cgroup in a hierarchy that may not be mounted.
pub(super) fn find(hierarchy: &Option<OwnedFd>, cgroup_path: &str) -> Result<Option<OwnedFd>, Error> {
    hierarchy.as_ref().map(|root| open(root, cgroup_path)).transpose()
}

/// Confined to the hierarchy, whatever the path says.
pub(super) fn open(root: &OwnedFd, cgroup_path: &str) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let relative = cgroup_path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    match openat2(root, relative, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
        Ok(fd) => Ok(fd),
        Err(Errno::NOENT) => Err(Error::Gone { path: cgroup_path.to_owned() }),
        Err(e) => Err(Error::Open { path: cgroup_path.to_owned(), source: e.into() }),
    }
}

/// The file's text; empty when the kernel has no such file, or no longer. It comes in one piece, however long it is, so
/// that a read which leaves room was the last.
pub(super) fn text<'a>(directory: &OwnedFd, name: &str, buffer: &'a mut Vec<u8>) -> &'a [u8] {
    fill(directory, name, buffer, |count, room| count < room);
    buffer
}

/// The same of a file that is a list, which may come in pieces.
pub(super) fn list<'a>(directory: &OwnedFd, name: &str, buffer: &'a mut Vec<u8>) -> &'a [u8] {
    fill(directory, name, buffer, |count, _| count == 0);
    buffer
}

fn fill(directory: &OwnedFd, name: &str, buffer: &mut Vec<u8>, is_last: fn(usize, usize) -> bool) {
    buffer.clear();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(directory, name, flags, Mode::empty()) else { return };
    while buffer.len() < FILE_MAX_BYTES {
        buffer.reserve(4096);
        let room = buffer.spare_capacity_mut().len();
        match rustix::io::read(&file, rustix::buffer::spare_capacity(buffer)) {
            Ok(count) if is_last(count, room) => return,
            Ok(_) | Err(Errno::INTR) => {}
            // PSI that is switched off answers EOPNOTSUPP, a cgroup that goes away ENODEV.
            Err(_) => return buffer.clear(),
        }
    }
}

fn v2(cgroup: &OwnedFd, at_ns: i64, buffer: &mut Vec<u8>) -> CgroupStats {
    let cpu = keyed(text(cgroup, "cpu.stat", buffer), "usage_usec");
    let mut stats = CgroupStats {
        cpu: cpu.map(|usage_us| Cpu { at_ns, usage_ns: usage_us.saturating_mul(1000), ..Cpu::default() }),
        memory: v2_memory(cgroup, at_ns, buffer),
        swap: v2_swap(cgroup, at_ns, buffer),
        processes: None,
        io: None,
    };
    add_pressure(&mut stats, cgroup, at_ns, buffer);
    stats
}

fn v2_memory(cgroup: &OwnedFd, at_ns: i64, buffer: &mut Vec<u8>) -> Option<Memory> {
    let usage_bytes = number(text(cgroup, "memory.current", buffer))?;
    let limit_bytes = number(text(cgroup, "memory.max", buffer));
    let stat = text(cgroup, "memory.stat", buffer);
    let of = |name: &str| keyed(stat, name).unwrap_or_default();
    let working_set_bytes = usage_bytes.saturating_sub(of("inactive_file"));
    Some(Memory {
        at_ns,
        usage_bytes,
        working_set_bytes,
        available_bytes: limit_bytes.map(|limit| limit.saturating_sub(working_set_bytes)),
        rss_bytes: of("anon"),
        page_faults: of("pgfault"),
        major_page_faults: of("pgmajfault"),
        pressure: None,
    })
}

fn v2_swap(cgroup: &OwnedFd, at_ns: i64, buffer: &mut Vec<u8>) -> Option<Swap> {
    let usage_bytes = number(text(cgroup, "memory.swap.current", buffer))?;
    let limit_bytes = number(text(cgroup, "memory.swap.max", buffer));
    Some(Swap {
        at_ns,
        usage_bytes,
        available_bytes: limit_bytes.map(|limit| limit.saturating_sub(usage_bytes)),
    })
}

fn v1(cpuacct: Option<&OwnedFd>, memory: Option<&OwnedFd>, at_ns: i64, buffer: &mut Vec<u8>) -> CgroupStats {
    let cpu = cpuacct.and_then(|cgroup| number(text(cgroup, "cpuacct.usage", buffer)));
    let (memory, swap) = memory.map(|cgroup| v1_memory(cgroup, at_ns, buffer)).unwrap_or_default();
    CgroupStats {
        cpu: cpu.map(|usage_ns| Cpu { at_ns, usage_ns, ..Cpu::default() }),
        memory,
        swap,
        processes: None,
        io: None,
    }
}

/// Both are in one file, which is the dearest of all to ask for.
fn v1_memory(cgroup: &OwnedFd, at_ns: i64, buffer: &mut Vec<u8>) -> (Option<Memory>, Option<Swap>) {
    let usage_bytes = number(text(cgroup, "memory.usage_in_bytes", buffer));
    let stat = text(cgroup, "memory.stat", buffer);
    (usage_bytes.map(|usage_bytes| v1_used(usage_bytes, stat, at_ns)), v1_swapped(stat, at_ns))
}

fn v1_used(usage_bytes: u64, stat: &[u8], at_ns: i64) -> Memory {
    let of = |name: &str| keyed(stat, name).unwrap_or_default();
    let limit_bytes = Some(of("hierarchical_memory_limit")).filter(|limit| *limit < V1_UNLIMITED);
    let working_set_bytes = usage_bytes.saturating_sub(of("total_inactive_file"));
    Memory {
        at_ns,
        usage_bytes,
        working_set_bytes,
        available_bytes: limit_bytes.map(|limit| limit.saturating_sub(working_set_bytes)),
        rss_bytes: of("total_rss"),
        page_faults: of("total_pgfault"),
        major_page_faults: of("total_pgmajfault"),
        pressure: None,
    }
}

/// v1 limits memory and swap together.
fn v1_swapped(stat: &[u8], at_ns: i64) -> Option<Swap> {
    let usage_bytes = keyed(stat, "total_swap")?;
    let both = keyed(stat, "hierarchical_memsw_limit").filter(|limit| *limit < V1_UNLIMITED);
    let memory = keyed(stat, "hierarchical_memory_limit").filter(|limit| *limit < V1_UNLIMITED);
    let limit_bytes = both.zip(memory).map(|(both, memory)| both.saturating_sub(memory));
    Some(Swap {
        at_ns,
        usage_bytes,
        available_bytes: limit_bytes.map(|limit| limit.saturating_sub(usage_bytes)),
    })
}

fn add_pressure(stats: &mut CgroupStats, cgroup: &OwnedFd, at_ns: i64, buffer: &mut Vec<u8>) {
    let mut of = |name: &str| -> Option<Pressure> { pressure(text(cgroup, name, buffer)) };
    if let Some(cpu) = &mut stats.cpu {
        cpu.pressure = of("cpu.pressure");
    }
    if let Some(memory) = &mut stats.memory {
        memory.pressure = of("memory.pressure");
    }
    stats.io = of("io.pressure").map(|pressure| Io { at_ns, pressure });
}
