//! File systems in files, mounted through loop devices.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Unmounted when the test is done, well or badly.
pub(crate) struct Disk {
    pub(crate) root: PathBuf,
}

impl Disk {
    pub(crate) fn make(kind: &str, bytes: u64, file: &Path, root: &Path) -> Disk {
        File::create(file).unwrap().set_len(bytes).unwrap();
        Disk::format(kind, file);
        Disk::mount(file, root)
    }

    /// Makes a file system in a file that is there.
    pub(crate) fn format(kind: &str, file: &Path) {
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(file));
    }

    pub(crate) fn mount(file: &Path, root: &Path) -> Disk {
        Disk::mount_with("loop", file, root)
    }

    pub(crate) fn mount_with(options: &str, file: &Path, root: &Path) -> Disk {
        std::fs::create_dir_all(root).unwrap();
        run(Command::new("mount").args(["-o", options]).arg(file).arg(root));
        Disk { root: root.to_owned() }
    }

    /// Waits for whoever has it open still.
    pub(crate) fn unmount(self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !Command::new("umount").arg(&self.root).output().unwrap().status.success() {
            assert!(Instant::now() < deadline, "{} is not let go of", self.root.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        std::mem::forget(self);
    }

    pub(crate) fn memory(options: &str, root: &Path) -> Disk {
        std::fs::create_dir_all(root).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "berth-test"]).arg(root));
        Disk { root: root.to_owned() }
    }

    pub(crate) fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.root));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.root).status().ok();
    }
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
