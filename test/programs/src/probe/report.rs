//! Everything that a process can see of itself and its surroundings, as one JSON document.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use rustix::stdio::stdin;
use serde_json::{Map, Value, json};

pub(crate) fn report() -> Value {
    let status = status();
    let numbers =
        |key: &str| -> Vec<u64> { words(&status, key).iter().filter_map(|word| word.parse().ok()).collect() };
    let mask = |key: &str| u64::from_str_radix(text(&status, key), 16).unwrap_or(0);
    json!({
        "args": std::env::args().collect::<Vec<_>>(),
        "env": std::env::vars().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
        "cwd": std::env::current_dir().ok(),
        "pid": std::process::id(),
        "uid": numbers("Uid"),
        "gid": numbers("Gid"),
        "groups": numbers("Groups"),
        "umask": u32::from_str_radix(text(&status, "Umask"), 8).ok(),
        "capabilities": {
            "inheritable": mask("CapInh"), "permitted": mask("CapPrm"), "effective": mask("CapEff"),
            "bounding": mask("CapBnd"), "ambient": mask("CapAmb"),
        },
        "no_new_privs": text(&status, "NoNewPrivs"),
        "seccomp": text(&status, "Seccomp"),
        "cpus": text(&status, "Cpus_allowed_list"),
        "blocked_signals": mask("SigBlk"),
        "ignored_signals": mask("SigIgn"),
        "last_capability": read("/proc/sys/kernel/cap_last_cap").parse::<u32>().ok(),
        "oom_score_adj": read("/proc/self/oom_score_adj").parse::<i32>().ok(),
        "personality": u32::from_str_radix(&read("/proc/self/personality"), 16).ok(),
        "label": read("/proc/self/attr/current").trim_end_matches('\0'),
        "cgroup": read("/proc/self/cgroup").lines().collect::<Vec<_>>(),
        "uid_map": map("/proc/self/uid_map"),
        "gid_map": map("/proc/self/gid_map"),
        "timens_offsets": map("/proc/self/timens_offsets"),
        "memory_policy": memory_policy(),
        "keyring": read("/proc/keys").lines().filter(|line| line.contains("_ses")).count(),
        "namespaces": namespaces(),
        "scheduler": scheduler(),
        "rlimits": rlimits(),
        "mounts": mounts(),
        "dev": nodes("/dev"),
        "fds": fds(),
        "interfaces": names("/sys/class/net"),
        "processes": names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok()).count(),
        "hostname": rustix::system::uname().nodename().to_string_lossy(),
        "domainname": rustix::system::uname().domainname().to_string_lossy(),
        "machine": rustix::system::uname().machine().to_string_lossy(),
        "terminal": rustix::termios::isatty(stdin()),
        "terminal_size": rustix::termios::tcgetwinsize(stdin()).ok().map(|size| (size.ws_row, size.ws_col)),
        "terminal_name": rustix::termios::ttyname(stdin(), Vec::new()).ok().map(|name| name.to_string_lossy().into_owned()),
        "session": rustix::process::getsid(None).ok().map(|sid| sid.as_raw_nonzero().get()),
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

fn status() -> Vec<(String, String)> {
    let split = |line: &str| {
        let (key, value) = line.split_once(':')?;
        Some((key.to_owned(), value.trim().to_owned()))
    };
    read("/proc/self/status").lines().filter_map(split).collect()
}

fn text<'a>(status: &'a [(String, String)], key: &str) -> &'a str {
    status.iter().find(|(known, _)| known == key).map_or("", |(_, value)| value)
}

fn words<'a>(status: &'a [(String, String)], key: &str) -> Vec<&'a str> {
    text(status, key).split_whitespace().collect()
}

/// Lines of a map, each with single spaces.
fn map(path: &str) -> Vec<String> {
    read(path).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Of the stack, which nobody but set_mempolicy(2) has a say about.
fn memory_policy() -> Option<String> {
    let maps = read("/proc/self/numa_maps");
    let stack = maps.lines().find(|line| line.contains("stack"))?;
    stack.split_whitespace().nth(1).map(str::to_owned)
}

pub(crate) fn namespaces() -> Value {
    let mut found = Map::new();
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let link = fs::read_link(format!("/proc/self/ns/{name}")).ok();
        found.insert(name.to_owned(), json!(link));
    }
    found.into()
}

/// Fields of proc_pid_stat(5), counted from the last parenthesis: 19 is nice, 40 and 41 real-time priority and policy.
fn scheduler() -> Value {
    let stat = read("/proc/self/stat");
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    // Some are above 63 bits.
    let fields: Vec<i128> = rest.split(' ').skip(1).filter_map(|field| field.parse().ok()).collect();
    let field = |number: usize| fields.get(number - 4).and_then(|&field| i64::try_from(field).ok());
    json!({"nice": field(19), "priority": field(40), "policy": field(41)})
}

fn rlimits() -> Value {
    const ALL: [(&str, Resource); 16] = [
        ("RLIMIT_CPU", Resource::Cpu),
        ("RLIMIT_FSIZE", Resource::Fsize),
        ("RLIMIT_DATA", Resource::Data),
        ("RLIMIT_STACK", Resource::Stack),
        ("RLIMIT_CORE", Resource::Core),
        ("RLIMIT_RSS", Resource::Rss),
        ("RLIMIT_NPROC", Resource::Nproc),
        ("RLIMIT_NOFILE", Resource::Nofile),
        ("RLIMIT_MEMLOCK", Resource::Memlock),
        ("RLIMIT_AS", Resource::As),
        ("RLIMIT_LOCKS", Resource::Locks),
        ("RLIMIT_SIGPENDING", Resource::Sigpending),
        ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
        ("RLIMIT_NICE", Resource::Nice),
        ("RLIMIT_RTPRIO", Resource::Rtprio),
        ("RLIMIT_RTTIME", Resource::Rttime),
    ];
    let limit = |(name, resource): (&str, Resource)| {
        let limit = getrlimit(resource);
        let number = |value: Option<u64>| value.unwrap_or(u64::MAX);
        (name.to_owned(), json!([number(limit.current), number(limit.maximum)]))
    };
    ALL.into_iter().map(limit).collect::<Map<_, _>>().into()
}

/// Lines of proc_pid_mountinfo(5).
fn mounts() -> Vec<Value> {
    read("/proc/self/mountinfo").lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Value> {
    let (before, after) = line.split_once(" - ")?;
    let fields: Vec<&str> = before.split(' ').collect();
    let mut rest = after.splitn(3, ' ');
    Some(json!({
        "root": fields.get(3)?,
        "target": fields.get(4)?.replace("\\040", " "),
        "options": fields.get(5)?.split(',').collect::<Vec<_>>(),
        "propagation": fields.get(6..)?,
        "type": rest.next()?,
        "source": rest.next()?,
        "data": rest.next().unwrap_or("").split(',').collect::<Vec<_>>(),
    }))
}

/// What is in a directory, one level deep.
fn nodes(dir: &str) -> Value {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let node =
        |entry: fs::DirEntry| (entry.file_name().to_string_lossy().into_owned(), describe(&entry.path()));
    entries.map(node).collect::<Map<_, _>>().into()
}

pub(crate) fn describe(path: &Path) -> Value {
    let Ok(meta) = fs::symlink_metadata(path) else { return Value::Null };
    let kind = meta.file_type();
    let word = if kind.is_char_device() {
        "c"
    } else if kind.is_block_device() {
        "b"
    } else if kind.is_fifo() {
        "p"
    } else if kind.is_symlink() {
        "l"
    } else if kind.is_dir() {
        "d"
    } else {
        "f"
    };
    json!({
        "kind": word,
        "major": rustix::fs::major(meta.rdev()),
        "minor": rustix::fs::minor(meta.rdev()),
        "mode": meta.mode() & 0o7777,
        "uid": meta.uid(),
        "gid": meta.gid(),
        "link": fs::read_link(path).ok(),
    })
}

/// Our descriptors and what they are; not the one that the directory is read by.
fn fds() -> Value {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let mut found = Map::new();
    for entry in entries {
        let link = fs::read_link(entry.path()).map(|path| path.to_string_lossy().into_owned());
        let link = link.unwrap_or_default();
        if !link.ends_with("/fd") {
            found.insert(entry.file_name().to_string_lossy().into_owned(), json!(link));
        }
    }
    found.into()
}

fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
