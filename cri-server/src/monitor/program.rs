//! The monitor's program as the daemon runs it: a sealed copy in memory.
//!
//! A process in a container that shares the host's PIDs can open `/proc/<monitor>/exe`. When that is the
//! file on disk it may be written to once the monitor is gone (CVE-2019-5736); a sealed memfd never.
//! The pages are shared by all monitors, so the copy is paid once for the node, not once a pod.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags};

/// What to execute.
#[derive(Debug)]
pub(super) enum Program {
    Sealed(OwnedFd),
    /// Where the kernel forbids executable memfds (`vm.memfd_noexec=2`).
    File(PathBuf),
}

impl Program {
    pub(super) fn load(path: &Path) -> io::Result<Self> {
        match seal(path) {
            Ok(copy) => Ok(Self::Sealed(copy)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Self::File(path.into())),
            Err(error) => Err(error),
        }
    }

    /// Tells the monitor that it need not seal itself, which would cost it another exec.
    pub(super) fn sealed_argument(&self) -> &'static [&'static str] {
        match self {
            Self::Sealed(_) => &["--sealed"],
            Self::File(_) => &[],
        }
    }

    /// A path that names the program in a child of this process, up to its exec.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Sealed(copy) => format!("/proc/self/fd/{}", copy.as_raw_fd()).into(),
            Self::File(path) => path.clone(),
        }
    }
}

fn seal(path: &Path) -> io::Result<OwnedFd> {
    let mut source = File::open(path)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is Linux 6.3; older kernels refuse the flag and give an executable one without it.
    let copy = rustix::fs::memfd_create("berth-conmon", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("berth-conmon", flags))?;
    let mut target = File::from(copy);
    io::copy(&mut source, &mut target)?;
    rustix::fs::fchmod(&target, rustix::fs::Mode::from_raw_mode(0o555))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&target, seals)?;
    Ok(target.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_copy_runs_and_cannot_be_written() {
        let program = Program::load(Path::new("/bin/true")).unwrap();
        assert!(matches!(program, Program::Sealed(_)));
        assert!(std::process::Command::new(program.path()).status().unwrap().success());
        let mut opened = std::fs::OpenOptions::new().write(true).open(program.path()).unwrap();
        assert_eq!(opened.write(b"x").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
