//! The monitors of a node, as processes. A container's process looks like its monitor until it executes its command, so a
//! test that looks for monitors first waits until its containers have said something.

use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::process::Pid;

use crate::node::Node;

impl Node {
    /// The process of a pod's monitor.
    pub fn monitor_of(&self, pod: &str) -> Result<Pid> {
        let dir = self.run_dir().join("sandboxes").join(pod);
        let found = processes().find(|(_, pod_dir)| Path::new(pod_dir) == dir);
        Ok(found.with_context(|| format!("pod {pod} has no monitor"))?.0)
    }

    /// Those of all pods.
    pub fn monitors(&self) -> Vec<Pid> {
        let ours = processes().filter(|(_, pod_dir)| Path::new(pod_dir).starts_with(self.dir()));
        ours.map(|(pid, _)| pid).collect()
    }
}

/// All monitors of the machine, each with the folder of its pod.
fn processes() -> impl Iterator<Item = (Pid, String)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command);
        let mut words = command.split('\0').skip_while(|word| *word != "--pod-dir").skip(1);
        Some((pid, words.next()?.to_owned()))
    })
}
