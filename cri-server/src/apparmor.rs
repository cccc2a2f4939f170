//! AppArmor profiles: which are loaded, and our own default one, loaded when a container first needs it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// The name of the profile that berthd brings along.
pub const DEFAULT: &str = "berth-default";
const TEXT: &str = include_str!("apparmor/berth-default.profile");
/// One line for each loaded profile, `NAME (MODE)`.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// A desktop has some hundreds of profiles.
const MAX_LOADED_BYTES: u64 = 4 << 20;
/// A daemon's PATH may lack the directories of administrators.
const PARSERS: [&str; 3] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser", "/usr/bin/apparmor_parser"];

/// Why the default profile is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "there is no apparmor_parser: install Debian's or Ubuntu's package apparmor, or set \
         container.apparmor_profile to a profile that is loaded, or to unconfined"
    )]
    NoParser,
    #[error("running {program}")]
    Run { program: &'static str, source: io::Error },
    #[error("{program} says: {said}")]
    Refused { program: &'static str, said: String },
    #[error("reading {LOADED}")]
    Read { source: io::Error },
}

/// Whether the kernel knows the profile.
///
/// # Errors
/// When it cannot be asked, as without securityfs.
pub fn is_loaded(name: &str) -> Result<bool, Error> {
    let mut text = String::new();
    let read = File::open(LOADED).and_then(|file| file.take(MAX_LOADED_BYTES).read_to_string(&mut text));
    read.map_err(|source| Error::Read { source })?;
    Ok(lists(&text, name))
}

fn lists(profiles: &str, name: &str) -> bool {
    profiles.lines().filter_map(|line| line.rsplit_once(" (")).any(|(loaded, _)| loaded == name)
}

/// Sees to it that the default profile is loaded. The first time it is loaded in any case: what is there under its
/// name may be an older berth's. Blocking.
///
/// # Errors
/// It is not, and cannot be.
pub fn require_default() -> Result<(), Error> {
    static LOADED_BY_US: Mutex<bool> = Mutex::new(false);
    let mut loaded = LOADED_BY_US.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if *loaded && is_loaded(DEFAULT)? {
        return Ok(());
    }
    load(TEXT)?;
    *loaded = true;
    Ok(())
}

fn load(text: &str) -> Result<(), Error> {
    let program = PARSERS.into_iter().find(|path| std::path::Path::new(path).exists());
    let program = program.ok_or(Error::NoParser)?;
    let at = |source| Error::Run { program, source };
    let mut command = Command::new(program);
    // Not from a cache, and not into one: this is no file that anybody could compare it with.
    command.args(["--replace", "--skip-cache"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(at)?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(at)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Refused { program, said });
    }
    written.map_err(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_by_its_whole_name() {
        let loaded = "/usr/bin/man (enforce)\nberth-default (enforce)\na (b) (complain)\n";
        let check = |name: &str, expected: bool| assert_eq!(lists(loaded, name), expected, "{name}");
        check("berth-default", true);
        check("/usr/bin/man", true);
        check("a (b)", true);
        check("berth", false);
        check("berth-default (enforce)", false);
        check("", false);
    }
}
