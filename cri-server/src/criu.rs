//! criu, as far as the daemon must know it: which one, and whether it works on this kernel. The monitors run it.
//!
//! Asked when the daemon begins and when the settings are read anew; Status must not wait for a program.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// It tries out what the kernel can, which takes a fraction of a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// What criu said when it was asked last: its version, or why there is none that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criu {
    pub program: PathBuf,
    pub works: Result<String, String>,
}

impl Criu {
    /// Runs it, for its version and for its own check of the kernel.
    pub async fn ask(program: &Path) -> Criu {
        Criu { program: program.to_owned(), works: works(program).await }
    }
}

async fn works(program: &Path) -> Result<String, String> {
    let said = run(program, "--version").await?;
    let version = version(&said).ok_or_else(|| format!("{} says no version", program.display()))?;
    run(program, "check").await.map_err(|why| format!("criu {version} does not work here: {why}"))?;
    Ok(version)
}

async fn run(program: &Path, argument: &str) -> Result<String, String> {
    let name = program.display();
    let mut command = tokio::process::Command::new(program);
    command.arg(argument).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ANSWER_TIMEOUT, command.output()).await;
    let output = output.map_err(|_| format!("`{name} {argument}` did not end in {ANSWER_TIMEOUT:?}"))?;
    let output = output.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("{name} is not installed; install criu, or name it with checkpoint.criu")
        }
        _ => format!("running {name}: {error}"),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let first = words.lines().find(|line| line.contains("Error")).or(words.lines().next());
    Err(format!("`{name} {argument}`: {}", first.unwrap_or("it failed without a word").trim()))
}

/// `Version: 4.1.1`, and a line with the commit where it was built from one.
fn version(said: &str) -> Option<String> {
    said.lines().find_map(|line| line.strip_prefix("Version:")).map(|version| version.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_criu_says() {
        assert_eq!(version("Version: 4.1.1\n").as_deref(), Some("4.1.1"));
        assert_eq!(version("Version: 3.17.1\nGitID: v3.17\n").as_deref(), Some("3.17.1"));
        assert_eq!(version("usage"), None);
    }

    #[tokio::test]
    async fn what_does_not_work_is_told_with_its_cause() {
        let criu = Criu::ask(Path::new("/nosuch/criu")).await;
        assert!(criu.works.unwrap_err().contains("/nosuch/criu is not installed"));
        let criu = Criu::ask(Path::new("/bin/true")).await;
        assert!(criu.works.unwrap_err().contains("says no version"));
    }
}
