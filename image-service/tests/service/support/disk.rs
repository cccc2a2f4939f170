//! File systems in files, mounted through loop devices.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Unmounted when the test is done, well or badly.
pub(crate) struct Disk {
    pub(crate) root: PathBuf,
}

impl Disk {
    pub(crate) fn make(kind: &str, bytes: u64, file: &Path, root: &Path) -> Disk {
        File::create(file).unwrap().set_len(bytes).unwrap();
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(file));
        Disk::mount(file, root)
    }

    pub(crate) fn mount(file: &Path, root: &Path) -> Disk {
        std::fs::create_dir_all(root).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(file).arg(root));
        Disk { root: root.to_owned() }
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
