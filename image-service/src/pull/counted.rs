//! Where the work of unpacking is counted: in a cgroup of the operator's, in the pod's, or with the daemon.
//!
//! Each layer's process has a leaf of its own below that cgroup, made for it and removed after it: in version 2 a
//! cgroup with children has no processes itself. What was counted there stays counted above.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::gc::random_name;

const CGROUPS: &str = "/sys/fs/cgroup";
/// The hierarchies of version 1 that count what a pull costs; a hybrid host's version 2 is beside them.
const COUNTING: [&str; 5] = ["cpu", "cpuacct", "memory", "blkio", "unified"];
/// What version 2 is asked to count below the operator's cgroup.
const CONTROLLERS: [&str; 3] = ["+cpu", "+memory", "+io"];
const LEAF: &str = "berth-pull-";
/// A process that has just been waited for may be in its cgroup for a moment.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(2);

/// Which cgroup layers are unpacked in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PullCgroup {
    /// The daemon's own, in its own threads.
    #[default]
    Daemon,
    /// This one, made where it is missing.
    Path(String),
    /// That of the pod that the image is for; the daemon's where nobody says for which.
    Pod,
}

impl PullCgroup {
    /// Removes the leaves of a daemon that was killed. A pod's go with the pod.
    pub(crate) fn sweep(&self) {
        let PullCgroup::Path(cgroup) = self else { return };
        let relative = cgroup.trim_start_matches('/');
        let root = Path::new(CGROUPS);
        let places = COUNTING.iter().map(|hierarchy| root.join(hierarchy)).chain([root.to_owned()]);
        for found in
            places.filter_map(|place| std::fs::read_dir(place.join(relative)).ok()).flatten().flatten()
        {
            if found.file_name().to_string_lossy().starts_with(LEAF) {
                // One that still has a process is swept by the next start.
                _ = std::fs::remove_dir(found.path());
            }
        }
    }
}

/// A cgroup to be counted in, and the program that unpacks there.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    program: Vec<OsString>,
    cgroup: String,
    make: bool,
}

/// A leaf in each hierarchy; removed when dropped.
#[derive(Debug)]
pub(crate) struct Leaf(Vec<PathBuf>);

impl Counted {
    /// None: with the daemon.
    pub(crate) fn choose(
        setting: &PullCgroup,
        program: &[OsString],
        pod_cgroup: Option<&str>,
    ) -> Option<Counted> {
        let (cgroup, make) = match (setting, pod_cgroup) {
            (PullCgroup::Path(path), _) => (path.clone(), true),
            (PullCgroup::Pod, Some(path)) if !path.is_empty() => (path.to_owned(), false),
            (PullCgroup::Daemon | PullCgroup::Pod, _) => return None,
        };
        Some(Counted { program: program.to_vec(), cgroup, make })
    }

    pub(crate) fn program(&self) -> &[OsString] {
        &self.program
    }

    /// # Errors
    /// When the cgroup is not there or takes no leaf; the error names the file.
    pub(crate) fn leaf(&self) -> io::Result<Leaf> {
        let name = format!("{LEAF}{}", &random_name()[..8]);
        let relative = self.cgroup.trim_start_matches('/');
        let root = Path::new(CGROUPS);
        let mut leaf = Leaf(Vec::new());
        if root.join("cgroup.controllers").exists() {
            if self.make {
                make_counting(root, relative)?;
            }
            leaf.add(&root.join(relative), &name)?;
            return Ok(leaf);
        }
        for hierarchy in COUNTING {
            // `cpu` and `cpuacct` are often links to one hierarchy, and not all are mounted everywhere.
            let hierarchy = root.join(hierarchy);
            let is_root = hierarchy.join("cgroup.procs").exists();
            let parent = hierarchy.canonicalize().unwrap_or(hierarchy).join(relative);
            if !is_root || leaf.0.iter().any(|known| known.parent() == Some(&parent)) {
                continue;
            }
            if self.make {
                std::fs::create_dir_all(&parent).map_err(|error| named(&parent, &error))?;
            }
            // Version 1 lets a pod be in some hierarchies only.
            if parent.is_dir() {
                leaf.add(&parent, &name)?;
            }
        }
        if leaf.0.is_empty() {
            let why = format!("there is no cgroup {}", self.cgroup);
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        Ok(leaf)
    }
}

/// Makes a cgroup of version 2 part by part, and has each count for those below.
fn make_counting(root: &Path, relative: &str) -> io::Result<()> {
    let mut here = root.to_owned();
    for part in relative.split('/').filter(|part| !part.is_empty()) {
        allow(&here);
        here.push(part);
        match std::fs::create_dir(&here) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(named(&here, &error)),
            _ => {}
        }
    }
    allow(&here);
    Ok(())
}

/// As far as the host lets it: a controller that is not there counts nothing, and nothing else needs it.
fn allow(cgroup: &Path) {
    for controller in CONTROLLERS {
        _ = std::fs::write(cgroup.join("cgroup.subtree_control"), controller);
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl Leaf {
    fn add(&mut self, parent: &Path, name: &str) -> io::Result<()> {
        let path = parent.join(name);
        std::fs::create_dir(&path).map_err(|error| named(&path, &error))?;
        self.0.push(path);
        Ok(())
    }

    /// Moves a process here, whole.
    pub(crate) fn enter(&self, pid: u32) -> io::Result<()> {
        self.0.iter().try_for_each(|path| {
            let file = path.join("cgroup.procs");
            std::fs::write(&file, pid.to_string()).map_err(|error| named(&file, &error))
        })
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        for path in &self.0 {
            for _ in 0..TRIES {
                match std::fs::remove_dir(path) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(PAUSE),
                    _ => break,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_where_the_operator_says() {
        let program = [OsString::from("/bin/true")];
        let check = |setting: PullCgroup, pod: Option<&str>, answer: Option<(&str, bool)>| {
            let found = Counted::choose(&setting, &program, pod);
            let found = found.as_ref().map(|counted| (counted.cgroup.as_str(), counted.make));
            assert_eq!(found, answer, "{setting:?} {pod:?}");
        };
        check(PullCgroup::Daemon, Some("/pod"), None);
        check(PullCgroup::Path("/pulls".into()), Some("/pod"), Some(("/pulls", true)));
        check(PullCgroup::Pod, Some("/pod"), Some(("/pod", false)));
        check(PullCgroup::Pod, Some(""), None);
        check(PullCgroup::Pod, None, None);
    }
}
