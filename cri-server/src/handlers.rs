//! The programs that make containers: whether they are there, and what they can do, as the kubelet wants to know it. Our
//! own runtime is known, another is asked by its `features` command (OCI runtime specification, features.md).
//!
//! Asked when the daemon begins, when the settings are read anew, and when a program has become another one; never by
//! Status, which must not wait for a program. One that can't be asked can do nothing special.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proto::v1::RuntimeHandlerFeatures;
use tokio::process::Command;

use crate::config::{IN_TREE, RuntimeSection};

mod features;

pub(crate) use features::OCI_VERSION;
use features::Said;

/// A program that only says what it is, or can do, says it in milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A program may be installed, upgraded or lost while the daemon serves. One stat(2) a program finds out.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is known of all handlers.
#[derive(Debug, Clone, PartialEq)]
pub struct Handlers {
    known: HashMap<String, Known>,
}

/// Before anybody was asked.
impl Default for Handlers {
    fn default() -> Self {
        Self { known: [(IN_TREE.to_owned(), Known::ours())].into() }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Known {
    /// Which file its program is, or why no container can be made by it.
    program: Result<Stamp, String>,
    said: Said,
}

impl Known {
    fn ours() -> Self {
        Self { program: Ok(Stamp::default()), said: Said { features: own(), oci_version: OCI_VERSION } }
    }
}

/// Tells an installed program from the one that takes its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

/// Ours, linked into the monitor.
pub fn own() -> RuntimeHandlerFeatures {
    RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true }
}

impl Handlers {
    /// Looks at every handler of the settings, and asks those whose program is not the one of `before`.
    pub async fn ask(config: &RuntimeSection, before: &Handlers) -> Handlers {
        let Handlers { mut known } = Handlers::default();
        for (name, handler) in &config.handlers {
            let now = if handler.is_in_tree() {
                Known::ours()
            } else {
                look(name, &handler.path, before.known.get(name)).await
            };
            known.insert(name.clone(), now);
        }
        Handlers { known }
    }

    /// What a handler can do; of one that nobody knows, nothing.
    pub fn features(&self, name: &str) -> RuntimeHandlerFeatures {
        self.said(name).features
    }

    /// The version of the runtime specification that its configurations are told to be of.
    pub fn oci_version(&self, name: &str) -> &'static str {
        self.said(name).oci_version
    }

    fn said(&self, name: &str) -> Said {
        self.known.get(name).map_or(Said::NOTHING, |known| known.said)
    }

    /// Why no container can be made by it.
    pub fn fault(&self, name: &str) -> Option<&str> {
        self.known.get(name)?.program.as_ref().err().map(String::as_str)
    }
}

/// Of one program; `before` is what was known of the handler.
async fn look(name: &str, path: &Path, before: Option<&Known>) -> Known {
    let program = stamp(path).await;
    if let Some(before) = before.filter(|before| before.program == program) {
        return before.clone();
    }
    let said = match &program {
        Ok(_) => ask(name, path).await,
        Err(why) => {
            tracing::error!(handler = name, why, "a handler has no program, and its pods are refused");
            Said::NOTHING
        }
    };
    Known { program, said }
}

/// In a thread that may hang, since the program's file system may be away: one for each program, not one for each look.
async fn stamp(path: &Path) -> Result<Stamp, String> {
    static LOOKED_AT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let looked_at = || LOOKED_AT.lock().unwrap_or_else(PoisonError::into_inner);
    let at = |why: &dyn Display| format!("{}: {why}", path.display());
    let silent = || at(&"its file system does not answer");
    if !looked_at().insert(path.to_owned()) {
        return Err(silent());
    }
    let asked = path.to_owned();
    let looking = tokio::task::spawn_blocking(move || {
        let found = std::fs::metadata(&asked);
        looked_at().remove(&asked);
        found
    });
    let found = tokio::time::timeout(ANSWER_TIMEOUT, looking).await.map_err(|_| silent())?;
    let found = found.map_err(|error| at(&error))?.map_err(|error| at(&error))?;
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        return Err(at(&"is no program that can be run"));
    }
    let changed = (found.ctime(), found.ctime_nsec());
    Ok(Stamp { path: path.into(), device: found.dev(), inode: found.ino(), changed })
}

async fn ask(name: &str, path: &Path) -> Said {
    let told = said(Command::new(path).arg("features")).await;
    told.and_then(|text| features::read(&text)).unwrap_or_else(|why| {
        tracing::warn!(
            handler = name, path = %path.display(), why,
            "a handler does not say what it can do, so pods with users of their own and recursive read-only mounts are refused"
        );
        Said::NOTHING
    })
}

/// What a program says when it is asked something small.
///
/// # Errors
/// When it can't be run, does not end in time, or ends badly.
pub(crate) async fn said(command: &mut Command) -> Result<Vec<u8>, String> {
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, command.output()).await;
    let output = answered.map_err(|_| format!("it did not answer in {ANSWER_TIMEOUT:?}"))?;
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("it ended with {}", output.status));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HandlerSection;

    fn write(path: &Path, script: &str) {
        std::fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    const GOOD: &str = "[ $1 = features ] && echo '{\"mountOptions\": [\"rro\"]}'";

    fn handler(path: &Path) -> HandlerSection {
        HandlerSection { path: path.into(), ..HandlerSection::default() }
    }

    #[tokio::test]
    async fn each_handler_is_asked_and_one_that_is_silent_can_do_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = RuntimeSection::default();
        for (name, script) in [("good", GOOD), ("odd", "exit 3")] {
            write(&dir.path().join(name), script);
            config.handlers.insert(name.to_owned(), handler(&dir.path().join(name)));
        }
        config.handlers.insert("missing".to_owned(), handler(&dir.path().join("none")));
        config.handlers.insert("folder".to_owned(), handler(dir.path()));
        config.handlers.insert("ours".to_owned(), HandlerSection::default());
        let handlers = Handlers::ask(&config, &Handlers::default()).await;
        assert_eq!(handlers.features("ours"), own());
        assert_eq!(handlers.features(IN_TREE), own());
        let good = handlers.features("good");
        assert!(good.recursive_read_only_mounts && !good.user_namespaces);
        for (name, fault) in
            [("odd", None), ("missing", Some("No such file")), ("folder", Some("no program"))]
        {
            assert_eq!(handlers.features(name), RuntimeHandlerFeatures::default());
            let found = handlers.fault(name);
            let told = fault.is_none_or(|words| found.is_some_and(|found| found.contains(words)));
            assert!(told && found.is_some() == fault.is_some(), "{name}: {found:?}");
        }
        assert_eq!(handlers.fault("ours"), None);
    }

    #[tokio::test]
    async fn a_program_is_asked_again_when_it_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runtime");
        let config = RuntimeSection {
            handlers: [("it".to_owned(), handler(&path))].into(),
            ..RuntimeSection::default()
        };
        let first = Handlers::ask(&config, &Handlers::default()).await;
        assert!(first.fault("it").is_some());
        write(&path, &format!("echo asked >> {}/asked; {GOOD}", dir.path().display()));
        let second = Handlers::ask(&config, &first).await;
        assert!(second.fault("it").is_none() && second.features("it").recursive_read_only_mounts);
        assert_eq!(Handlers::ask(&config, &second).await, second);
        assert_eq!(std::fs::read_to_string(dir.path().join("asked")).unwrap(), "asked\n", "once is enough");
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        let third = Handlers::ask(&config, &second).await;
        assert!(third.fault("it").is_some() && !third.features("it").recursive_read_only_mounts);
    }
}
