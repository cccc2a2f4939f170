//! What of the container's mounts is the node's: bind mounts and, on v1, its directories of the hierarchies. criu is
//! told each by the place where it is, at a dump, and by what is to be there, at a restore.

use std::fs;
use std::path::{Path, PathBuf};

use super::message::Message;
use crate::Error;
use crate::cgroup::Cgroup;
use crate::freeze::in_cgroup;
use crate::spec::{Mount, Spec};
use crate::state::Record;

/// `external` of criu_opts.
const EXTERNAL: u64 = 37;

/// A mount from outside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct External {
    /// Seen from inside.
    pub(super) place: PathBuf,
    pub(super) source: PathBuf,
}

/// The places, which are also the names for the restore.
pub(super) fn add_for_dump(options: &mut Message, record: &Record, pid: i32) -> Result<(), Error> {
    let path = record.bundle.join("config.json");
    let bytes = fs::read(&path).map_err(|e| Error::step("reading", path.display().to_string(), e))?;
    let spec: Spec = serde_json::from_slice(&bytes).map_err(|source| Error::Config { path, source })?;
    let cgroup = record.cgroup().map_err(|e| in_cgroup(&record.id, e))?;
    let mounted = mounted_at(pid);
    for external in externals(&spec, &record.bundle, &cgroup) {
        // A hierarchy that the node got later is not there.
        if mounted.contains(&external.place) {
            let place = external.place.display();
            options.text(EXTERNAL, &format!("mnt[{place}]:{place}"));
        }
    }
    Ok(())
}

pub(super) fn add_for_restore(options: &mut Message, externals: &[External]) {
    for external in externals {
        let (place, source) = (external.place.display(), external.source.display());
        options.text(EXTERNAL, &format!("mnt[{place}]:{source}"));
    }
}

pub(super) fn externals(spec: &Spec, bundle: &Path, cgroup: &Cgroup) -> Vec<External> {
    let mut externals = Vec::new();
    for mount in &spec.mounts {
        if is_bind(mount) {
            let source = mount.source.clone().unwrap_or_default();
            externals.push(External { place: mount.destination.clone(), source: bundle.join(source) });
        } else if matches!(mount.kind.as_deref(), Some("cgroup" | "cgroup2")) {
            externals.extend(hierarchies(&mount.destination, cgroup));
        }
    }
    externals
}

/// On v2 alone it is a mount like any other, of the container's own cgroup namespace.
fn hierarchies(place: &Path, cgroup: &Cgroup) -> Vec<External> {
    let places = cgroup.places();
    if places.iter().all(|place| place.unified) {
        return Vec::new();
    }
    let external = |one: crate::cgroup::Place| {
        let name = one.root.file_name()?;
        Some(External { place: place.join(name), source: one.dir })
    };
    places.into_iter().filter_map(external).collect()
}

fn is_bind(mount: &Mount) -> bool {
    mount.kind.as_deref() == Some("bind")
        || mount.options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind"))
}

/// The numbers of all mounts that a process sees.
pub(super) fn ids(pid: i32) -> Vec<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
}

fn mounted_at(pid: i32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}
