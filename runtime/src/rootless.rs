//! Containers of ordinary users: who may mount nothing makes containers from inside a user namespace of their own,
//! where they may. The container's namespace then is one below that, with the same ids.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use kernel::clone_flags as flag;
use rustix::fs::{Mode, OFlags, open, stat};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, getegid, geteuid, getpid, waitid};

use crate::Error;
use crate::make::dies_with;
use crate::report::{Line, lines};
use crate::spec::{IdMapping, NamespaceKind, Spec};

/// include/linux/proc_ns.h, PROC_USER_INIT_INO: the first user namespace is the same file everywhere.
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Whether we are in the node's own user namespace. Where that can't be told, the node is taken to have no others.
#[must_use]
pub fn in_first_user_namespace() -> bool {
    stat("/proc/self/ns/user").map_or(true, |file| file.st_ino == FIRST_USER_NAMESPACE)
}

/// Whether we may make namespaces and mounts.
pub(crate) fn may_administer() -> bool {
    kernel::capget().is_ok_and(|sets| sets.effective & CAP_SYS_ADMIN != 0)
}

/// Enters a user namespace with the container's ids, when we are an ordinary user, and changes the configuration to
/// be relative to it. To be called before `create`, in a process of one thread; nothing leads back.
///
/// # Errors
/// `Invalid` for a configuration that asks for more than an ordinary user has, or a step's.
pub fn enter_user_namespace(spec: &mut Spec) -> Result<(), Error> {
    if geteuid().is_root() || may_administer() {
        return Ok(());
    }
    let linux = spec.linux.get_or_insert_default();
    let user = linux.namespaces.iter().position(|one| one.kind == NamespaceKind::User);
    if let Some((i, path)) = user.and_then(|i| Some((i, linux.namespaces[i].path.clone()?))) {
        join(&path, &format!("linux.namespaces[{i}].path"))?;
        // It is ours from here on, and so is what it maps.
        linux.namespaces.remove(i);
        linux.uid_mappings.clear();
        linux.gid_mappings.clear();
        return Ok(());
    }
    if user.is_none() || linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty() {
        return Err(Error::invalid(
            "linux.namespaces",
            "an ordinary user's container needs a user namespace to join, or a new one with uidMappings and gidMappings \
             (spec --rootless writes them)",
        ));
    }
    enter(&linux.uid_mappings, &linux.gid_mappings)?;
    for map in linux.uid_mappings.iter_mut().chain(&mut linux.gid_mappings) {
        map.host_id = map.container_id;
    }
    Ok(())
}

/// Somebody else's the kernel gives to nobody but root.
fn join(path: &Path, field: &str) -> Result<(), Error> {
    let at =
        |step: &'static str| move |e: Errno| Error::step(step, format!("{} ({field})", path.display()), e);
    let namespace = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(at("opening"))?;
    kernel::setns(namespace.as_fd(), flag::NEWUSER).map_err(at("joining"))?;
    kernel::unshare(flag::NEWNS).map_err(|e| Error::step("making", "a mount namespace of our own", e))
}

fn enter(uids: &[IdMapping], gids: &[IdMapping]) -> Result<(), Error> {
    let flags = flag::NEWUSER | flag::NEWNS;
    let unshare =
        || kernel::unshare(flags).map_err(|e| Error::step("making", "a user namespace of our own", e));
    if is_only(uids, geteuid().as_raw()) && is_only(gids, getegid().as_raw()) {
        unshare()?;
        return write_own(uids, gids);
    }
    // More ids than one's own are given by newuidmap(1), from outside.
    let (ours, theirs) = lines().map_err(|e| Error::step("making", "a socket pair", e))?;
    let (maker, us) = (getpid(), std::process::id());
    let give = || dies_with(maker) && give_from_outside(&theirs, us, uids, gids);
    let helper =
        kernel::clone3(0, None, || i32::from(!give())).map_err(|e| Error::step("cloning", "a process", e))?;
    unshare()?;
    ours.go().map_err(|e| Error::step("releasing", "newuidmap", e))?;
    let at = |e| Error::step("waiting for", "newuidmap", e);
    let status = waitid(WaitId::PidFd(helper.pidfd.as_fd()), WaitIdOptions::EXITED).map_err(at)?;
    if status.is_some_and(|status| status.exit_status() == Some(0)) {
        return Ok(());
    }
    Err(Error::invalid(
        "linux.uidMappings",
        "newuidmap and newgidmap (Debian's package uidmap) did not give these ids; /etc/subuid and /etc/subgid say \
         which you have",
    ))
}

/// One entry with one id, ours: the kernel lets anybody write that.
fn is_only(maps: &[IdMapping], own: u32) -> bool {
    matches!(maps, [one] if one.host_id == own && one.size == 1)
}

fn write_own(uids: &[IdMapping], gids: &[IdMapping]) -> Result<(), Error> {
    // user_namespaces(7): without that, nobody but root may write a gid_map.
    let files = [("setgroups", "deny".to_owned()), ("uid_map", text(uids)), ("gid_map", text(gids))];
    for (file, text) in files {
        let path = format!("/proc/self/{file}");
        fs::write(&path, text).map_err(|e| Error::step("writing", path, e))?;
    }
    Ok(())
}

fn give_from_outside(line: &Line, pid: u32, uids: &[IdMapping], gids: &[IdMapping]) -> bool {
    let run = |program: &str, maps: &[IdMapping]| {
        let mut command = Command::new(program);
        command.arg(pid.to_string()).args(text(maps).split_whitespace());
        command.status().is_ok_and(|status| status.success())
    };
    line.wait().is_ok() && run("newuidmap", uids) && run("newgidmap", gids)
}

/// `CONTAINER HOST SIZE` lines.
fn text(maps: &[IdMapping]) -> String {
    maps.iter().map(|map| format!("{} {} {}\n", map.container_id, map.host_id, map.size)).collect()
}
