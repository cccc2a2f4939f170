//! `policy.json`: which images may be used at all, and on whose word.
//!
//! The format is containers/image's (containers-policy.json.5). Today `insecureAcceptAnything` and
//! `reject` are decided; what asks for a signature is refused, never passed over.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::reference::Reference;

/// A policy is written by hand.
const MAX_BYTES: u64 = 4 << 20;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    default: Vec<Requirement>,
    /// Transport (`docker`, `oci`, `docker-archive`, …), then scope.
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Requirement {
    #[serde(rename = "type")]
    kind: String,
}

/// The policy said no, or nothing that can be understood.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    #[error("the policy rejects {image} (by its entry for {scope})")]
    Rejected { image: String, scope: String },
    #[error(
        "the policy wants {image} to be {kind} (by its entry for {scope}), and berth can't check signatures yet"
    )]
    Unsupported { image: String, scope: String, kind: String },
    #[error("without a policy that can be read nothing is allowed")]
    Unreadable(#[source] Arc<Invalid>),
}

/// The file can't be used; then nothing may be pulled.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("reading the policy {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the policy {} is not what containers-policy.json(5) describes", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("the policy {} has no requirement for {scope}; say insecureAcceptAnything or reject", path.display())]
    Empty { path: PathBuf, scope: String },
}

impl Policy {
    /// Reads the file. A node without one accepts everything, as the README says.
    pub fn load(path: &Path) -> Result<Policy, Invalid> {
        let read = |source| Invalid::Read { path: path.to_owned(), source };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Policy::accept()),
            Err(error) => return Err(read(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(read)?;
        let json = |source| Invalid::Json { path: path.to_owned(), source };
        let policy: Policy = serde_json::from_slice(&bytes).map_err(json)?;
        let empty = policy.scopes().find(|(_, requirements)| requirements.is_empty()).map(|(scope, _)| scope);
        match empty {
            Some(scope) => Err(Invalid::Empty { path: path.to_owned(), scope }),
            None => Ok(policy),
        }
    }

    /// The same for those who want to know only whether they may go on.
    pub(crate) fn in_force(path: &Path) -> Result<Policy, Refusal> {
        Policy::load(path).map_err(|invalid| Refusal::Unreadable(Arc::new(invalid)))
    }

    /// Accepts everything.
    pub fn accept() -> Policy {
        let anything = Requirement { kind: "insecureAcceptAnything".to_owned() };
        Policy { default: vec![anything], transports: BTreeMap::new() }
    }

    /// Whether an image from a registry may be used.
    pub fn check(&self, reference: &Reference) -> Result<(), Refusal> {
        self.judge("docker", &scopes(reference), &reference.to_string())
    }

    /// Whether an image out of a file may be used. `transport` is `oci`, `oci-archive`, `docker-archive`.
    pub fn check_file(&self, transport: &str, path: &Path) -> Result<(), Refusal> {
        let text = path.to_string_lossy();
        self.judge(transport, &[text.to_string()], &format!("{transport}:{text}"))
    }

    /// The first scope that the file names decides; all of its requirements must be met.
    fn judge(&self, transport: &str, scopes: &[String], image: &str) -> Result<(), Refusal> {
        let named = self.transports.get(transport);
        let found = named.and_then(|named| {
            let scopes = scopes.iter().map(String::as_str).chain([""]);
            scopes.filter_map(|scope| Some((scope, named.get(scope)?))).next()
        });
        let (scope, requirements) = match found {
            Some(("", requirements)) => (format!("transport {transport}"), requirements),
            Some((scope, requirements)) => (scope.to_owned(), requirements),
            None => ("everything".to_owned(), &self.default),
        };
        for requirement in requirements {
            let image = image.to_owned();
            match requirement.kind.as_str() {
                "insecureAcceptAnything" => {}
                "reject" => return Err(Refusal::Rejected { image, scope }),
                kind => return Err(Refusal::Unsupported { image, scope, kind: kind.to_owned() }),
            }
        }
        Ok(())
    }

    fn scopes(&self) -> impl Iterator<Item = (String, &Vec<Requirement>)> {
        let named = self.transports.iter().flat_map(|(transport, scopes)| {
            scopes.iter().map(move |(scope, requirements)| (format!("{transport} {scope}"), requirements))
        });
        std::iter::once(("default".to_owned(), &self.default)).chain(named)
    }
}

/// The scopes of a reference from the narrowest to the widest: itself, its repository, each namespace,
/// the host, and `*.` with each of the host's own domains.
fn scopes(reference: &Reference) -> Vec<String> {
    let mut scopes = vec![reference.to_string(), reference.repository()];
    let mut rest = reference.repository();
    while let Some(slash) = rest.rfind('/') {
        rest.truncate(slash);
        scopes.push(rest.clone());
    }
    let mut domain = reference.domain();
    while let Some((_, parent)) = domain.split_once('.') {
        scopes.push(format!("*.{parent}"));
        domain = parent;
    }
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"{
        "default": [{"type": "reject"}],
        "transports": {"docker": {
            "registry.example.com": [{"type": "insecureAcceptAnything"}],
            "registry.example.com/secret": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
            "registry.example.com/secret/open:1": [{"type": "insecureAcceptAnything"}],
            "*.example.org": [{"type": "insecureAcceptAnything"}]
        }}
    }"#;

    fn check(policy: &str, reference: &str, answer: &str) {
        let policy: Policy = serde_json::from_str(policy).unwrap();
        let verdict = policy.check(&Reference::parse(reference).unwrap());
        let text = verdict.err().map_or("yes".to_owned(), |refusal| refusal.to_string());
        assert!(text.contains(answer), "{reference}: {text}");
    }

    #[test]
    fn the_narrowest_scope_decides() {
        check(POLICY, "registry.example.com/a/b:1", "yes");
        check(POLICY, "registry.example.com/secret/b:1", "signedBy");
        check(POLICY, "registry.example.com/secret/open:1", "yes");
        check(POLICY, "registry.example.com/secret/open:2", "can't check signatures yet");
        check(POLICY, "a.b.example.org/x", "yes");
        check(POLICY, "example.org/x", "rejects");
        check(POLICY, "busybox", "by its entry for everything");
    }

    #[test]
    fn the_transports_own_default_comes_before_the_default() {
        let policy = r#"{"default": [{"type": "reject"}],
            "transports": {"docker": {"": [{"type": "insecureAcceptAnything"}]}}}"#;
        check(policy, "busybox", "yes");
    }

    #[test]
    fn every_requirement_must_be_met() {
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}, {"type": "reject"}]}"#;
        check(policy, "busybox", "rejects");
    }

    #[test]
    fn a_file_that_is_there_must_be_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        assert_eq!(Policy::load(&path).unwrap(), Policy::accept());
        for bad in ["", "{}", r#"{"default": []}"#, r#"{"default": [{"type": "reject"}], "defualt": []}"#] {
            std::fs::write(&path, bad).unwrap();
            assert!(Policy::load(&path).is_err(), "{bad}");
        }
    }
}
