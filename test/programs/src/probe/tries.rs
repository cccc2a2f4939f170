//! One thing tried, and what came of it: `ok`, `ok: VALUE`, or the name of the error.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::Pid;
use rustix::net::{AddressFamily, SocketType, socket};

/// `VERB:ARGUMENT:ARGUMENT`. The last argument may hold colons.
pub(crate) fn attempt(what: &str) -> String {
    let (verb, rest) = what.split_once(':').unwrap_or((what, ""));
    match perform(verb, rest) {
        Ok(value) if value.is_empty() => "ok".into(),
        Ok(value) => format!("ok: {value}"),
        Err(error) => name(&error),
    }
}

fn name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => error.to_string(),
    }
}

fn perform(verb: &str, rest: &str) -> io::Result<String> {
    let (first, second) = rest.split_once(':').unwrap_or((rest, ""));
    let nothing = |()| String::new();
    match verb {
        "read" => read(rest),
        "open-read" => fs::File::open(rest).map(drop).map(nothing),
        "open-write" => fs::File::options().write(true).open(rest).map(drop).map(nothing),
        "write" => write(first, second).map(nothing),
        "create" => fs::File::create_new(rest).map(drop).map(nothing),
        "mkdir" => fs::create_dir(rest).map(nothing),
        "chmod" => fs::set_permissions(second, fs::Permissions::from_mode(number(first)?)).map(nothing),
        "chown" => std::os::unix::fs::chown(second, Some(number(first)?), None).map(nothing),
        "unlink" => fs::remove_file(rest).map(nothing),
        "ls" => list(rest),
        "stat" => stat(rest),
        "run" => run(rest),
        "mknod" => make_node(rest).map(nothing),
        "mount" => mount(Some("t"), rest, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .map(nothing)
            .map_err(io::Error::from),
        "umount" => nix::mount::umount(rest).map(nothing).map_err(io::Error::from),
        "remount-rw" => remount_rw(rest).map(nothing),
        "bind" => mount(Some(first), second, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map(nothing)
            .map_err(io::Error::from),
        "socket" => open_socket(rest).map(nothing),
        "getcwd" => std::env::current_dir().map(|_| String::new()),
        "kill" => signal(first, second).map(nothing),
        "sethostname" => rustix::system::sethostname(rest.as_bytes()).map(nothing).map_err(io::Error::from),
        "memory" => touch(number::<usize>(rest)?),
        "threads" => threads(number::<usize>(rest)?),
        "unshare-user" => {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map(nothing).map_err(io::Error::from)
        }
        "sleep" => {
            std::thread::sleep(std::time::Duration::from_millis(number(rest)?));
            Ok(String::new())
        }
        _ => Err(io::Error::other(format!("there is no try {verb:?}"))),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is no number")))
}

fn read(path: &str) -> io::Result<String> {
    let mut bytes = [0; 256];
    let count = fs::File::open(path)?.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).trim_end().to_owned())
}

fn write(path: &str, text: &str) -> io::Result<()> {
    fs::File::options().write(true).open(path)?.write_all(text.as_bytes())
}

fn list(path: &str) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.join(" "))
}

/// As JSON, without following a link.
fn stat(path: &str) -> io::Result<String> {
    fs::symlink_metadata(path)?;
    Ok(crate::report::describe(Path::new(path)).to_string())
}

/// Another program, with spaces between its arguments; its output and exit code.
fn run(line: &str) -> io::Result<String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap_or_default()).args(words).output()?;
    let code = output.status.code().map_or_else(|| output.status.to_string(), |code| code.to_string());
    Ok(format!("{code} {}", String::from_utf8_lossy(&output.stdout).trim_end()))
}

/// `KIND:MAJOR:MINOR:PATH`.
fn make_node(rest: &str) -> io::Result<()> {
    let parts: Vec<&str> = rest.splitn(4, ':').collect();
    let [kind, major, minor, path] = parts.as_slice() else { return Err(io::Error::other("mknod: 4 parts")) };
    let kind = if *kind == "b" { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    let device = rustix::fs::makedev(number(major)?, number(minor)?);
    mknod(*path, kind, Mode::from_bits_truncate(0o600), device).map_err(io::Error::from)
}

fn remount_rw(path: &str) -> io::Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>).map_err(io::Error::from)
}

/// A datagram socket of an address family, by number: one number that a seccomp rule can compare.
fn open_socket(family: &str) -> io::Result<()> {
    let family = AddressFamily::from_raw(number(family)?);
    socket(family, SocketType::DGRAM, None).map(drop).map_err(io::Error::from)
}

fn signal(pid: &str, signal: &str) -> io::Result<()> {
    let signal = match signal {
        "0" => None,
        number => Some(Signal::try_from(self::number::<i32>(number)?).map_err(io::Error::from)?),
    };
    kill(Pid::from_raw(number(pid)?), signal).map_err(io::Error::from)
}

/// Memory in MiB that is really there.
fn touch(mib: usize) -> io::Result<String> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(mib << 20).map_err(|_| io::Error::from(Errno::ENOMEM))?;
    memory.resize(mib << 20, 1_u8);
    Ok(std::hint::black_box(&memory).len().to_string())
}

/// How many threads could be had.
fn threads(wanted: usize) -> io::Result<String> {
    let (tell, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Arc::new(std::sync::Mutex::new(hold));
    let mut running = Vec::new();
    for _ in 0..wanted {
        let hold = hold.clone();
        let wait = move || hold.lock().map(|held| held.recv().is_ok()).unwrap_or(false);
        match std::thread::Builder::new().stack_size(64 << 10).spawn(wait) {
            Ok(thread) => running.push(thread),
            Err(_) => break,
        }
    }
    let count = running.len();
    drop(tell);
    running.into_iter().for_each(|thread| drop(thread.join()));
    Ok(count.to_string())
}
