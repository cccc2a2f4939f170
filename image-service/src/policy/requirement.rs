//! What a policy can ask of an image, as containers-policy.json(5) writes it. Reading only: nothing is decided.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::identity::SignedIdentity;
use super::json::{Field, Fields, Flaw};

/// One entry of a scope's list; an image must meet all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Requirement {
    Anything,
    Reject,
    SignedBy {
        keys: Keys,
        identity: SignedIdentity,
    },
    Sigstore(Sigstore),
    /// Has a name in the format and no meaning in any implementation; refuses, as containers/image does.
    BaseLayer,
}

/// Whose sigstore signatures count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sigstore {
    pub(crate) signer: Signer,
    /// Keys of transparency logs, one of which must have signed an entry of the signature.
    pub(crate) rekor: Option<Keys>,
    pub(crate) identity: SignedIdentity,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signer {
    Keys(Keys),
    Fulcio { roots: Keys, issuer: String, email: String },
    Pki { roots: Keys, intermediates: Option<Keys>, email: Option<String>, hostname: Option<String> },
}

/// Where keys or certificates come from. Any of them will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keys {
    Files(Vec<PathBuf>),
    Given(Vec<Vec<u8>>),
}

impl Requirement {
    pub(crate) fn read(field: Field) -> Result<Requirement, Flaw> {
        let mut fields = field.fields()?;
        let kind = fields.want("type")?;
        let at = kind.at.clone();
        let read = match kind.text()?.as_str() {
            "insecureAcceptAnything" => Requirement::Anything,
            "reject" => Requirement::Reject,
            "signedBy" => signed_by(&mut fields)?,
            "sigstoreSigned" => Requirement::Sigstore(sigstore(&mut fields)?),
            "signedBaseLayer" => {
                SignedIdentity::read(fields.want("baseLayerIdentity")?)?;
                Requirement::BaseLayer
            }
            other => {
                let known = "insecureAcceptAnything, reject, signedBy, sigstoreSigned and signedBaseLayer";
                return Err(Flaw::new(&at, format!("{other:?} is not known; {known} are")));
            }
        };
        fields.finish()?;
        Ok(read)
    }

    /// What it is called in the file.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Requirement::Anything => "insecureAcceptAnything",
            Requirement::Reject => "reject",
            Requirement::SignedBy { .. } => "signedBy",
            Requirement::Sigstore(_) => "sigstoreSigned",
            Requirement::BaseLayer => "signedBaseLayer",
        }
    }
}

fn signed_by(fields: &mut Fields) -> Result<Requirement, Flaw> {
    let key_type = fields.want("keyType")?;
    let at = key_type.at.clone();
    match key_type.text()?.as_str() {
        "GPGKeys" => {}
        other => return Err(Flaw::new(&at, format!("{other:?} is not known; GPGKeys is"))),
    }
    let keys = one_of(fields, &["keyPath", "keyPaths", "keyData"])?;
    Ok(Requirement::SignedBy { keys, identity: identity(fields)? })
}

fn sigstore(fields: &mut Fields) -> Result<Sigstore, Flaw> {
    let keys = some_of(fields, &["keyPath", "keyPaths", "keyData", "keyDatas"])?;
    let fulcio = fields.take("fulcio").map(fulcio).transpose()?;
    let pki = fields.take("pki").map(pki).transpose()?;
    let mut signers: Vec<Signer> = keys.map(Signer::Keys).into_iter().chain(fulcio).chain(pki).collect();
    let signer = match (signers.pop(), signers.is_empty()) {
        (Some(only), true) => only,
        _ => {
            let why = "exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki is wanted";
            return Err(Flaw::new(&fields.at, why));
        }
    };
    let rekor = ["rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas"];
    let rekor = some_of(fields, &rekor)?;
    match (&signer, &rekor) {
        // Without the log's word nobody knows that the short-lived certificate was valid at the time.
        (Signer::Fulcio { .. }, None) => {
            Err(Flaw::new(&fields.at, "fulcio needs a rekorPublicKeyPath or another of its kind"))
        }
        (Signer::Pki { .. }, Some(_)) => {
            Err(Flaw::new(&fields.at, "pki and rekorPublicKey… don't go together"))
        }
        _ => Ok(Sigstore { signer, rekor, identity: identity(fields)? }),
    }
}

fn fulcio(field: Field) -> Result<Signer, Flaw> {
    let mut fields = field.fields()?;
    let roots = one_of(&mut fields, &["caPath", "caData"])?;
    let issuer = filled(fields.want("oidcIssuer")?)?;
    let email = filled(fields.want("subjectEmail")?)?;
    fields.finish()?;
    Ok(Signer::Fulcio { roots, issuer, email })
}

fn pki(field: Field) -> Result<Signer, Flaw> {
    let mut fields = field.fields()?;
    let roots = one_of(&mut fields, &["caRootsPath", "caRootsData"])?;
    let intermediates = some_of(&mut fields, &["caIntermediatesPath", "caIntermediatesData"])?;
    let email = fields.take("subjectEmail").map(filled).transpose()?;
    let hostname = fields.take("subjectHostname").map(filled).transpose()?;
    if email.is_none() && hostname.is_none() {
        return Err(Flaw::new(&fields.at, "subjectEmail, subjectHostname or both are wanted"));
    }
    fields.finish()?;
    Ok(Signer::Pki { roots, intermediates, email, hostname })
}

fn filled(field: Field) -> Result<String, Flaw> {
    let at = field.at.clone();
    let text = field.text()?;
    if text.is_empty() { Err(Flaw::new(&at, "it is empty")) } else { Ok(text) }
}

fn identity(fields: &mut Fields) -> Result<SignedIdentity, Flaw> {
    fields.take("signedIdentity").map_or(Ok(SignedIdentity::MatchRepoDigestOrExact), SignedIdentity::read)
}

fn one_of(fields: &mut Fields, names: &[&str]) -> Result<Keys, Flaw> {
    let wanted = || Flaw::new(&fields.at, format!("exactly one of {} is wanted", names.join(", ")));
    let wanted = wanted();
    some_of(fields, names)?.ok_or(wanted)
}

/// At most one of these; the last letters of its name say what it holds.
fn some_of(fields: &mut Fields, names: &[&str]) -> Result<Option<Keys>, Flaw> {
    let mut found = names.iter().filter_map(|name| Some((*name, fields.take(name)?)));
    let (first, second) = (found.next(), found.next());
    drop(found);
    if second.is_some() {
        return Err(Flaw::new(&fields.at, format!("only one of {} may be there", names.join(", "))));
    }
    let Some((name, field)) = first else { return Ok(None) };
    let keys = if name.ends_with("Paths") {
        Keys::Files(field.texts()?.into_iter().map(PathBuf::from).collect())
    } else if name.ends_with("Path") {
        Keys::Files(vec![filled(field)?.into()])
    } else if name.ends_with("Datas") {
        Keys::Given(field.list()?.into_iter().map(data).collect::<Result<_, _>>()?)
    } else {
        Keys::Given(vec![data(field)?])
    };
    match &keys {
        Keys::Given(given) if given.is_empty() => Err(Flaw::new(&fields.at, format!("{name} is empty"))),
        _ => Ok(Some(keys)),
    }
}

/// Bytes in base64.
pub(super) fn data(field: Field) -> Result<Vec<u8>, Flaw> {
    let at = field.at.clone();
    BASE64.decode(filled(field)?).map_err(|error| Flaw::new(&at, format!("it is not base64: {error}")))
}
