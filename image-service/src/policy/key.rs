//! Public keys as sigstore has them: PEM, one a file; signatures over SHA-256.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    AlgorithmIdentifier, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, alg_id,
};

use super::der::{BIT_STRING, Der, SEQUENCE};

/// A key that can check signatures: ECDSA on P-256 or P-384, RSA from 2048 bits, or Ed25519.
#[derive(Debug, Clone)]
pub(super) struct PublicKey {
    /// SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
    pub(super) spki: Vec<u8>,
    bits: Vec<u8>,
    algorithm: &'static dyn SignatureVerificationAlgorithm,
}

/// With SHA-256 where a choice is left, as cosign signs and containers/image verifies.
const SIGNATURES: [AlgorithmIdentifier; 3] =
    [alg_id::ECDSA_SHA256, alg_id::RSA_PKCS1_SHA256, alg_id::ED25519];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadKey {
    #[error("it is no PEM file with a PUBLIC KEY")]
    NoPem,
    #[error("it holds more than one key; keyPaths takes them from one file each")]
    Several,
    #[error("its kind of key is not known: ECDSA on P-256 or P-384, RSA and Ed25519 are")]
    Kind,
}

impl PublicKey {
    /// The only key of a PEM file (`-----BEGIN PUBLIC KEY-----`).
    pub(super) fn from_pem(pem: &[u8]) -> Result<PublicKey, BadKey> {
        let mut keys = SubjectPublicKeyInfoDer::pem_slice_iter(pem);
        let first = keys.next().ok_or(BadKey::NoPem)?.map_err(|_| BadKey::NoPem)?;
        match keys.next() {
            None => PublicKey::from_spki(&first).ok_or(BadKey::Kind),
            Some(_) => Err(BadKey::Several),
        }
    }

    pub(super) fn from_spki(spki: &[u8]) -> Option<PublicKey> {
        let mut info = Der::only(spki)?;
        let kind = info.take(SEQUENCE)?;
        let bits = info.take(BIT_STRING)?.strip_prefix(&[0])?;
        let known = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        let fits = |algorithm: &&&'static dyn SignatureVerificationAlgorithm| {
            algorithm.public_key_alg_id().as_ref() == kind
                && SIGNATURES.contains(&algorithm.signature_alg_id())
        };
        let algorithm = *known.iter().find(fits)?;
        Some(PublicKey { spki: spki.to_owned(), bits: bits.to_owned(), algorithm })
    }

    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.algorithm.verify_signature(&self.bits, message, signature).is_ok()
    }
}
