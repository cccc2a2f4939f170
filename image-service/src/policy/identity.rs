//! `signedIdentity`: which name a signature must have been made for. Pure.

use super::json::{Field, Flaw};
use crate::reference::Reference;

/// containers-policy.json(5), `signedIdentity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SignedIdentity {
    MatchExact,
    MatchRepoDigestOrExact,
    MatchRepository,
    ExactReference(Name),
    ExactRepository(Name),
    Remap { prefix: String, signed_prefix: String },
}

/// A name as a signature has it: unlike a reference to be pulled it may have neither tag nor digest, and
/// then none is implied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    repository: String,
    /// With its separator; empty for a bare repository.
    rest: String,
}

impl Name {
    pub(crate) fn parse(text: &str) -> Option<Name> {
        let reference = Reference::parse(text).ok()?;
        let last = text.rsplit('/').next().unwrap_or_default();
        let repository = reference.repository();
        let rest = if last.contains([':', '@']) {
            reference.to_string().strip_prefix(&repository)?.to_owned()
        } else {
            String::new()
        };
        Some(Name { repository, rest })
    }

    /// What is pulled. With a digest the tag decides nothing, so it isn't part of the identity.
    pub(crate) fn of(reference: &Reference) -> Name {
        let rest = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => format!("@{digest}"),
            (None, tag) => format!(":{}", tag.unwrap_or("latest")),
        };
        Name { repository: reference.repository(), rest }
    }

    fn is_bare(&self) -> bool {
        self.rest.is_empty()
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}{}", self.repository, self.rest)
    }
}

impl SignedIdentity {
    pub(crate) fn read(field: Field) -> Result<SignedIdentity, Flaw> {
        let mut fields = field.fields()?;
        let kind = fields.want("type")?;
        let at = kind.at.clone();
        let read = match kind.text()?.as_str() {
            "matchExact" => SignedIdentity::MatchExact,
            "matchRepoDigestOrExact" => SignedIdentity::MatchRepoDigestOrExact,
            "matchRepository" => SignedIdentity::MatchRepository,
            "exactReference" => SignedIdentity::ExactReference(name(fields.want("dockerReference")?, false)?),
            "exactRepository" => {
                SignedIdentity::ExactRepository(name(fields.want("dockerRepository")?, true)?)
            }
            "remapIdentity" => SignedIdentity::Remap {
                prefix: prefix(fields.want("prefix")?)?,
                signed_prefix: prefix(fields.want("signedPrefix")?)?,
            },
            other => return Err(Flaw::new(&at, format!("{other:?} is no kind of signedIdentity"))),
        };
        fields.finish()?;
        Ok(read)
    }

    /// All that it says, the same words for the same meaning.
    pub(super) fn words(&self) -> Vec<String> {
        let kind = |kind: &str| kind.to_owned();
        match self {
            SignedIdentity::MatchExact => vec![kind("matchExact")],
            SignedIdentity::MatchRepoDigestOrExact => vec![kind("matchRepoDigestOrExact")],
            SignedIdentity::MatchRepository => vec![kind("matchRepository")],
            SignedIdentity::ExactReference(name) => vec![kind("exactReference"), name.to_string()],
            SignedIdentity::ExactRepository(name) => vec![kind("exactRepository"), name.to_string()],
            SignedIdentity::Remap { prefix, signed_prefix } => {
                vec![kind("remapIdentity"), prefix.clone(), signed_prefix.clone()]
            }
        }
    }

    /// Whether a signature for `signed` is one for the image `wanted`. None: an image without a name.
    pub(crate) fn accepts(&self, wanted: Option<&Name>, signed: &str) -> bool {
        let Some(signed) = Name::parse(signed) else { return false };
        match (self, wanted) {
            (SignedIdentity::ExactReference(name), _) => !signed.is_bare() && signed == *name,
            (SignedIdentity::ExactRepository(name), _) => signed.repository == name.repository,
            (_, None) => false,
            (SignedIdentity::MatchExact, Some(wanted)) => !signed.is_bare() && signed == *wanted,
            (SignedIdentity::MatchRepository, Some(wanted)) => signed.repository == wanted.repository,
            (SignedIdentity::MatchRepoDigestOrExact, Some(wanted)) => exact_unless_digest(wanted, &signed),
            (SignedIdentity::Remap { prefix, signed_prefix }, Some(wanted)) => {
                remapped(wanted, prefix, signed_prefix)
                    .is_some_and(|wanted| exact_unless_digest(&wanted, &signed))
            }
        }
    }
}

fn exact_unless_digest(wanted: &Name, signed: &Name) -> bool {
    match wanted.rest.starts_with('@') {
        _ if signed.is_bare() => false,
        true => signed.repository == wanted.repository,
        false => signed == wanted,
    }
}

/// The name under which it was signed: `prefix` is a host, a namespace or a repository, never a part of one.
fn remapped(wanted: &Name, prefix: &str, signed_prefix: &str) -> Option<Name> {
    match wanted.repository.strip_prefix(prefix) {
        Some(left) if left.is_empty() || left.starts_with('/') => {
            let name = Name::parse(&format!("{signed_prefix}{left}{}", wanted.rest))?;
            // `prefix` may be a whole repository and `signedPrefix` a host alone; that is no name.
            (name.repository == format!("{signed_prefix}{left}")).then_some(name)
        }
        _ => Some(wanted.clone()),
    }
}

fn name(field: Field, bare: bool) -> Result<Name, Flaw> {
    let at = field.at.clone();
    let text = field.text()?;
    let parsed = Name::parse(&text).ok_or_else(|| Flaw::new(&at, format!("{text:?} is no image's name")))?;
    match (bare, parsed.is_bare()) {
        (true, false) => Err(Flaw::new(&at, "a repository without tag and digest is wanted")),
        (false, true) => Err(Flaw::new(&at, "a tag or a digest is wanted")),
        _ => Ok(parsed),
    }
}

fn prefix(field: Field) -> Result<String, Flaw> {
    let at = field.at.clone();
    let text = field.text()?;
    // A host alone, or something that is already written out in full.
    let whole = if text.contains('/') { text.clone() } else { format!("{text}/x") };
    match Name::parse(&whole) {
        Some(name) if name.is_bare() && name.repository == whole => Ok(text),
        // `docker.io/library` and the like: a namespace that would be taken for a repository of `library/`.
        Some(name)
            if name.is_bare()
                && Name::parse(&format!("{whole}/x"))
                    .is_some_and(|n| n.repository == format!("{whole}/x")) =>
        {
            Ok(text)
        }
        _ => Err(Flaw::new(&at, format!("{text:?} is no host, namespace or repository in full"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn read(text: &str) -> Result<SignedIdentity, Flaw> {
        SignedIdentity::read(Field::parse(text.as_bytes()).unwrap())
    }

    fn check(identity: &str, wanted: &str, signed: &str, answer: bool) {
        let wanted = wanted.replace("DIGEST", &format!("sha256:{HEX}"));
        let identity = read(identity).unwrap();
        let name = Name::of(&Reference::parse(&wanted).unwrap());
        assert_eq!(
            identity.accepts(Some(&name), signed),
            answer,
            "{identity:?}: {wanted} signed as {signed}"
        );
    }

    #[test]
    fn a_name_is_matched_as_far_as_asked() {
        let exact = r#"{"type": "matchExact"}"#;
        check(exact, "a.io/x:1", "a.io/x:1", true);
        check(exact, "a.io/x:1", "a.io/x:2", false);
        check(exact, "a.io/x:1", "a.io/x", false);
        check(exact, "a.io/x", "a.io/x", false);
        check(exact, "busybox", "docker.io/library/busybox:latest", true);
        check(exact, "a.io/x@DIGEST", "a.io/x:1", false);
        let usual = r#"{"type": "matchRepoDigestOrExact"}"#;
        check(usual, "a.io/x:1", "a.io/x:1", true);
        check(usual, "a.io/x:1", "a.io/x:2", false);
        check(usual, "a.io/x@DIGEST", "a.io/x:2", true);
        check(usual, "a.io/x:1@DIGEST", "a.io/x:2", true);
        check(usual, "a.io/x@DIGEST", "a.io/x", false);
        check(usual, "a.io/x@DIGEST", "a.io/y:2", false);
        let repository = r#"{"type": "matchRepository"}"#;
        check(repository, "a.io/x:1", "a.io/x", true);
        check(repository, "a.io/x:1", "a.io/x:2", true);
        check(repository, "a.io/x:1", "a.io/x/y:1", false);
        check(repository, "a.io/x:1", "b.io/x:1", false);
        check(repository, "a.io/x:1", "", false);
        check(repository, "a.io/x:1", "a.io/X", false);
        let reference = r#"{"type": "exactReference", "dockerReference": "b.io/y:3"}"#;
        check(reference, "a.io/x:1", "b.io/y:3", true);
        check(reference, "a.io/x:1", "a.io/x:1", false);
        check(reference, "a.io/x:1", "b.io/y", false);
        let repository = r#"{"type": "exactRepository", "dockerRepository": "b.io/y"}"#;
        check(repository, "a.io/x:1", "b.io/y:9", true);
        check(repository, "a.io/x:1", "b.io/yy:9", false);
    }

    #[test]
    fn a_prefix_is_replaced_at_its_end_only() {
        let remap =
            r#"{"type": "remapIdentity", "prefix": "mirror:5000/vendor", "signedPrefix": "vendor.io"}"#;
        check(remap, "mirror:5000/vendor/a/x:1", "vendor.io/a/x:1", true);
        check(remap, "mirror:5000/vendor/a/x:1", "vendor.io/a/x:2", false);
        check(remap, "mirror:5000/vendor/a/x:1", "mirror:5000/vendor/a/x:1", false);
        check(remap, "mirror:5000/vendorish/x:1", "vendor.ioish/x:1", false);
        check(remap, "mirror:5000/other/x:1", "mirror:5000/other/x:1", true);
        check(remap, "mirror:5000/vendor:1", "vendor.io:1", false);
        let host = r#"{"type": "remapIdentity", "prefix": "m.io", "signedPrefix": "docker.io"}"#;
        check(host, "m.io/library/busybox:1", "docker.io/library/busybox:1", true);
        check(host, "m.io:5000/library/busybox:1", "docker.io/library/busybox:1", false);
        let library = r#"{"type": "remapIdentity", "prefix": "docker.io/library", "signedPrefix": "a.io/b"}"#;
        check(library, "busybox:1", "a.io/b/busybox:1", true);
    }

    #[test]
    fn what_is_no_identity_is_refused_with_its_place() {
        let refused = |text: &str, why: &str| {
            let flaw = read(text).unwrap_err().to_string();
            assert!(flaw.contains(why), "{text}: {flaw}");
        };
        refused(r#"{}"#, "\"type\" is missing");
        refused(r#"{"type": "matchAll"}"#, "type: \"matchAll\" is no kind");
        refused(r#"{"type": "matchExact", "x": 1}"#, "x: this key is not known");
        refused(r#"{"type": "exactReference", "dockerReference": "a.io/x"}"#, "dockerReference: a tag");
        refused(
            r#"{"type": "exactRepository", "dockerRepository": "a.io/x:1"}"#,
            "dockerRepository: a repository",
        );
        refused(r#"{"type": "exactRepository", "dockerRepository": "UP"}"#, "no image's name");
        refused(r#"{"type": "remapIdentity", "prefix": "a.io/x:1", "signedPrefix": "b"}"#, "prefix: ");
        refused(r#"{"type": "remapIdentity", "prefix": "busybox/x", "signedPrefix": "b.io"}"#, "prefix: ");
        refused(r#"{"type": "remapIdentity", "prefix": "a.io"}"#, "\"signedPrefix\" is missing");
    }
}
