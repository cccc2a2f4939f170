//! `policy.json`: which images may be used at all, and on whose word.
//!
//! The format is containers/image's (containers-policy.json(5)), and so is its strictness: what is not
//! known in the file makes all of it void, and then nothing is pulled. An image is judged between reading
//! its manifest and fetching anything else of it; the manifest that was judged is the one that is stored.

mod certificate;
pub(crate) mod der;
mod gather;
mod identity;
mod json;
mod key;
mod lookaside;
mod openpgp;
mod payload;
mod registries_d;
mod rekor;
mod requirement;
mod sigstore;
mod trusted;
mod unfit;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::UnixTime;

use self::gather::{Gathered, Wanted};
use self::identity::Name;
use self::json::Field;
use self::payload::{ATOMIC, Subject};
use self::registries_d::RegistriesD;
use self::requirement::Requirement;
use crate::bounded;
use crate::error::Error;
use crate::reference::Reference;
use crate::registry::{Repository, Resolved};

pub use self::json::Flaw;
pub use self::registries_d::BadRegistriesD;
pub use self::trusted::BadKeys;
pub use self::unfit::Unfit;

/// A policy is written by hand.
const MAX_BYTES: u64 = 4 << 20;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    default: Vec<Requirement>,
    /// Transport (`docker`, `oci`, `docker-archive`, …), then scope.
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

/// The policy said no, or nothing that can be understood.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    #[error("the policy rejects {image} (by its entry for {scope})")]
    Rejected { image: String, scope: String },
    #[error(
        "the policy wants {image} to be {kind} (by its entry for {scope}), which no tool can check; ask for sigstoreSigned"
    )]
    Unsupported { image: String, scope: String, kind: String },
    #[error(
        "the policy wants {image} to be {kind} (by its entry for {scope}), and there is no such signature: {looked}"
    )]
    Unsigned { image: String, scope: String, kind: String, looked: String },
    #[error(
        "the policy wants {image} to be {kind} (by its entry for {scope}), and no signature does: {}",
        listed(found)
    )]
    Untrusted { image: String, scope: String, kind: String, found: Vec<(String, Unfit)> },
    #[error("the policy wants {image} to be {kind} (by its entry for {scope}), and its keys can't be used")]
    Keys { image: String, scope: String, kind: String, source: Arc<BadKeys> },
    #[error("the policy wants {image} to be signed, and where its signatures lie can't be read")]
    Registries { image: String, source: Arc<BadRegistriesD> },
    #[error("without a policy that can be read nothing is allowed")]
    Unreadable(#[source] Arc<Invalid>),
}

fn listed(found: &[(String, Unfit)]) -> String {
    /// The rest is more of the same.
    const TOLD: usize = 8;
    let told = found.iter().take(TOLD).map(|(origin, unfit)| format!("{origin}: {unfit}"));
    let mut text = told.collect::<Vec<_>>().join("; ");
    if found.len() > TOLD {
        text.push_str(&format!("; and {} more", found.len() - TOLD));
    }
    text
}

/// The file can't be used; then nothing may be pulled.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("reading the policy {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the policy {} is not what containers-policy.json(5) describes", path.display())]
    Json { path: PathBuf, source: Flaw },
}

/// What the file says of one image.
struct Ruling<'a> {
    image: String,
    scope: String,
    requirements: &'a [Requirement],
}

impl Policy {
    /// Reads the file. A node without one accepts everything, as the README says.
    pub fn load(path: &Path) -> Result<Policy, Invalid> {
        let read = |source| Invalid::Read { path: path.to_owned(), source };
        let bytes = match bounded::read(path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Policy::accept()),
            Err(error) => return Err(read(error)),
        };
        Policy::parse(&bytes).map_err(|source| Invalid::Json { path: path.to_owned(), source })
    }

    /// Reads the text of a policy; keys that it names by path are read when an image asks for them.
    pub fn parse(text: &[u8]) -> Result<Policy, Flaw> {
        let mut fields = Field::parse(text)?.fields()?;
        let default = requirements(fields.want("default")?)?;
        let mut transports = BTreeMap::new();
        if let Some(named) = fields.take("transports") {
            for (transport, scopes) in named.fields()?.rest() {
                let scopes = scopes.fields()?.rest().into_iter();
                let read = scopes.map(|(scope, list)| {
                    check_scope(&transport, &scope, &list.at)?;
                    Ok((scope, requirements(list)?))
                });
                let read = read.collect::<Result<_, Flaw>>()?;
                transports.insert(transport, read);
            }
        }
        fields.finish()?;
        Ok(Policy { default, transports })
    }

    /// The same for those who want to know only whether they may go on.
    pub(crate) fn in_force(path: &Path) -> Result<Policy, Refusal> {
        Policy::load(path).map_err(|invalid| Refusal::Unreadable(Arc::new(invalid)))
    }

    /// Accepts everything.
    pub fn accept() -> Policy {
        Policy { default: vec![Requirement::Anything], transports: BTreeMap::new() }
    }

    /// Whether an image from a registry is refused whatever signatures it has; asked before the registry is.
    pub fn check(&self, reference: &Reference) -> Result<(), Refusal> {
        self.ruling(reference).check_plain()
    }

    /// Which kinds of signature the image must have.
    pub fn wanted(&self, reference: &Reference) -> Vec<&'static str> {
        let ruling = self.ruling(reference);
        let signed = ruling.requirements.iter().filter(|requirement| **requirement != Requirement::Anything);
        signed.map(Requirement::kind).collect()
    }

    /// Whether an image out of a file may be used. `transport` is `oci`, `oci-archive`, `docker-archive`; `tag` is
    /// what the image is called in there.
    pub fn check_file(&self, transport: &str, path: &Path, tag: Option<&str>) -> Result<(), Refusal> {
        let text = path.to_string_lossy();
        let ruling = self.judge(transport, &file_scopes(transport, path, tag), format!("{transport}:{text}"));
        ruling.check_plain()?;
        match ruling.requirements.iter().find(|requirement| **requirement != Requirement::Anything) {
            None => Ok(()),
            Some(requirement) => {
                Err(ruling.unsigned(requirement, "archives and layouts carry none".to_owned()))
            }
        }
    }

    /// Whether the image that was found for the reference bears the signatures that it must. For an image
    /// out of an index that is the instance for this platform, as with containers/image. `registries_d` says
    /// where signatures lie.
    pub(crate) async fn verify(
        &self,
        reference: &Reference,
        repository: &Repository,
        resolved: &Resolved,
        registries_d: &Path,
    ) -> Result<(), Error> {
        let ruling = self.ruling(reference);
        ruling.check_plain().map_err(Error::Policy)?;
        let signed = |requirement: &&Requirement| **requirement != Requirement::Anything;
        let asked: Vec<&Requirement> = ruling.requirements.iter().filter(signed).collect();
        let (false, Some(manifest)) = (asked.is_empty(), resolved.documents.last()) else { return Ok(()) };
        let config = RegistriesD::load(registries_d).map_err(|bad| {
            Error::Policy(Refusal::Registries { image: ruling.image.clone(), source: Arc::new(bad) })
        })?;
        let scopes = scopes(reference);
        let wanted = Wanted {
            image: &manifest.digest,
            lookaside: config.lookaside(&scopes),
            simple: asked.iter().any(|asked| matches!(asked, Requirement::SignedBy { .. })),
            attachments: config.use_attachments(&scopes)
                && asked.iter().any(|asked| matches!(asked, Requirement::Sigstore(_))),
        };
        // Boxed: most pulls ask for none, and all would carry its state along.
        let gathered = Box::pin(gather::signatures(repository, reference, &wanted)).await?;
        let name = Name::of(reference);
        let subject = Subject { name: Some(&name), manifest: &manifest.bytes };
        let judge = |requirement| ruling.signed(requirement, &gathered, &subject).map_err(Error::Policy);
        asked.into_iter().try_for_each(judge)
    }

    fn ruling(&self, reference: &Reference) -> Ruling<'_> {
        self.judge("docker", &scopes(reference), reference.to_string())
    }

    /// The first scope that the file names decides; all of its requirements must be met.
    fn judge(&self, transport: &str, scopes: &[String], image: String) -> Ruling<'_> {
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
        Ruling { image, scope, requirements }
    }
}

impl Ruling<'_> {
    /// What needs no look at signatures.
    fn check_plain(&self) -> Result<(), Refusal> {
        let (image, scope) = (self.image.clone(), self.scope.clone());
        for requirement in self.requirements {
            match requirement {
                Requirement::Anything | Requirement::Sigstore(_) | Requirement::SignedBy { .. } => {}
                Requirement::Reject => return Err(Refusal::Rejected { image, scope }),
                Requirement::BaseLayer => {
                    return Err(Refusal::Unsupported { image, scope, kind: requirement.kind().to_owned() });
                }
            }
        }
        Ok(())
    }

    /// One good signature is enough for a requirement.
    fn signed(
        &self,
        requirement: &Requirement,
        gathered: &Gathered,
        subject: &Subject<'_>,
    ) -> Result<(), Refusal> {
        let checked = match requirement {
            Requirement::Anything | Requirement::Reject | Requirement::BaseLayer => {
                return self.check_plain();
            }
            Requirement::Sigstore(wanted) => {
                let trusted = trusted::read(wanted).map_err(|bad| self.keys(requirement, bad))?;
                let check = |found: &sigstore::Attachment| trusted.check(found, subject, UnixTime::now());
                first_good(&gathered.attachments, check)
            }
            Requirement::SignedBy { keys, identity } => {
                let rings = trusted::keyrings(keys).map_err(|bad| self.keys(requirement, bad))?;
                first_good(&gathered.simple, |message: &Vec<u8>| {
                    let payload =
                        rings.open(message, now()).map_err(|bad| Unfit::OpenPgp(bad.to_string()))?;
                    payload::check(&payload, ATOMIC, identity, subject)
                })
            }
        };
        let Some(unfit) = checked else { return Ok(()) };
        if unfit.is_empty() {
            return Err(self.unsigned(requirement, gathered.looked()));
        }
        let (image, scope, kind) = self.told(requirement);
        Err(Refusal::Untrusted { image, scope, kind, found: unfit })
    }

    fn unsigned(&self, requirement: &Requirement, looked: String) -> Refusal {
        let (image, scope, kind) = self.told(requirement);
        Refusal::Unsigned { image, scope, kind, looked }
    }

    fn keys(&self, requirement: &Requirement, bad: BadKeys) -> Refusal {
        let (image, scope, kind) = self.told(requirement);
        Refusal::Keys { image, scope, kind, source: Arc::new(bad) }
    }

    fn told(&self, requirement: &Requirement) -> (String, String, String) {
        (self.image.clone(), self.scope.clone(), requirement.kind().to_owned())
    }
}

/// None when one of them is good, else why each is not.
fn first_good<T>(
    found: &[(String, T)],
    check: impl Fn(&T) -> Result<(), Unfit>,
) -> Option<Vec<(String, Unfit)>> {
    let mut unfit = Vec::new();
    for (origin, signature) in found {
        match check(signature) {
            Ok(()) => return None,
            Err(why) => unfit.push((origin.clone(), why)),
        }
    }
    Some(unfit)
}

/// In seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn requirements(field: Field) -> Result<Vec<Requirement>, Flaw> {
    let at = field.at.clone();
    let list: Vec<_> = field.list()?.into_iter().map(Requirement::read).collect::<Result<_, _>>()?;
    match list.is_empty() {
        true => Err(Flaw::new(&at, "the list is empty; say insecureAcceptAnything or reject")),
        false => Ok(list),
    }
}

/// Everything that is read of signatures, for fuzzing: nothing that is not signed may come out.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_signature(bytes: &[u8]) {
    use self::openpgp::Keyring;
    use self::payload::COSIGN;
    let ring = Keyring::read(bytes).unwrap_or_else(|| Keyring::join(Vec::new()));
    _ = ring.open(bytes, now()).map_err(|bad| bad.to_string());
    _ = lookaside::Stored::read(bytes.to_vec()).map_err(|flaw| flaw.to_string());
    let subject = Subject { name: None, manifest: b"manifest" };
    let identity = identity::SignedIdentity::MatchRepository;
    assert!(
        payload::check(bytes, COSIGN, &identity, &subject).is_err(),
        "an image without a name has none to match"
    );
    if let Ok(text) = std::str::from_utf8(bytes) {
        let signer = rekor::SignedWith::Key(bytes);
        let entered = rekor::Entered { payload: bytes, signature: bytes, signer };
        assert!(rekor::entered_at(text, &[], &entered).is_err(), "no log is trusted");
    }
    certificate::read_anything(bytes);
}

/// The scopes of a reference from the narrowest to the widest: itself, its repository, each namespace,
/// the host, and `*.` with each of the host's own domains, where a port is no part of them.
fn scopes(reference: &Reference) -> Vec<String> {
    let repository = reference.repository();
    let mut scopes = vec![reference.to_string()];
    // What has both a tag and a digest is pulled by digest alone.
    scopes.extend(reference.digest().map(|digest| format!("{repository}@{digest}")));
    scopes.push(repository.clone());
    let mut rest = repository;
    while let Some(slash) = rest.rfind('/') {
        rest.truncate(slash);
        scopes.push(rest.clone());
    }
    let mut domain = reference.domain().split(':').next().unwrap_or_default();
    while let Some((_, parent)) = domain.split_once('.') {
        scopes.push(format!("*.{parent}"));
        domain = parent;
    }
    scopes
}

/// The scopes of a layout: the image in it by its tag, itself, and the directories above it, where the root has
/// none. The path is the real one, since the policy's must be. A docker archive has but its transport's.
fn file_scopes(transport: &str, path: &Path, tag: Option<&str>) -> Vec<String> {
    if transport == "docker-archive" {
        return Vec::new();
    }
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let tagged = tag.map(|tag| format!("{}:{tag}", text(&real)));
    let above = real.ancestors().filter(|path| path.parent().is_some());
    tagged.into_iter().chain(above.map(text)).collect()
}

/// A scope that can match nothing was meant to be another (containers-policy.json(5), "dir:" and "oci:").
fn check_scope(transport: &str, scope: &str, at: &str) -> Result<(), Flaw> {
    if scope.is_empty() || !matches!(transport, "oci" | "oci-archive" | "dir") {
        return Ok(());
    }
    let parts: Vec<&str> = scope.split('/').collect();
    let clean = parts.len() > 1 && parts[0].is_empty();
    if clean && parts[1..].iter().all(|part| !matches!(*part, "" | "." | "..")) {
        return Ok(());
    }
    let why = "a path is wanted here that is absolute, is not / and has neither // nor . nor .. in it";
    Err(Flaw::new(at, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"{
        "default": [{"type": "reject"}],
        "transports": {"docker": {
            "registry.example.com": [{"type": "insecureAcceptAnything"}],
            "registry.example.com/secret": [{"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}],
            "registry.example.com/secret/open:1": [{"type": "insecureAcceptAnything"}],
            "*.example.org": [{"type": "insecureAcceptAnything"}]
        }}
    }"#;

    fn check(policy: &str, reference: &str, answer: &str) {
        let policy = Policy::parse(policy.as_bytes()).unwrap();
        let verdict = policy.check(&Reference::parse(reference).unwrap());
        let text = verdict.err().map_or("yes".to_owned(), |refusal| refusal.to_string());
        assert!(text.contains(answer), "{reference}: {text}");
    }

    #[test]
    fn the_narrowest_scope_decides() {
        check(POLICY, "registry.example.com/a/b:1", "yes");
        check(POLICY, "registry.example.com/secret/b:1", "signedBaseLayer");
        check(POLICY, "registry.example.com/secret/open:1", "yes");
        check(POLICY, "registry.example.com/secret/open:2", "which no tool can check");
        check(POLICY, "a.b.example.org/x", "yes");
        check(POLICY, "a.example.org:5000/x", "yes");
        check(POLICY, "example.org/x", "rejects");
        check(POLICY, "busybox", "by its entry for everything");
    }

    #[test]
    fn a_file_is_judged_by_its_tag_its_path_and_those_above() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(real.join("a/b")).unwrap();
        std::os::unix::fs::symlink(real.join("a/b"), real.join("link")).unwrap();
        let real = real.to_str().unwrap();
        let text = format!(
            r#"{{"default": [{{"type": "insecureAcceptAnything"}}], "transports": {{
            "oci": {{"{real}/a": [{{"type": "reject"}}], "{real}/a/b:good": [{{"type": "insecureAcceptAnything"}}]}},
            "docker-archive": {{"": [{{"type": "reject"}}], "{real}/a": [{{"type": "insecureAcceptAnything"}}]}}}}}}"#
        );
        let policy = Policy::parse(text.as_bytes()).unwrap();
        let check = |transport: &str, path: &str, tag: Option<&str>, answer: bool| {
            let verdict = policy.check_file(transport, &Path::new(real).join(path), tag);
            assert_eq!(verdict.is_ok(), answer, "{transport} {path} {tag:?}: {verdict:?}");
        };
        check("oci", "a/b", None, false);
        check("oci", "a/b", Some("good"), true);
        check("oci", "a/b", Some("bad"), false);
        check("oci", "link", Some("bad"), false);
        check("oci", "link", Some("good"), true);
        check("oci", "ab", None, true);
        check("oci-archive", "a/b", None, true);
        check("docker-archive", "a/b", None, false);
        for scope in ["/", "relative", "/a/", "/a//b", "/a/../b", "/./a"] {
            let text = format!(
                r#"{{"default": [{{"type": "reject"}}], "transports": {{"oci": {{"{scope}": [{{"type": "reject"}}]}}}}}}"#
            );
            let flaw = Policy::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(flaw.contains("a path is wanted here"), "{scope}: {flaw}");
        }
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
    #[test]
    fn what_is_not_known_is_refused_with_its_place() {
        let check = |requirement: &str, why: &str| {
            let text = format!(
                r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"a.io": [{requirement}]}}}}}}"#
            );
            let flaw = Policy::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(
                flaw.contains(r#"transports["docker"]["a.io"][0]"#) && flaw.contains(why),
                "{requirement}: {flaw}"
            );
        };
        check(r#"{"type": "reject", "x": 1}"#, "[0].x: this key is not known");
        check(r#"{"type": "signedByAll"}"#, "[0].type: \"signedByAll\" is not known");
        check(r#"{}"#, "\"type\" is missing");
        check(r#"[]"#, "an object is wanted");
        check(r#"{"type": "signedBy", "keyType": "GPGKeys"}"#, "exactly one of keyPath");
        check(r#"{"type": "signedBy", "keyType": "X", "keyPath": "/k"}"#, "[0].keyType: ");
        check(r#"{"type": "signedBy", "keyPath": "/k"}"#, "\"keyType\" is missing");
        let sigstore = |rest: &str, why: &str| check(&format!(r#"{{"type": "sigstoreSigned"{rest}}}"#), why);
        sigstore("", "exactly one of keyPath");
        sigstore(r#", "keyPath": "/k", "keyData": "eA==""#, "only one of keyPath");
        sigstore(r#", "keyPath": """#, "[0].keyPath: it is empty");
        sigstore(r#", "keyPaths": []"#, "[0].keyPaths: the list is empty");
        sigstore(r#", "keyDatas": []"#, "keyDatas is empty");
        sigstore(r#", "keyDatas": ["eA==", "?"]"#, "[0].keyDatas[1]: it is not base64");
        sigstore(
            r#", "keyPath": "/k", "rekorPublicKeyPath": "/k", "rekorPublicKeyData": "eA==""#,
            "only one of rekor",
        );
        sigstore(r#", "keyPath": "/k", "signedIdentity": {"type": "x"}"#, "[0].signedIdentity.type: ");
        let fulcio = r#""fulcio": {"caPath": "/k", "oidcIssuer": "i", "subjectEmail": "e"}"#;
        sigstore(&format!(", {fulcio}"), "fulcio needs");
        sigstore(&format!(r#", "keyPath": "/k", {fulcio}"#), "exactly one of keyPath");
        sigstore(r#", "fulcio": {"caPath": "/k", "oidcIssuer": "i"}"#, "\"subjectEmail\" is missing");
        sigstore(r#", "pki": {"caRootsPath": "/k"}"#, "subjectEmail, subjectHostname");
        sigstore(
            r#", "pki": {"caRootsPath": "/k", "subjectEmail": "e"}, "rekorPublicKeyPath": "/k""#,
            "don't go together",
        );
        for bad in [
            r#"{"default": [{"type": "reject"}], "default": [{"type": "reject"}]}"#,
            "[]",
            "{",
            r#"{"default": 1}"#,
        ] {
            assert!(Policy::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
