//! `berth doctor`: what this machine has and lacks, each line with what to do about it.
//!
//! Only looks: it loads no module, makes no directory and leaves nothing behind.

use std::fmt;
use std::path::Path;

use super::say::say;
use super::{Error, config_command};
use crate::config::Config;

mod cgroups;
mod criu;
mod files;
mod handlers;
mod kernel;
mod network;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Fine(String),
    /// Works, but something is lost.
    Poor {
        is: String,
        advice: String,
    },
    /// Does not work.
    Broken {
        is: String,
        advice: String,
    },
}

impl Finding {
    fn fine(what: &'static str, is: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Fine(is.into()) }
    }

    fn poor(what: &'static str, is: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Poor { is: is.into(), advice: advice.into() } }
    }

    fn broken(what: &'static str, is: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Broken { is: is.into(), advice: advice.into() } }
    }

    /// Fine when `there`, else broken.
    fn needed(what: &'static str, there: bool, is: &str, advice: &str) -> Self {
        if there { Self::fine(what, is) } else { Self::broken(what, format!("no {is}"), advice) }
    }

    /// Fine when `there`, else poor.
    fn wished(what: &'static str, there: bool, is: &str, advice: &str) -> Self {
        if there { Self::fine(what, is) } else { Self::poor(what, format!("no {is}"), advice) }
    }

    fn is_broken(&self) -> bool {
        matches!(self.verdict, Verdict::Broken { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, is, advice) = match &self.verdict {
            Verdict::Fine(is) => ("ok  ", is, None),
            Verdict::Poor { is, advice } => ("warn", is, Some(advice)),
            Verdict::Broken { is, advice } => ("FAIL", is, Some(advice)),
        };
        write!(f, "{mark}  {:<14}  {is}", self.what)?;
        advice.map_or(Ok(()), |advice| write!(f, "\n      {:<14}  -> {advice}", ""))
    }
}

pub(super) fn doctor(config_file: &Path, socket: Option<&Path>) -> Result<(), Error> {
    let mut findings = Vec::new();
    let config = match config_command::read(config_file) {
        Ok(config) => {
            findings.push(settings(config_file));
            config
        }
        Err(error) => {
            findings.push(Finding::broken(
                "settings",
                crate::error::chain(&error),
                "correct the file; `berth config default` shows every key",
            ));
            Config::default()
        }
    };
    findings.extend(kernel::findings());
    findings.extend(cgroups::findings());
    findings.extend(network::findings(&config.network));
    findings.extend(files::findings(&config, socket));
    findings.extend(handlers::findings(&config));
    findings.extend(criu::findings(&config.checkpoint));
    let lines: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    say(&format!("{lines}\n{}\n", sum(&findings)))?;
    if findings.iter().any(Finding::is_broken) { Err(Error::Unwell) } else { Ok(()) }
}

fn settings(file: &Path) -> Finding {
    let is = if file.exists() {
        file.display().to_string()
    } else {
        format!("defaults ({} is not there)", file.display())
    };
    Finding::fine("settings", is)
}

fn sum(findings: &[Finding]) -> String {
    let broken = findings.iter().filter(|finding| finding.is_broken()).count();
    let poor = findings.iter().filter(|finding| matches!(finding.verdict, Verdict::Poor { .. })).count();
    format!("doctor: {} ok, {poor} warnings, {broken} failures", findings.len() - poor - broken)
}

/// A small text of the kernel; what cannot be read is empty.
fn fact(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_an_advice() {
        assert_eq!(Finding::fine("kernel", "6.1").to_string(), "ok    kernel          6.1");
        let poor = Finding::wished("AppArmor", false, "profile", "write one");
        assert_eq!(
            poor.to_string(),
            format!("warn  AppArmor        no profile\n      {:<14}  -> write one", "")
        );
    }

    #[test]
    fn findings_are_counted() {
        let findings = [Finding::fine("a", ""), Finding::poor("b", "", ""), Finding::broken("c", "", "")];
        assert_eq!(sum(&findings), "doctor: 1 ok, 1 warnings, 1 failures");
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        assert!(!kernel::findings().is_empty() && !cgroups::findings().is_empty());
        let config = Config::default();
        assert!(!network::findings(&config.network).is_empty() && !files::findings(&config, None).is_empty());
    }
}
