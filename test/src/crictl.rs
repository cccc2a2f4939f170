//! crictl, the operators' command, with one endpoint.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::node::Node;
use crate::programs::target_dir;

/// crictl on one node.
#[derive(Debug, Clone)]
pub struct Crictl {
    endpoint: String,
}

impl Crictl {
    pub fn of(node: &Node) -> Crictl {
        Crictl { endpoint: node.endpoint() }
    }

    /// Runs it; what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output().context("running crictl")?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "crictl {args:?}: {stdout}{stderr}");
        Ok(stdout)
    }

    /// Its configuration file is none of the machine's.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(target_dir().join("tools/crictl"));
        command.args(["--config", "/dev/null", "--runtime-endpoint", &self.endpoint]);
        command.args(["--image-endpoint", &self.endpoint]).args(args);
        command
    }
}
