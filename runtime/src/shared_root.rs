//! The root of a container that has no mount namespace of its own: attached where others see it, so it has to be
//! taken away when the container goes. Known by its mount's own number, never by its path alone.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kernel::clone_flags as flag;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::plan::{Plan, Within};

/// STATX_MNT_ID_UNIQUE: never given again while the machine is up (Linux 6.8).
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SharedRoot {
    path: PathBuf,
    mount_id: u64,
    /// The mount namespace that was joined; none: the runtime's.
    namespace: Option<PathBuf>,
}

impl SharedRoot {
    /// Of a root that is about to be attached; none where the container has a mount namespace of its own.
    pub(crate) fn of(plan: &Plan, root: BorrowedFd<'_>) -> Result<Option<SharedRoot>, Error> {
        let (Within::Shared, Some(path)) = (plan.root.within, &plan.root.path) else { return Ok(None) };
        let at = |e: Errno| Error::step("looking at", path.display().to_string(), e);
        let mount_id = statx(root, c"", AtFlags::EMPTY_PATH, UNIQUE).map_err(at)?.stx_mnt_id;
        let joined = plan.namespaces.joined.iter().find(|joined| joined.flag == flag::NEWNS);
        Ok(Some(SharedRoot {
            path: path.clone(),
            mount_id,
            namespace: joined.map(|joined| joined.path.clone()),
        }))
    }

    /// Takes it away, with everything on it. A namespace that is gone has taken it along.
    pub(crate) fn detach(&self) -> Result<(), Error> {
        let at = |e: Errno| Error::step("taking away the root", self.path.display().to_string(), e);
        match &self.namespace {
            None => detach(&self.path, self.mount_id).map_err(at),
            Some(namespace) => match open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                Err(Errno::NOENT | Errno::SRCH) => Ok(()),
                other => other.and_then(|namespace| self.detach_in(&namespace)).map_err(at),
            },
        }
    }

    /// By a child, which enters the namespace and ends there.
    fn detach_in(&self, namespace: &OwnedFd) -> rustix::io::Result<()> {
        let child = kernel::clone3(0, None, || {
            let done = kernel::setns(namespace.as_fd(), flag::NEWNS)
                .and_then(|()| detach(&self.path, self.mount_id));
            done.map_or_else(Errno::raw_os_error, |()| 0)
        })?;
        let status = loop {
            match waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        match status.and_then(|status| status.exit_status()) {
            Some(0) => Ok(()),
            Some(errno) => Err(Errno::from_raw_os_error(errno)),
            None => Err(Errno::CHILD),
        }
    }
}

/// Something else there is somebody else's.
fn detach(path: &Path, mount_id: u64) -> rustix::io::Result<()> {
    match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, UNIQUE) {
        Ok(there) if there.stx_mnt_id == mount_id => {
            unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        }
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
