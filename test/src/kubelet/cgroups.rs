//! The cgroups of pods, which are the kubelet's: it makes them before it asks for a pod, and takes them away last.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Pod;

/// The mount points of v1's hierarchies, or the one of v2.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_path_buf()];
    }
    let tops = std::fs::read_dir(root).into_iter().flatten().flatten();
    tops.map(|entry| entry.path()).filter(|path| path.join("tasks").exists()).collect()
}

impl Pod {
    /// With those above it that are missing.
    pub(super) fn make_cgroup(&self) -> Result<()> {
        for root in hierarchies() {
            let mut dir = root;
            for part in self.cgroup_parent().trim_start_matches('/').split('/') {
                let above = dir.clone();
                dir.push(part);
                if !dir.exists() {
                    std::fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
                    give_processors(&above, &dir);
                }
            }
        }
        Ok(())
    }

    /// It goes only when nothing is left in it.
    pub(super) fn remove_cgroup(&self) -> Result<()> {
        for root in hierarchies() {
            let dir = root.join(self.cgroup_parent().trim_start_matches('/'));
            if dir.exists() {
                std::fs::remove_dir(&dir).with_context(|| format!("removing {}", dir.display()))?;
            }
            // Those of its quality of service and of all pods, when it was the last.
            for above in
                dir.ancestors().skip(1).take(2).filter(|above| above.to_string_lossy().contains("kubepods"))
            {
                let _ = std::fs::remove_dir(above);
            }
        }
        Ok(())
    }
}

/// v1's cpuset begins with none.
fn give_processors(above: &Path, dir: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = std::fs::read(above.join(file)) {
            let _ = std::fs::write(dir.join(file), value);
        }
    }
}
