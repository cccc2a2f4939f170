//! What of the container's mounts is the node's: bind mounts and, on v1, its directories of the hierarchies. criu is
//! told each by the place where it is, at a dump, and by what is to be there, at a restore.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2, readlinkat};
use rustix::io::Errno;

use super::message::Message;
use crate::Error;
use crate::cgroup::Cgroup;
use crate::freeze::in_cgroup;
use crate::mountinfo;
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

/// Where the kernel has them, under the names by which the restore knows them: their places in the configuration, which
/// may lead through links of the image (`/var/run`).
pub(super) fn add_for_dump(
    options: &mut Message,
    spec: &Spec,
    record: &Record,
    pid: i32,
) -> Result<(), Error> {
    let cgroup = record.cgroup().map_err(|e| in_cgroup(&record.id, e))?;
    let (inside, mounted) = (Inside::of(pid)?, mounted_at(pid));
    for external in externals(spec, &record.bundle, &cgroup) {
        // A hierarchy that the node got later is not there.
        if let Some(mounted) = inside.find(&external.place)?.filter(|path| mounted.contains(path)) {
            options.text(EXTERNAL, &format!("mnt[{}]:{}", mounted.display(), external.place.display()));
        }
    }
    Ok(())
}

/// A process's root, in which paths are looked up as the process would.
struct Inside {
    root: OwnedFd,
    /// What the kernel calls it here.
    name: PathBuf,
}

impl Inside {
    fn of(pid: i32) -> Result<Inside, Error> {
        let path = format!("/proc/{pid}/root");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::empty());
        let root = opened.map_err(|e| Error::step("opening the root", &path, e))?;
        let name = name(&root).map_err(|e| Error::step("reading the name", &path, e))?;
        Ok(Inside { root, name })
    }

    /// Where a path leads, without links; `None` when nowhere.
    fn find(&self, place: &Path) -> Result<Option<PathBuf>, Error> {
        let at = |e| Error::step("finding the mount", place.display().to_string(), e);
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let relative = Path::new(".").join(place.strip_prefix("/").unwrap_or(place));
        let found =
            match openat2(&self.root, &relative, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                found => name(&found.map_err(at)?).map_err(at)?,
            };
        Ok(found.strip_prefix(&self.name).ok().map(|below| Path::new("/").join(below)))
    }
}

/// What the kernel calls it, seen from the root that it has: outside of our own mount namespace that is the other's.
fn name(fd: &OwnedFd) -> rustix::io::Result<PathBuf> {
    let link = readlinkat(CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(link.into_bytes())))
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
    let text = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let places = text.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    places.map(mountinfo::path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_place_is_known_by_what_its_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("run/se crets/token")).unwrap();
        fs::create_dir(dir.join("var")).unwrap();
        symlink("../run", dir.join("var/run")).unwrap();
        symlink(&dir, dir.join("var/absolute")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        let inside = Inside::of(std::process::id() as i32).unwrap();
        let find = |path: &str| inside.find(&dir.join(path)).unwrap();
        for way in ["run/se crets/token", "var/run/se crets/token", "var/absolute/var/run/./se crets/token"] {
            assert_eq!(find(way), Some(dir.join("run/se crets/token")), "{way}");
        }
        for nowhere in ["var/run/nothing", "loop", "loop/x"] {
            assert_eq!(find(nowhere), None, "{nowhere}");
        }
        assert_eq!(inside.find(Path::new("/")).unwrap(), Some(PathBuf::from("/")));
    }

    #[test]
    fn what_is_mounted_is_known() {
        assert!(mounted_at(std::process::id() as i32).contains(&PathBuf::from("/proc")));
    }
}
