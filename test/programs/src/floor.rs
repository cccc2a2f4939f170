//! What a container costs the kernel and nothing else: the namespaces, mounts, masks, cgroups, capabilities and filter
//! of the benchmark's bundle, pivot_root, exec of `/bin/true`, and removal. No configuration is read, no state is
//! written, nothing is checked: no runtime can be faster, and how near one comes is what the benchmark tells.
//!
//! `floor ROOTFS VOLUMES CGROUP FILTER CPUS MEMS HIERARCHY...`; FILTER is a compiled one as berth-runtime keeps it.

#![no_main]
#![allow(clippy::expect_used, reason = "there is nobody to be told more politely")]

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};

use kernel::{
    CStringArray, CapSets, Depth, MountAttr, SockFilter, clone_flags as flag, mount_attr, propagation,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mkdir, mknodat, open, rmdir, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree};
use rustix::process::{Pid, WaitOptions, chdir, fchdir, pivot_root, umask, waitpid};

kernel::main!(floor);

/// The cache's file begins with a magic number, a hash and four words.
const FILTER_HEADER: usize = 56;
const KEPT_CAPABILITIES: u64 = 0xa804_25fb;
const BINDS: [(&str, &str); 6] = [
    ("hosts", "/etc/hosts"),
    ("termination-log", "/dev/termination-log"),
    ("hostname", "/etc/hostname"),
    ("resolv.conf", "/etc/resolv.conf"),
    ("data", "/data"),
    ("token", "/var/run/secrets"),
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const MASKED_DIRS: [&str; 6] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
];
const MASKED_FILES: [&str; 8] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/interrupts",
    "/sys/devices/system/cpu/cpu1/thermal_throttle",
];

struct Job {
    root: OwnedFd,
    binds: Vec<OwnedFd>,
    tasks: Vec<OwnedFd>,
    cgroups: Vec<(String, OwnedFd)>,
    filter: Vec<SockFilter>,
}

fn floor() -> i32 {
    kernel::begin();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [rootfs, volumes, cgroup, filter, cpus, mems, hierarchies @ ..] = words.as_slice() else { return 2 };
    let dirs: Vec<(String, String)> =
        hierarchies.iter().map(|name| (name.clone(), format!("/sys/fs/cgroup/{name}/{cgroup}"))).collect();
    make_cgroups(&dirs, cpus, mems);
    let is_unified = |name: &str| name == "unified" || name == ".";
    let v1 = || dirs.iter().filter(|(name, _)| !is_unified(name));
    let unified = dirs.iter().find(|(name, _)| is_unified(name)).map(|(_, dir)| open_dir(dir));
    let job = Job {
        root: tree(rootfs, propagation::PRIVATE, 0),
        binds: BINDS
            .iter()
            .map(|(name, _)| tree(&format!("{volumes}/{name}"), propagation::PRIVATE, 0))
            .collect(),
        tasks: v1().map(|(_, dir)| open_to_write(&format!("{dir}/tasks"))).collect(),
        cgroups: v1().map(|(name, dir)| (name.clone(), tree(dir, 0, mount_attr::RDONLY))).collect(),
        filter: read_filter(filter),
    };
    let namespaces = flag::NEWPID | flag::NEWNS | flag::NEWNET | flag::NEWIPC | flag::NEWUTS;
    let child = kernel::clone3(namespaces, unified.as_ref().map(OwnedFd::as_fd), || become_true(&job));
    let child = child.expect("clone3");
    let Job { root, binds, tasks, cgroups, .. } = job;
    let trees = cgroups.into_iter().map(|(_, tree)| tree);
    kernel::close_together([root].into_iter().chain(binds).chain(tasks).chain(trees));
    let status = waitpid(Pid::from_raw(child.pid), WaitOptions::empty()).expect("waitpid");
    dirs.iter().for_each(|(_, dir)| rmdir(dir).expect("rmdir"));
    status.and_then(|(_, status)| status.exit_status()).unwrap_or(1)
}

fn make_cgroups(dirs: &[(String, String)], cpus: &str, mems: &str) {
    for (name, dir) in dirs {
        mkdir(dir, Mode::from_raw_mode(0o755)).expect("mkdir");
        let set = |file: &str, values: &[&str]| {
            let file = open_to_write(&format!("{dir}/{file}"));
            for value in values {
                rustix::io::write(&file, value.as_bytes()).expect("a limit");
            }
        };
        match name.as_str() {
            "cpuset" => {
                set("cpuset.cpus", &[cpus]);
                set("cpuset.mems", &[mems]);
            }
            "cpu" | "cpu,cpuacct" => {
                set("cpu.shares", &["102"]);
                set("cpu.cfs_quota_us", &["50000"]);
            }
            "memory" => {
                set("memory.limit_in_bytes", &["268435456"]);
                set("memory.memsw.limit_in_bytes", &["268435456"]);
            }
            "pids" => set("pids.max", &["1000"]),
            "devices" => {
                set("devices.deny", &["a"]);
                let nodes = ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:2", "136:*"];
                let nodes: Vec<String> = nodes.iter().map(|node| format!("c {node} rwm")).collect();
                let nodes = nodes.iter().map(String::as_str);
                set("devices.allow", &["b *:* m", "c *:* m"].into_iter().chain(nodes).collect::<Vec<_>>());
            }
            "." => {
                set("cpu.weight", &["4"]);
                set("cpu.max", &["50000 100000"]);
                set("memory.max", &["268435456"]);
                set("memory.swap.max", &["0"]);
                set("pids.max", &["1000"]);
            }
            _ => {}
        }
    }
}

fn become_true(job: &Job) -> i32 {
    for tasks in &job.tasks {
        rustix::io::write(tasks, b"0").expect("tasks");
    }
    kernel::unshare(flag::NEWCGROUP).expect("unshare");
    rustix::system::sethostname(b"bench").expect("sethostname");
    umask(Mode::empty());
    make_root(job);
    for bit in (0..=40).filter(|bit| KEPT_CAPABILITIES & 1 << bit == 0) {
        kernel::capbset_drop(bit).expect("a capability");
    }
    let kept = KEPT_CAPABILITIES;
    kernel::capset(CapSets { effective: kept, permitted: kept, inheritable: 0 }).expect("capset");
    kernel::set_no_new_privs().expect("no_new_privs");
    umask(Mode::from_raw_mode(0o022));
    kernel::close_range_cloexec(3).expect("close_range");
    let strings = |strings: &[&str]| {
        CStringArray::new(strings.iter().filter_map(|text| CString::new(*text).ok()).collect())
    };
    let (args, env) = (strings(&["/bin/true"]), strings(&["PATH=/bin"]));
    kernel::seccomp_set_mode_filter(&job.filter, 0).expect("seccomp");
    let errno = kernel::execve(c"/bin/true", &args, &env);
    errno.raw_os_error()
}

fn make_root(job: &Job) {
    let private = MountAttr { propagation: propagation::PRIVATE, ..MountAttr::default() };
    kernel::mount_setattr_at(c"/", Depth::Recursive, &private).expect("private");
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&job.root, c"", CWD, c"/", whole).expect("the root");
    fchdir(&job.root).expect("fchdir");
    pivot_root(c".", c".").expect("pivot_root");
    rustix::mount::unmount(c".", UnmountFlags::DETACH).expect("umount2");
    chdir(c"/").expect("chdir");
    let safe = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let fs = |kind: &str, place: &str, flags: MountFlags, data: &str| {
        let data = CString::new(data).expect("options");
        mount(kind, place, kind, flags, Some(data.as_c_str())).expect("mount");
    };
    fs("proc", "/proc", safe, "");
    fs("tmpfs", "/dev", MountFlags::NOSUID | MountFlags::STRICTATIME, "mode=755,size=65536k");
    fill_dev();
    fs(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620,gid=5",
    );
    fs("mqueue", "/dev/mqueue", safe, "");
    fs("sysfs", "/sys", safe | MountFlags::RDONLY, "");
    if job.cgroups.is_empty() {
        fs("cgroup2", "/sys/fs/cgroup", safe | MountFlags::RDONLY, "");
    } else {
        fs("tmpfs", "/sys/fs/cgroup", safe, "mode=755");
    }
    for (name, tree) in &job.cgroups {
        let place = format!("/sys/fs/cgroup/{name}");
        mkdir(&place, Mode::from_raw_mode(0o755)).expect("mkdir");
        move_mount(tree, c"", CWD, &place, whole).expect("a hierarchy");
    }
    for (tree, (_, place)) in job.binds.iter().zip(BINDS) {
        move_mount(tree, c"", CWD, place, whole).expect("a bind mount");
    }
    READONLY.iter().for_each(|path| cover(path, path, mount_attr::RDONLY));
    MASKED_FILES.iter().for_each(|path| cover("/dev/null", path, 0));
    mask_dirs();
}

fn fill_dev() {
    let dev = open_dir("/dev");
    for (name, number) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(&dev, name, FileType::CharacterDevice, mode, makedev(1, number)).expect("a device");
    }
    mknodat(&dev, "tty", FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(5, 0)).expect("tty");
    mknodat(&dev, "termination-log", FileType::RegularFile, Mode::from_raw_mode(0o644), 0).expect("a file");
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlinkat(target, &dev, name).expect("a link");
    }
    for name in ["/dev/pts", "/dev/mqueue"] {
        mkdir(name, Mode::from_raw_mode(0o755)).expect("mkdir");
    }
}

/// What is not there needs no cover.
fn cover(source: &str, place: &str, set: u64) {
    let source = CString::new(source).expect("a path");
    let attr = MountAttr { set, ..MountAttr::default() };
    let tree = match kernel::open_tree_attr(CWD, &source, Depth::One, &attr) {
        Err(Errno::NOENT) => return,
        tree => tree.expect("open_tree"),
    };
    match move_mount(&tree, c"", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH) {
        Err(Errno::NOENT) => {}
        moved => moved.expect("move_mount"),
    }
    std::mem::forget(tree);
}

fn mask_dirs() {
    let mut first: Option<&str> = None;
    for place in MASKED_DIRS {
        if let Some(first) = first {
            cover(first, place, 0);
            continue;
        }
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
        match mount("tmpfs", place, "tmpfs", flags, Some(c"mode=755,nr_inodes=1")) {
            Ok(()) => first = Some(place),
            Err(Errno::NOENT) => {}
            Err(errno) => panic!("masking {place}: {errno}"),
        }
    }
}

fn tree(path: &str, propagation: u64, set: u64) -> OwnedFd {
    let at = CString::new(path).expect("a path");
    let attr = MountAttr { propagation, set, ..MountAttr::default() };
    if attr == MountAttr::default() {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        return open_tree(CWD, at, flags).expect("open_tree");
    }
    kernel::open_tree_attr(CWD, &at, Depth::Recursive, &attr).expect("open_tree_attr")
}

fn open_dir(path: &str) -> OwnedFd {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("a directory")
}

fn open_to_write(path: &str) -> OwnedFd {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    file.unwrap_or_else(|errno| panic!("{path}: {errno}"))
}

fn read_filter(path: &str) -> Vec<SockFilter> {
    let bytes = fs::read(path).expect("the filter");
    let instructions = bytes.get(FILTER_HEADER..).expect("a filter").as_chunks::<8>().0;
    let one = |&[a, b, jt, jf, k0, k1, k2, k3]: &[u8; 8]| SockFilter {
        code: u16::from_le_bytes([a, b]),
        jt,
        jf,
        k: u32::from_le_bytes([k0, k1, k2, k3]),
    };
    instructions.iter().map(one).collect()
}
