//! The cgroup's path, its scope and its owner.

use kernel::clone_flags as flag;

use super::{Mount, Namespaces, Source};
use crate::Error;
use crate::cgroup::{Driver, ScopePlan};
use crate::spec::{Linux, Spec};

/// config-linux.md, "Cgroup ownership": the host's number of the process's user, unless that is root. What a joined user
/// namespace maps to is not ours to say.
pub(super) fn cgroup_owner(
    linux: &Linux,
    uid: u32,
    namespaces: &Namespaces,
    mounts: &[Mount],
) -> Option<u32> {
    let writable = |mount: &Mount| {
        matches!(mount.source, Source::Cgroup)
            && mount.destination.as_bytes() == b"sys/fs/cgroup"
            && mount.attr.set & kernel::mount_attr::RDONLY == 0
    };
    if namespaces.late & flag::NEWCGROUP == 0 || !mounts.iter().any(writable) {
        return None;
    }
    let owner = match namespaces.has(flag::NEWUSER) {
        false => Some(uid),
        true => linux.uid_mappings.iter().find_map(|map| {
            let at = uid.checked_sub(map.container_id).filter(|at| *at < map.size)?;
            (namespaces.new & flag::NEWUSER != 0).then(|| map.host_id + at)
        }),
    };
    owner.filter(|owner| *owner != 0)
}

pub(super) fn scope(
    driver: Driver,
    id: &str,
    spec: &Spec,
    linux: &Linux,
) -> Result<Option<ScopePlan>, Error> {
    match driver {
        Driver::Cgroupfs => Ok(None),
        Driver::Systemd => ScopePlan::of(linux.cgroups_path.as_deref(), id, &spec.annotations)
            .map(Some)
            .map_err(|source| Error::Cgroup { id: id.to_owned(), source }),
    }
}

/// `cgroupsPath`, or `/ID`. Each part must be a plain name: it becomes a directory on the host.
pub(crate) fn cgroup_path(id: &str, linux: &Linux) -> Result<String, Error> {
    let field = "linux.cgroupsPath";
    let path = match linux.cgroups_path.as_deref() {
        None | Some("") => return Ok(format!("/{id}")),
        Some(path) => path,
    };
    if path.contains(':') && !path.contains('/') {
        let reason = format!("{path:?} is a path for the systemd cgroup driver, and this is cgroupfs");
        return Err(Error::invalid(field, reason));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() || parts.iter().any(|part| matches!(*part, "." | "..")) || path.contains(['\0', '\n'])
    {
        return Err(Error::invalid(field, format!("{path:?} is no path of a cgroup")));
    }
    let path = format!("/{}", parts.join("/"));
    crate::cgroup::check_path(&path).map_err(|error| Error::Cgroup { id: id.to_owned(), source: error })?;
    Ok(path)
}
