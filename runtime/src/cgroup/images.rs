//! What criu wants to know of a container's cgroup.

use std::path::PathBuf;

use super::Cgroup;
use super::layout::{Hierarchy, Version};

impl Cgroup {
    /// The directory by which its processes are frozen.
    #[must_use]
    pub fn freezer_dir(&self) -> Option<PathBuf> {
        self.freezer().ok().map(|(_, dir)| dir)
    }

    /// The root of the container's tree by controller, as /proc/PID/cgroup names them: cgroup2 has no name there.
    #[must_use]
    pub fn roots(&self) -> Vec<(String, String)> {
        self.layout.hierarchies.iter().flat_map(names).map(|name| (name, self.path())).collect()
    }
}

/// A named hierarchy has no controller, and is mounted under its name.
fn names(hierarchy: &Hierarchy) -> Vec<String> {
    if hierarchy.version == Version::V2 {
        return vec![String::new()];
    }
    if !hierarchy.controllers().is_empty() {
        return hierarchy.controllers().to_vec();
    }
    let name = hierarchy.root.file_name().map(|name| format!("name={}", name.to_string_lossy()));
    name.into_iter().collect()
}
