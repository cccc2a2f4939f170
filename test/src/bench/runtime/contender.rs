//! One of those who are measured: its commands, run through the launcher, and what they cost.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::WaitOptions;

use super::bundle::Bundle;
use crate::bench::samples::Samples;
use crate::programs::Programs;

/// Real pod starts come after a quiet spell, in which the kernel's RCU rests.
const QUIET: Duration = Duration::from_millis(60);

#[derive(Debug)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    program: PathBuf,
    kind: Kind,
    pub(super) samples: Samples,
    /// System calls of a run, all processes together.
    pub(super) system_calls: u64,
}

#[derive(Debug)]
enum Kind {
    /// Speaks the OCI command line; its state's directory.
    Runtime(PathBuf),
    /// Runs `/bin/true`, and nothing else.
    Floor,
}

impl Contender {
    pub(super) fn runtime(name: &'static str, program: &Path, bundle: &Bundle) -> Contender {
        Contender::new(name, program, Kind::Runtime(bundle.state(name)))
    }

    pub(super) fn floor(program: &Path) -> Contender {
        Contender::new("floor", program, Kind::Floor)
    }

    fn new(name: &'static str, program: &Path, kind: Kind) -> Contender {
        Contender { name, program: program.to_owned(), kind, samples: Samples::default(), system_calls: 0 }
    }

    pub(super) fn forget(&mut self) {
        self.samples = Samples::default();
    }

    /// Leaves a container's filter where the floor finds it.
    pub(super) fn keep_a_filter(&self, bundle: &Bundle) -> Result<()> {
        let Kind::Runtime(state) = &self.kind else { bail!("{} keeps no filter", self.name) };
        let dir = bundle.at("sleep");
        let words = ["create", "--bundle", &dir.display().to_string(), "filter"].map(str::to_owned);
        let status = self.command(&words).stdout(Stdio::null()).stdin(Stdio::null()).status()?;
        ensure!(status.success(), "{} could not create a container", self.name);
        std::fs::copy(state.join("filter/seccomp.bpf"), bundle.at("filter.bpf"))?;
        let words = ["delete", "--force", "filter"].map(str::to_owned);
        ensure!(self.command(&words).status()?.success(), "{} could not delete it", self.name);
        reap()
    }

    pub(super) fn run(&mut self, bundle: &Bundle) -> Result<()> {
        self.time("run", "run_rss", &self.run_words(bundle)?).map(drop)
    }

    /// Each command once.
    pub(super) fn round(&mut self, bundle: &Bundle) -> Result<()> {
        self.run(bundle)?;
        if matches!(self.kind, Kind::Floor) {
            return Ok(());
        }
        let dir = bundle.at("sleep").display().to_string();
        let word = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let create = self.time("create", "create_rss", &word(&["create", "--bundle", &dir, "c"]))?;
        let start = self.time("start", "start_rss", &word(&["start", "c"]))?;
        self.time("exec", "exec_rss", &word(&["exec", "c", "/bin/true"]))?;
        self.time("kill", "kill_rss", &word(&["kill", "c", "KILL"]))?;
        reap()?;
        let delete = self.time("delete", "delete_rss", &word(&["delete", "c"]))?;
        self.samples.add_value("create_start_delete", create + start + delete);
        Ok(())
    }

    fn run_words(&self, bundle: &Bundle) -> Result<Vec<String>> {
        let path = |name: &str| bundle.at(name).display().to_string();
        if matches!(self.kind, Kind::Runtime(_)) {
            return Ok(vec!["run".into(), "--bundle".into(), path("true"), "r".into()]);
        }
        let cgroup = format!("{}/true", bundle.cgroup);
        let mut words = vec![path("rootfs"), path("volumes"), cgroup, path("filter.bpf")];
        words.extend(bundle.cpuset());
        words.extend(Bundle::hierarchies()?);
        Ok(words)
    }

    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.global()).args(words);
        command
    }

    fn global(&self) -> Vec<String> {
        match &self.kind {
            Kind::Runtime(state) => vec!["--root".into(), state.display().to_string()],
            Kind::Floor => Vec::new(),
        }
    }

    /// Milliseconds.
    fn time(&mut self, name: &'static str, rss: &'static str, words: &[String]) -> Result<f64> {
        std::thread::sleep(QUIET);
        let launched = Command::new(Programs::built().launch)
            .arg(&self.program)
            .args(self.global())
            .args(words)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("running the launcher")?;
        let said = String::from_utf8_lossy(&launched.stdout).into_owned();
        let numbers: Vec<i64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [nanoseconds, kib, code] = numbers[..] else { bail!("the launcher said {said:?}") };
        ensure!(code == 0, "{} {} ended with {code}", self.name, words.join(" "));
        let milliseconds = nanoseconds as f64 / 1e6;
        self.samples.add_value(name, milliseconds);
        self.samples.add_value(rss, kib as f64);
        Ok(milliseconds)
    }

    /// As strace counts them.
    pub(super) fn count_system_calls(&mut self, bundle: &Bundle) -> Result<()> {
        let summary = bundle.at("strace");
        let status = Command::new("strace")
            .args(["-f", "-qq", "-c", "-o"])
            .arg(&summary)
            .arg(&self.program)
            .args(self.global())
            .args(self.run_words(bundle)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("running strace (package strace)")?;
        ensure!(status.success(), "{} under strace: {status}", self.name);
        self.system_calls = total(&std::fs::read_to_string(summary)?).context("strace gave no total")?;
        Ok(())
    }
}

/// The calls in the last line of strace's summary: `100.00 SECONDS USECS CALLS [ERRORS] total`.
fn total(summary: &str) -> Option<u64> {
    summary.lines().rev().find(|line| line.ends_with(" total"))?.split_whitespace().nth(3)?.parse().ok()
}

/// Waits for the one child that a killed container has left us.
fn reap() -> Result<()> {
    rustix::process::wait(WaitOptions::empty()).context("reaping the container's init")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_fourth_number() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
                       ------ ----------- ----------- --------- --------- ----------------\n\
                       100.00    0.007429          11       640        17 total\n";
        assert_eq!(total(summary), Some(640));
        assert_eq!(total(""), None);
    }
}
