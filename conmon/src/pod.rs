//! A pod's own surroundings: its namespaces, pinned as files, and its /dev/shm.
//!
//! Without a user namespace the monitor steps into new namespaces, furnishes and pins them, and steps back:
//! no process, no fork. A user namespace can't be left again, so there a child does it ([`nest`]).
//! A process stays only where the pod shares its PID namespace ([`init`]).

pub(crate) mod furnish;
pub(crate) mod init;
pub(crate) mod nest;
mod pin;
pub(crate) mod sysctl;

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use conmon_protocol::{PidSharing, PodPlan, Sharing};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use crate::error::{Error, Leftovers, Named as _};
use crate::reap::{self, Birth};
use crate::record::PodRecord;
use crate::stdio;

const SHM_BYTES: u64 = 64 << 20;

/// The namespaces a pod owns, other than its user namespace.
pub(crate) fn owned(plan: &PodPlan) -> CloneFlags {
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, plan.network == Sharing::Own);
    flags.set(CloneFlags::CLONE_NEWIPC, plan.ipc == Sharing::Own);
    flags.set(CloneFlags::CLONE_NEWUTS, plan.uts == Sharing::Own);
    flags
}

/// Makes all of it. On failure nothing stays, and what could not be undone is in the error.
pub(crate) fn make(plan: &PodPlan) -> Result<PodRecord, Error> {
    sysctl::check(plan)?;
    match make_all(plan) {
        Ok(record) => Ok(record),
        Err(error) => match unmake(&plan.pod_dir, None) {
            Ok(()) => Err(error),
            Err(left) => Err(Error::Left(vec![error, left])),
        },
    }
}

fn make_all(plan: &PodPlan) -> Result<PodRecord, Error> {
    let pins = plan.pod_dir.join("ns");
    make_dir(&pins)?;
    let init = match plan.user {
        None => make_here(plan, &pins)?,
        Some(_) => nest::make(plan, &pins)?,
    };
    if plan.ipc == Sharing::Own {
        make_shm(plan)?;
    }
    let record = PodRecord { plan: plan.clone(), init };
    record.write()?;
    Ok(record)
}

fn make_here(plan: &PodPlan, pins: &Path) -> Result<Option<Birth>, Error> {
    let flags = owned(plan);
    let init = away_from_home(flags, || {
        furnish::furnish(plan)?;
        pin::pin_all(Path::new("/proc/self/ns"), pins, flags)?;
        match plan.pid {
            PidSharing::Container | PidSharing::Host => Ok(None),
            // In all of the pod's namespaces: whoever sees a process may read its /proc/PID/net, which would be the node's.
            PidSharing::Pod => away_from_home(CloneFlags::CLONE_NEWPID, || init::spawn(plan)).map(Some),
        }
    })?;
    if let Some(init) = &init {
        pin::pin(&PathBuf::from(format!("/proc/{}/ns/pid", init.pid)), &pins.join("pid"))?;
    }
    Ok(init)
}

/// Does something in new namespaces and comes back. A monitor that can't come back would make all that follows
/// in the wrong place, so it ends itself.
fn away_from_home<T>(flags: CloneFlags, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    if flags.is_empty() {
        return work();
    }
    let home = home(flags)?;
    unshare(flags).named("making new namespaces of", "the pod")?;
    let result = work();
    for (fd, flag) in home {
        if setns(fd, flag).is_err() {
            std::process::abort();
        }
    }
    result
}

fn home(flags: CloneFlags) -> Result<Vec<(OwnedFd, CloneFlags)>, Error> {
    let links = [
        ("/proc/self/ns/net", CloneFlags::CLONE_NEWNET),
        ("/proc/self/ns/ipc", CloneFlags::CLONE_NEWIPC),
        ("/proc/self/ns/uts", CloneFlags::CLONE_NEWUTS),
        ("/proc/self/ns/pid", CloneFlags::CLONE_NEWPID),
    ];
    let owned = links.into_iter().filter(|(_, flag)| flags.contains(*flag));
    owned
        .map(|(link, flag)| {
            let fd = rustix::fs::open(link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            Ok((fd.named("opening", link)?, flag))
        })
        .collect()
}

fn make_shm(plan: &PodPlan) -> Result<(), Error> {
    let dir = plan.pod_dir.join("shm");
    make_dir(&dir)?;
    let size = plan.shm_size_bytes.unwrap_or(SHM_BYTES).to_string();
    let (uid, gid) = root_of(plan);
    let mount = || -> Result<(), Errno> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", "shm")?;
        fsconfig_set_string(&context, "size", size.as_str())?;
        fsconfig_set_string(&context, "mode", "1777")?;
        fsconfig_set_string(&context, "uid", uid.to_string())?;
        fsconfig_set_string(&context, "gid", gid.to_string())?;
        if let Some(label) = &plan.file_label {
            fsconfig_set_string(&context, "context", label.as_str())?;
        }
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let tmpfs = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        move_mount(&tmpfs, "", CWD, &dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    };
    mount().named("mounting the shared memory at", &dir)
}

/// The pod's root, as the host counts.
fn root_of(plan: &PodPlan) -> (u32, u32) {
    let root = |maps: &[conmon_protocol::IdMap]| {
        maps.iter().find(|map| map.container_id == 0).map_or(0, |map| map.host_id)
    };
    plan.user.as_ref().map_or((0, 0), |maps| (root(&maps.uids), root(&maps.gids)))
}

fn make_dir(path: &Path) -> Result<(), Error> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).named("making", path),
    }
}

/// Takes all of it away, from any point, and past failures. Safe twice.
pub(crate) fn unmake(pod_dir: &Path, init: Option<Birth>) -> Result<(), Error> {
    let mut left = Leftovers::default();
    if let Some(pidfd) = init.and_then(Birth::open) {
        left.note(reap::kill_and_wait(pidfd.as_fd()).named("killing the first process of", pod_dir));
    }
    let pins = pod_dir.join("ns");
    for name in pin::NAMES {
        left.note(pin::unpin(&pins.join(name)));
    }
    left.note(remove_dir(&pins));
    let shm = pod_dir.join("shm");
    left.note(unmount_all(&shm));
    left.note(remove_dir(&shm));
    left.note(stdio::remove(&PodRecord::path(pod_dir)));
    left.result()
}

/// Takes away what a monitor left that was killed while it made the pod. What is written down last is the record, so
/// where there is none, nobody was told that the pod is made.
pub(crate) fn unmake_unfinished(pod_dir: &Path) -> Result<(), Error> {
    if !pod_dir.join("ns").exists() {
        return Ok(());
    }
    unmake(pod_dir, init::find(pod_dir))
}

/// Unmounts all that is stacked on a path; nothing there is fine.
pub(crate) fn unmount_all(path: &Path) -> Result<(), Error> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(errno).named("unmounting", path),
        }
    }
}

pub(crate) fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).named("removing", path),
        Ok(()) | Err(_) => Ok(()),
    }
}
