//! Opening a cgroup for a process that joins others in it, or in a cgroup below it.

use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;

use super::layout::{Hierarchy, Version};
use super::{Cgroup, Error, open};

/// A cgroup below the container's, as `exec --cgroup` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubCgroup {
    /// Empty: every hierarchy.
    pub controllers: Vec<String>,
    pub path: PathBuf,
}

impl Cgroup {
    /// An existing cgroup, opened to be joined beside a process of it: v1 by its path, cgroup2 where the kernel says
    /// that the process is by now, since a systemd in a container moves everything below the container's cgroup and
    /// the kernel then lets nobody into that. A process that has left the container's cgroup is not followed.
    ///
    /// # Errors
    /// It does not exist, a path in `below` leads out of it, or the kernel's answer.
    pub fn open_beside(path: &str, pid: i32, below: &[SubCgroup]) -> Result<Cgroup, Error> {
        let mut cgroup = Cgroup::at(path)?;
        for hierarchy in &cgroup.layout.hierarchies {
            let own = cgroup.dir(hierarchy);
            let sub =
                below.iter().find(|sub| sub.is_for(hierarchy)).map(|sub| sub.inside(&own)).transpose()?;
            let dir = sub.as_deref().unwrap_or(&own);
            match hierarchy.version {
                Version::V1 => cgroup.tasks.push(open(&dir.join("tasks"), OFlags::WRONLY)?),
                Version::V2 => {
                    let given = || open(dir, OFlags::RDONLY | OFlags::DIRECTORY);
                    let beside =
                        if sub.is_some() { given() } else { cgroup.unified_dir_of(pid).or_else(|_| given()) };
                    cgroup.unified = Some(beside?);
                }
            }
        }
        Ok(cgroup)
    }
}

impl SubCgroup {
    fn is_for(&self, hierarchy: &Hierarchy) -> bool {
        self.controllers.is_empty() || self.controllers.iter().any(|controller| hierarchy.has(controller))
    }

    fn inside(&self, dir: &Path) -> Result<PathBuf, Error> {
        let mut inside = dir.to_owned();
        for part in self.path.components() {
            match part {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => inside.push(name),
                Component::ParentDir | Component::Prefix(_) => {
                    let path = self.path.display().to_string();
                    return Err(Error::Path { path, reason: "leads out of the container's cgroup" });
                }
            }
        }
        Ok(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_below_stays_below() {
        let inside = |path: &str| {
            SubCgroup { controllers: Vec::new(), path: path.into() }.inside(Path::new("/cg/c")).ok()
        };
        assert_eq!(inside("/a/./b"), Some("/cg/c/a/b".into()));
        assert_eq!(inside("/"), Some("/cg/c".into()));
        assert_eq!(inside("../d"), None);
        assert_eq!(inside("a/../../d"), None);
    }
}
