//! A throw-away virtual machine that is a Kubernetes node as most are: Debian's kernel and systemd, cgroup v2, and
//! AppArmor or SELinux. One command runs in it, and nothing that it changes is kept but what it writes to shares.
//!
//! `image` makes the disk, `machine` drives QEMU. The disk and a snapshot of the booted guest are kept in
//! `target/vm`; a run copies the snapshot and goes on from there. Where the machine has no KVM, QEMU emulates the
//! processor, some ten times slower.

mod image;
mod machine;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::programs::{target_dir, workspace};
use crate::tools;
use machine::Machine;

/// Which security module the guest's kernel enforces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lsm {
    #[default]
    AppArmor,
    /// Enforcing, with Debian's default policy.
    SeLinux,
    None,
}

impl Lsm {
    /// By its name on the command line.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn parse(name: &str) -> Result<Lsm> {
        match name {
            "apparmor" => Ok(Lsm::AppArmor),
            "selinux" => Ok(Lsm::SeLinux),
            "none" => Ok(Lsm::None),
            other => bail!("no security module is named {other}: apparmor, selinux or none"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Lsm::AppArmor => "apparmor",
            Lsm::SeLinux => "selinux",
            Lsm::None => "none",
        }
    }

    /// For the kernel's command line.
    fn arguments(self) -> &'static str {
        match self {
            Lsm::AppArmor => "security=apparmor",
            Lsm::SeLinux => "security=selinux selinux=1 enforcing=1",
            Lsm::None => "lsm=landlock,yama",
        }
    }
}

/// A run.
#[derive(Debug, Clone)]
pub struct Options {
    pub lsm: Lsm,
    pub timeout: Duration,
    pub memory_mib: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { lsm: Lsm::AppArmor, timeout: Duration::from_secs(2700), memory_mib: 3072 }
    }
}

/// Directories of this machine that the guest has at the same path: the workspace, which it only reads, and cargo's
/// output, where results go.
const SHARES: usize = 2;

fn shares() -> [PathBuf; SHARES] {
    [workspace().to_path_buf(), target_dir()]
}

/// Runs a shell command in a fresh guest, its output shown, and answers its exit status.
///
/// # Errors
/// The guest could not be made, did not come up, or took too long.
pub fn run(options: &Options, command: &str) -> Result<i32> {
    tools::ensure_packages(tools::VM_PACKAGES)?;
    let cache = target_dir().join("vm");
    std::fs::create_dir_all(&cache)?;
    let image = image::ensure(&cache)?;
    let snapshot = snapshot(&cache, &image, options)?;
    let scratch = tempfile::Builder::new().prefix("berth-vm-").tempdir_in(&cache)?;
    let disk = scratch.path().join("disk.qcow2");
    copy(&snapshot, &disk)?;
    let mut machine = Machine::resume(&image, &disk, options, scratch.path())?;
    let status = converse(&mut machine, command, options.timeout)?;
    machine.end();
    Ok(status)
}

/// A disk that also holds the memory of the guest at the moment when it waits for its command.
fn snapshot(cache: &Path, image: &image::Image, options: &Options) -> Result<PathBuf> {
    let name = format!("booted-{}-{}-{}.qcow2", image.key, options.lsm.name(), options.memory_mib);
    let snapshot = cache.join(name);
    if snapshot.exists() {
        return Ok(snapshot);
    }
    println!("booting the guest once, to start from there ({})", options.lsm.name());
    let scratch = tempfile::Builder::new().prefix("berth-vm-").tempdir_in(cache)?;
    let disk = scratch.path().join("disk.qcow2");
    let machine = Machine::boot(image, &disk, options, scratch.path())?;
    machine.save()?;
    std::fs::rename(&disk, &snapshot)?;
    Ok(snapshot)
}

/// The holes stay holes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = std::process::Command::new("cp")
        .args(["--reflink=auto", "--sparse=always"])
        .args([from, to])
        .status()
        .context("running cp")?;
    anyhow::ensure!(status.success(), "copying {} failed", from.display());
    Ok(())
}

/// What the guest's agent puts before the status, after all output. No output has a NUL.
const END: u8 = 0;

fn converse(machine: &mut Machine, command: &str, timeout: Duration) -> Result<i32> {
    let deadline = Instant::now() + timeout;
    machine.port.write_all(format!("{}\n", script(command)).as_bytes())?;
    let mut tail: Option<Vec<u8>> = None;
    let mut buffer = [0; 8192];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("the command took more than {} s\n{}", timeout.as_secs(), machine.console());
        }
        machine.port.set_read_timeout(Some(left.min(Duration::from_secs(1))))?;
        let bytes = match machine.port.read(&mut buffer) {
            Ok(0) => bail!("the guest ended without a word\n{}", machine.console()),
            Ok(length) => &buffer[..length],
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(error) => return Err(error).context("hearing the guest"),
        };
        let output = match &mut tail {
            Some(tail) => {
                tail.extend(bytes);
                &[][..]
            }
            None => match bytes.iter().position(|byte| *byte == END) {
                Some(at) => {
                    tail = Some(bytes[at + 1..].to_vec());
                    &bytes[..at]
                }
                None => bytes,
            },
        };
        std::io::stdout().write_all(output)?;
        std::io::stdout().flush()?;
        if let Some(status) = tail.as_deref().and_then(|tail| tail.strip_suffix(b"\n")) {
            return std::str::from_utf8(status)?.parse().context("the guest's last word");
        }
    }
}

/// The agent takes one line: the command in base64, after what makes this moment's guest out of the saved one.
fn script(command: &str) -> String {
    use base64::Engine as _;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Its driver is nothing that mount(8) would load, and udev may not have come so far.
    let mut script = format!("date -s @{} >/dev/null\nmodprobe -a 9pnet_virtio 9p\n", now.as_secs());
    // Debian's policy lets nobody mount what it has no label for.
    script += "enforce=$(cat /sys/fs/selinux/enforce 2>/dev/null) && echo 0 > /sys/fs/selinux/enforce\n";
    for (number, path) in shares().iter().enumerate() {
        let path = path.display();
        script += &format!(
            "mkdir -p '{path}' && mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=mmap \
             share{number} '{path}' || {{ dmesg | tail -n 5; exit 125; }}\n"
        );
    }
    script += "[ -z \"$enforce\" ] || echo \"$enforce\" > /sys/fs/selinux/enforce\n";
    script += &format!(
        "export CARGO_TARGET_DIR='{}' TMPDIR=/var/tmp\ncd '{}'\n{command}\n",
        target_dir().display(),
        workspace().display()
    );
    base64::engine::general_purpose::STANDARD.encode(script)
}
