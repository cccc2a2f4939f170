//! A fresh ext4 in a file, mounted through a loop device, gone when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Sparse, so this costs what is written only; room for 100,000 files and their blobs many times over.
const BYTES: u64 = 8 << 30;
/// Block devices count in these, whatever their own sectors are (Documentation/block/stat.rst).
const SECTOR: u64 = 512;

#[derive(Debug)]
pub(super) struct Disk {
    dir: tempfile::TempDir,
    device: String,
}

/// What went to the device until now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counters {
    pub(super) written_bytes: u64,
    /// Requests that everything before be on the disk: what fsyncs and journal commits come down to.
    pub(super) flushes: u64,
}

impl Disk {
    pub(super) fn make(backing: &Path) -> Result<Disk> {
        let dir = tempfile::Builder::new().prefix("bench-disk-").tempdir_in(backing)?;
        let file = dir.path().join("ext4");
        std::fs::File::create(&file)?.set_len(BYTES)?;
        // What mkfs leaves for later would be written while we measure.
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"], &file)?;
        let root = dir.path().join("root");
        std::fs::create_dir(&root)?;
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&file).output()?;
        ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        let device = String::from_utf8(output.stdout)?.trim().to_owned();
        let disk = Disk { dir, device };
        run("mount", &["-o", "noinit_itable,noatime", &disk.device], &root)?;
        Ok(disk)
    }

    pub(super) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(super) fn counters(&self) -> Result<Counters> {
        let name = self.device.rsplit('/').next().context("a loop device has a name")?;
        let text = std::fs::read_to_string(format!("/sys/block/{name}/stat"))?;
        let fields: Vec<u64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let field =
            |at: usize| fields.get(at).copied().context("the kernel counts too little (5.5 or newer)");
        Ok(Counters { written_bytes: field(6)? * SECTOR, flushes: field(15)? })
    }

    /// Waits until everything is on the disk; how long that took.
    pub(super) fn sync(&self) -> Result<Duration> {
        let start = Instant::now();
        rustix::fs::syncfs(std::fs::File::open(self.root())?)?;
        Ok(start.elapsed())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.root().join("containers/overlay"), rustix::mount::UnmountFlags::DETACH)
            .ok();
        rustix::mount::unmount(self.root(), rustix::mount::UnmountFlags::DETACH).ok();
        Command::new("losetup").arg("--detach").arg(&self.device).status().ok();
    }
}

fn run(program: &str, args: &[&str], last: &Path) -> Result<()> {
    let output =
        Command::new(program).args(args).arg(last).output().with_context(|| format!("running {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
