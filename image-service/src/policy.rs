//! `policy.json`: which images may be used at all, and on whose word.
//!
//! The format is containers/image's (containers-policy.json(5)), and so is its strictness: what is not
//! known in the file makes all of it void, and then nothing is pulled or run. An image is judged between reading
//! its manifest and fetching anything else of it; the manifest that was judged is the one that is stored. It is
//! judged again, by the policy of the day, whenever a container is made of it (`images/judge`).

mod certificate;
mod demand;
pub(crate) mod der;
mod gather;
mod identity;
mod json;
mod key;
mod lookaside;
mod openpgp;
mod payload;
mod refusal;
mod registries_d;
mod rekor;
mod requirement;
mod ruling;
mod scope;
mod sigstore;
mod trusted;
mod unfit;
mod verdict;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use self::json::Field;
use self::requirement::Requirement;
use self::ruling::Ruling;
use self::scope::{check_scope, file_scopes, scopes};
use crate::bounded;
use crate::reference::Reference;

pub(crate) use self::demand::{Demand, Manifest};
pub use self::json::Flaw;
pub use self::refusal::{Invalid, Refusal};
pub use self::registries_d::BadRegistriesD;
pub use self::trusted::BadKeys;
pub use self::unfit::Unfit;
pub(crate) use self::verdict::Verdict;

/// A policy is written by hand.
const MAX_BYTES: u64 = 4 << 20;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    default: Vec<Requirement>,
    /// Transport (`docker`, `oci`, `docker-archive`, …), then scope.
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

impl Policy {
    /// Reads the file. A node without one accepts everything, as the README says.
    pub fn load(path: &Path) -> Result<Policy, Invalid> {
        let read = |source| Invalid::Read { path: path.to_owned(), source };
        let bytes = match bounded::read(path, MAX_BYTES) {
            Ok(bytes) => bytes,
            // A link that leads nowhere was meant to be a policy.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
                return Ok(Policy::accept());
            }
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

    /// Whether nothing needs to be asked of any image from a registry.
    pub(crate) fn accepts_all(&self) -> bool {
        let scopes = self.transports.get("docker").into_iter().flat_map(BTreeMap::values);
        let mut lists = scopes.chain([&self.default]);
        lists.all(|list| list.iter().all(|requirement| *requirement == Requirement::Anything))
    }

    /// Whether an image from a registry is refused whatever signatures it has; asked before the registry is.
    pub fn check(&self, reference: &Reference) -> Result<(), Refusal> {
        self.ruling(reference).check_plain()
    }

    /// Which kinds of signature the image must have.
    pub fn wanted(&self, reference: &Reference) -> Vec<&'static str> {
        let ruling = self.ruling(reference);
        ruling.signatures().into_iter().map(Requirement::kind).collect()
    }

    /// Whether an image out of a file may be used. `transport` is `oci`, `oci-archive`, `docker-archive`; `tag` is
    /// what the image is called in there.
    pub fn check_file(&self, transport: &str, path: &Path, tag: Option<&str>) -> Result<(), Refusal> {
        let text = path.to_string_lossy();
        let ruling = self.judge(transport, &file_scopes(transport, path, tag), format!("{transport}:{text}"));
        ruling.check_without_signatures("archives and layouts carry none")
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
    _ = ring.open(bytes, ruling::now()).map_err(|bad| bad.to_string());
    _ = lookaside::Stored::read(bytes.to_vec()).map_err(|flaw| flaw.to_string());
    let subject = payload::Subject { name: None, manifest: b"manifest" };
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

#[cfg(test)]
mod tests;
