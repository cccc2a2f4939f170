//! From what a policy says to keys and certificates in hand. Files are read whenever an image is judged, so
//! a changed key needs no restart.

use std::io;
use std::path::{Path, PathBuf};

use super::certificate::{self, Authorities};
use super::key::{BadKey, PublicKey};
use super::openpgp::Keyring;
use super::requirement::{Keys, Signer, Sigstore};
use super::sigstore::{Signers, Trusted};
use crate::bounded;

/// Keyrings of whole distributions are smaller.
const MAX_KEY_BYTES: u64 = 4 << 20;

/// What the policy names as keys is none.
#[derive(Debug, thiserror::Error)]
pub enum BadKeys {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{what} is no key of the kind that is wanted: {why}")]
    Kind { what: String, why: String },
}

pub(super) fn read(wanted: &Sigstore) -> Result<Trusted, BadKeys> {
    let signer = match &wanted.signer {
        Signer::Keys(keys) => Signers::Keys(public_keys(keys)?),
        Signer::Fulcio { roots, issuer, email } => Signers::Fulcio {
            authorities: Authorities { roots: certificates(roots)?, intermediates: Vec::new() },
            issuer: issuer.clone(),
            email: email.clone(),
        },
        Signer::Pki { roots, intermediates, email, hostname } => {
            let intermediates = intermediates.as_ref().map_or(Ok(Vec::new()), certificates)?;
            Signers::Pki {
                authorities: Authorities { roots: certificates(roots)?, intermediates },
                email: email.clone(),
                hostname: hostname.clone(),
            }
        }
    };
    let rekor = wanted.rekor.as_ref().map(public_keys).transpose()?;
    Ok(Trusted { signer, rekor, identity: wanted.identity.clone() })
}

fn public_keys(keys: &Keys) -> Result<Vec<PublicKey>, BadKeys> {
    let read = |(what, bytes): (String, Vec<u8>)| {
        PublicKey::from_pem(&bytes).map_err(|bad: BadKey| BadKeys::Kind { what, why: bad.to_string() })
    };
    contents(keys)?.into_iter().map(read).collect()
}

/// All keys of all files: any of them will do.
pub(super) fn keyrings(keys: &Keys) -> Result<Keyring, BadKeys> {
    let why = || "it holds no OpenPGP key, or is damaged".to_owned();
    let read = |(what, bytes): (String, Vec<u8>)| {
        Keyring::read(&bytes).ok_or_else(|| BadKeys::Kind { what, why: why() })
    };
    let rings: Vec<Keyring> = contents(keys)?.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(Keyring::join(rings))
}

fn certificates(keys: &Keys) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, BadKeys> {
    let mut all = Vec::new();
    for (what, bytes) in contents(keys)? {
        let why = || "it is no PEM file with certificates".to_owned();
        all.extend(certificate::read_pem(&bytes).ok_or_else(|| BadKeys::Kind { what, why: why() })?);
    }
    Ok(all)
}

/// Each with what it is called in errors.
pub(super) fn contents(keys: &Keys) -> Result<Vec<(String, Vec<u8>)>, BadKeys> {
    match keys {
        Keys::Files(files) => {
            files.iter().map(|path| Ok((path.display().to_string(), content(path)?))).collect()
        }
        Keys::Given(given) => {
            Ok(given.iter().map(|bytes| ("the key in the policy itself".to_owned(), bytes.clone())).collect())
        }
    }
}

fn content(path: &Path) -> Result<Vec<u8>, BadKeys> {
    let failed = |source| BadKeys::Read { path: path.to_owned(), source };
    bounded::read(path, MAX_KEY_BYTES).map_err(failed)
}
