//! `registries.d`: where signatures are kept that no registry has (containers-registries.d(5)).
//!
//! The files of a directory are one configuration; nothing in it may be said twice. A key that is not known
//! is refused: a misspelt `lookaside` would else be an image without signatures.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::bounded;

/// Written by hand.
const MAX_BYTES: u64 = 1 << 20;
/// Where root's tools keep signatures when nothing else is said.
const DEFAULT_LOOKASIDE: &str = "file:///var/lib/containers/sigstore";

#[derive(Debug, thiserror::Error)]
pub enum BadRegistriesD {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not what containers-registries.d(5) describes", path.display())]
    Yaml { path: PathBuf, source: serde_norway::Error },
    #[error("{what} is said in {} again; once is enough", path.display())]
    Twice { what: String, path: PathBuf },
}

/// Everything that the directory says.
#[derive(Debug, Default)]
pub(super) struct RegistriesD {
    default: Option<Section>,
    docker: BTreeMap<String, Section>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    default_docker: Option<Section>,
    #[serde(default)]
    docker: Option<BTreeMap<String, Section>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Section {
    lookaside: Option<String>,
    /// The older name.
    sigstore: Option<String>,
    #[serde(rename = "lookaside-staging")]
    _lookaside_staging: Option<String>,
    #[serde(rename = "sigstore-staging")]
    _sigstore_staging: Option<String>,
    use_sigstore_attachments: Option<bool>,
}

impl RegistriesD {
    /// Reads all `*.yaml` of the directory; one that is not there says nothing.
    pub(super) fn load(dir: &Path) -> Result<RegistriesD, BadRegistriesD> {
        let failed = |path: &Path, source| BadRegistriesD::Read { path: path.to_owned(), source };
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(RegistriesD::default()),
            Err(error) => return Err(failed(dir, error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            files.push(entry.map_err(|error| failed(dir, error))?.path());
        }
        files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
        let mut all = RegistriesD::default();
        for path in files {
            let text = bounded::read(&path, MAX_BYTES).map_err(|error| failed(&path, error))?;
            all.add(&path, &text)?;
        }
        Ok(all)
    }

    fn add(&mut self, path: &Path, text: &[u8]) -> Result<(), BadRegistriesD> {
        let yaml = |source| BadRegistriesD::Yaml { path: path.to_owned(), source };
        let twice = |what: &str| BadRegistriesD::Twice { what: what.to_owned(), path: path.to_owned() };
        let Some(file) = serde_norway::from_slice::<Option<File>>(text).map_err(yaml)? else { return Ok(()) };
        if let Some(section) = file.default_docker
            && self.default.replace(section).is_some()
        {
            return Err(twice("default-docker"));
        }
        for (scope, section) in file.docker.unwrap_or_default() {
            if self.docker.contains_key(&scope) {
                return Err(twice(&scope));
            }
            self.docker.insert(scope, section);
        }
        Ok(())
    }

    /// The base URL of the signatures for these scopes, the narrowest first.
    pub(super) fn lookaside(&self, scopes: &[String]) -> &str {
        let mut said = scopes.iter().filter_map(|scope| self.docker.get(scope)).chain(&self.default);
        said.find_map(Section::url).unwrap_or(DEFAULT_LOOKASIDE)
    }

    /// Whether signatures may be looked for in the registry. Only a `false` in so many words forbids it: a
    /// policy that asks for sigstore signatures is word enough.
    pub(super) fn use_attachments(&self, scopes: &[String]) -> bool {
        let mut said = scopes.iter().filter_map(|scope| self.docker.get(scope)).chain(&self.default);
        said.find_map(|section| section.use_sigstore_attachments).unwrap_or(true)
    }
}

impl Section {
    fn url(&self) -> Option<&str> {
        self.lookaside.as_deref().or(self.sigstore.as_deref()).filter(|url| !url.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_section_that_says_something_decides() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        file("a.yaml", "default-docker:\n  sigstore: https://default\n");
        file("b.yaml", "docker:\n  a.io:\n    lookaside: https://a\n    use-sigstore-attachments: false\n");
        file(
            "c.yaml",
            "docker:\n  a.io/x:\n    lookaside: https://x\n  b.io:\n    lookaside-staging: file:///s\n",
        );
        file("d.yml", "nonsense");
        file("e.yaml", "");
        let all = RegistriesD::load(dir.path()).unwrap();
        let check = |scopes: &[&str], url: &str, attachments| {
            let scopes: Vec<_> = scopes.iter().map(ToString::to_string).collect();
            assert_eq!(
                (all.lookaside(&scopes), all.use_attachments(&scopes)),
                (url, attachments),
                "{scopes:?}"
            );
        };
        check(&["a.io/x", "a.io"], "https://x", false);
        check(&["a.io/y", "a.io"], "https://a", false);
        check(&["b.io"], "https://default", true);
        let none = RegistriesD::load(&dir.path().join("none")).unwrap();
        assert_eq!(none.lookaside(&["a.io".to_owned()]), DEFAULT_LOOKASIDE);
    }

    #[test]
    fn what_is_said_twice_or_misspelt_is_refused() {
        let check = |texts: &[&str], why: &str| {
            let dir = tempfile::tempdir().unwrap();
            for (number, text) in texts.iter().enumerate() {
                std::fs::write(dir.path().join(format!("{number}.yaml")), text).unwrap();
            }
            let error = RegistriesD::load(dir.path()).unwrap_err();
            let text = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(text.contains(why), "{texts:?}: {text}");
        };
        check(&["docker: {a.io: {lookaside: x}}", "docker: {a.io: {sigstore: x}}"], "a.io is said");
        check(&["default-docker: {}", "default-docker: {}"], "default-docker is said");
        check(&["docker: {a.io: {lookasde: x}}"], "lookasde");
        check(&["dockr: {}"], "dockr");
        check(&["["], "0.yaml is not what");
    }
}
