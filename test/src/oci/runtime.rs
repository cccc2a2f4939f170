//! A runtime under test: where it is, what it says of itself, and how it is asked.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Options;
use crate::programs::Programs;

/// No command of a runtime may take longer: a hook's timeout and a grace period fit in.
const PATIENCE: Duration = Duration::from_secs(25);

/// One runtime.
#[derive(Debug)]
pub struct Runtime {
    /// The file name.
    pub name: String,
    path: PathBuf,
    /// What it prints for `--version`, its first line.
    pub version: String,
    /// Of the specification that it declares: 2 for 1.2.
    pub minor: u32,
    systemd_cgroup: bool,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Runtime {
    /// Those that were named; else our own, and the peers that are installed.
    pub(crate) fn all(options: &Options) -> Result<Vec<Runtime>> {
        let own = Programs::built().runtime;
        let mut paths = options.runtimes.clone();
        if paths.is_empty() {
            paths.push(own);
            if !options.alone {
                paths.extend(["/usr/sbin/runc", "/usr/bin/crun"].map(PathBuf::from));
            }
        }
        paths.into_iter().map(|path| Runtime::new(path, options.systemd_cgroup)).collect()
    }

    fn new(path: PathBuf, systemd_cgroup: bool) -> Result<Runtime> {
        let said = say(Command::new(&path).arg("--version"))
            .with_context(|| format!("running {}", path.display()))?;
        let text = said.out.clone();
        ensure!(said.is_ok(), "{} --version: {}", path.display(), said.last_words());
        let name = path.file_name().context("a runtime has a name")?.to_string_lossy().into_owned();
        let version = text.lines().next().unwrap_or_default().to_owned();
        Ok(Runtime { name, minor: minor_of(&text), version, path, systemd_cgroup })
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.name == "berth-runtime"
    }

    /// A container's cgroup path in the words of the driver in use.
    pub(crate) fn cgroups_path(&self, id: &str) -> String {
        if self.systemd_cgroup { format!("system.slice:oci:{id}") } else { format!("/berth-oci/{id}") }
    }

    pub(crate) fn has_systemd_cgroup(&self) -> bool {
        self.systemd_cgroup
    }

    pub(crate) fn command(&self, root: &Path) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(root);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command
    }
}

/// `spec: 1.0.2-dev`.
fn minor_of(version: &str) -> u32 {
    let spec = version.lines().find_map(|line| line.strip_prefix("spec: "));
    let minor = spec.and_then(|spec| spec.split('.').nth(1)?.parse().ok());
    minor.unwrap_or(0)
}

/// Runs a command to its end. Output goes to files, since an init that inherits a pipe would never let go of it.
pub(crate) fn say(command: &mut Command) -> Result<Said> {
    let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    say_into(command, out, err)
}

pub(crate) fn say_into(command: &mut Command, mut out: File, mut err: File) -> Result<Said> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .spawn()
        .context("running the runtime")?;
    let status = wait(&mut child, PATIENCE)?;
    Ok(Said { code: code(status), out: contents(&mut out)?, err: contents(&mut err)? })
}

fn wait(child: &mut std::process::Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// -1: it did not end by itself.
fn code(status: Option<ExitStatus>) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.map_or(-1, |status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

fn contents(file: &mut File) -> Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Said {
    pub(crate) fn is_ok(&self) -> bool {
        self.code == 0
    }

    /// Its last words, short enough for a table's foot.
    pub(crate) fn last_words(&self) -> String {
        let line = self.err.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no words");
        format!("exit code {}: {}", self.code, line.chars().take(160).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::minor_of;

    #[test]
    fn the_declared_version_is_read() {
        assert_eq!(minor_of("runc version 1.1.5\nspec: 1.0.2-dev\ngo: 1"), 0);
        assert_eq!(minor_of("berth-runtime version 0.1.0\nspec: 1.3.0"), 3);
        assert_eq!(minor_of("nothing"), 0);
    }
}
