//! Hooks that an operator has put into directories for all containers that fit, as oci-hooks(5) 1.0.0 describes them.
//!
//! Read when a container is made, so that what was changed counts for the next one. A file of a later directory
//! stands for one of the same name in an earlier one; the order is that of the names.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::{Deserialize, Deserializer};

use crate::bounded::read_text;

/// A file is a few lines.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// More files than this are a mistake.
const FILES_MAX: usize = 1024;

/// A hook, and when it is for a container.
#[derive(Debug, Clone, Deserialize)]
pub struct HookFile {
    version: String,
    pub hook: Hook,
    when: When,
    pub stages: Vec<Stage>,
}

/// A program to run (OCI runtime specification, POSIX-platform hooks).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    pub path: PathBuf,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    /// Seconds.
    #[serde(default)]
    pub timeout: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

/// All that is given must hold; nothing given never holds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct When {
    always: Option<bool>,
    has_bind_mounts: Option<bool>,
    #[serde(deserialize_with = "pairs")]
    annotations: Vec<(Pattern, Pattern)>,
    commands: Vec<Pattern>,
}

/// A regular expression that matches anywhere.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Pattern(Regex);

/// Why the hooks can't be known.
#[derive(Debug, thiserror::Error)]
#[error("the hook file {}: {why}", .path.display())]
pub struct Error {
    pub path: PathBuf,
    pub why: String,
}

/// What decides whether a hook is for a container.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub command: &'a str,
    pub annotations: &'a HashMap<String, String>,
    pub has_bind_mounts: bool,
}

/// All hooks of all directories. Blocking.
///
/// # Errors
/// Names the file that is not a hook's: an operator who has put it there counts on it.
pub fn read(dirs: &[PathBuf]) -> Result<Vec<HookFile>, Error> {
    let mut files: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for dir in dirs {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(FILES_MAX);
        let named = entries.map(|entry| (entry.file_name(), entry.path()));
        files.extend(named.filter(|(_, path)| path.extension().is_some_and(|ext| ext == "json")));
    }
    files.into_values().map(|path| read_file(&path).map_err(|why| Error { path, why })).collect()
}

fn read_file(path: &Path) -> Result<HookFile, String> {
    let text = read_text(path, FILE_MAX_BYTES).map_err(|error| error.to_string())?;
    let file: HookFile = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if file.version != "1.0.0" {
        return Err(format!("version {:?} is not 1.0.0", file.version));
    }
    if !file.hook.path.is_absolute() {
        return Err(format!("hook.path {} is not absolute", file.hook.path.display()));
    }
    Ok(file)
}

impl HookFile {
    pub fn is_for(&self, subject: &Subject<'_>) -> bool {
        self.when.holds(subject)
    }
}

impl When {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        let annotated = |(key, value): &(Pattern, Pattern)| {
            subject.annotations.iter().any(|(k, v)| key.0.is_match(k) && value.0.is_match(v))
        };
        let commanded = self.commands.iter().any(|command| command.0.is_match(subject.command));
        let conditions = [
            self.always,
            self.has_bind_mounts.map(|wanted| wanted && subject.has_bind_mounts),
            (!self.annotations.is_empty()).then(|| self.annotations.iter().all(annotated)),
            (!self.commands.is_empty()).then_some(commanded),
        ];
        let mut given = conditions.into_iter().flatten().peekable();
        given.peek().is_some() && given.all(|holds| holds)
    }
}

impl TryFrom<String> for Pattern {
    type Error = regex::Error;

    fn try_from(text: String) -> Result<Self, regex::Error> {
        Regex::new(&text).map(Pattern)
    }
}

/// A key may be there once, but is a pattern itself.
fn pairs<'de, D: Deserializer<'de>>(map: D) -> Result<Vec<(Pattern, Pattern)>, D::Error> {
    let pairs = BTreeMap::<String, Pattern>::deserialize(map)?;
    let pair = |(key, value)| Ok((Pattern::try_from(key)?, value));
    pairs.into_iter().map(pair).collect::<Result<_, regex::Error>>().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(when: &str) -> Result<HookFile, String> {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            r#"{{"version": "1.0.0", "hook": {{"path": "/bin/true"}}, "when": {when}, "stages": ["createContainer"]}}"#
        );
        std::fs::write(dir.path().join("hook.json"), text).unwrap();
        let mut found = read(&[dir.path().to_owned()]).map_err(|error| error.to_string())?;
        Ok(found.remove(0))
    }

    #[track_caller]
    fn check(when: &str, expected: bool) {
        let annotations = HashMap::from([("io.hook".to_owned(), "yes please".to_owned())]);
        let subject = Subject { command: "/bin/sh", annotations: &annotations, has_bind_mounts: false };
        assert_eq!(file(when).unwrap().is_for(&subject), expected, "{when}");
    }

    #[test]
    fn a_hook_is_for_those_of_whom_all_holds() {
        check("{}", false);
        check(r#"{"always": true}"#, true);
        check(r#"{"always": false}"#, false);
        check(r#"{"commands": ["^/bin/(ba)?sh$", "x"]}"#, true);
        check(r#"{"commands": ["^sh$"]}"#, false);
        check(r#"{"annotations": {"^io\\.hook$": "yes"}}"#, true);
        check(r#"{"annotations": {"^io\\.hook$": "yes", "other": ""}}"#, false);
        check(r#"{"annotations": {"hook": "^no"}}"#, false);
        check(r#"{"hasBindMounts": true}"#, false);
        check(r#"{"hasBindMounts": false}"#, false);
        check(r#"{"always": true, "commands": ["nothing"]}"#, false);
        check(r#"{"annotations": {"hook": "yes"}, "commands": ["sh"]}"#, true);
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        for (when, why) in
            [("3", "expected"), (r#"{"commands": ["("]}"#, "unclosed"), (r#"{"x": 1}"#, "unknown")]
        {
            let refused = file(when).unwrap_err();
            assert!(refused.contains("hook.json") && refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn a_later_directory_wins_and_names_are_the_order() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = ["usr", "etc", "none"].map(|name| dir.path().join(name)).to_vec();
        for (parent, name, path) in [
            ("usr", "20.json", "/20"),
            ("usr", "10.json", "/10"),
            ("etc", "20.json", "/etc20"),
            ("etc", "x", "/x"),
        ] {
            let text = format!(
                r#"{{"version": "1.0.0", "hook": {{"path": "{path}"}}, "when": {{"always": true}}, "stages": ["poststop"]}}"#
            );
            std::fs::create_dir_all(dir.path().join(parent)).unwrap();
            std::fs::write(dir.path().join(parent).join(name), text).unwrap();
        }
        let found: Vec<PathBuf> = read(&dirs).unwrap().into_iter().map(|file| file.hook.path).collect();
        assert_eq!(found, [Path::new("/10"), Path::new("/etc20")]);
    }
}
