//! Signatures as cosign makes and attaches them, checked against what `sigstoreSigned` asks for.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate::{self, Authorities};
use super::identity::SignedIdentity;
use super::key::PublicKey;
use super::payload::{self, COSIGN, Subject};
use super::rekor::{self, Entered, SignedWith};
use super::unfit::Unfit;

const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const BUNDLE: &str = "dev.sigstore.cosign/bundle";

/// One signature as it was found; nothing of it is believed yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attachment {
    pub(crate) payload: Vec<u8>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// A requirement with its keys and certificates read.
#[derive(Debug, Clone)]
pub(super) struct Trusted {
    pub(super) signer: Signers,
    /// None: no log is asked for.
    pub(super) rekor: Option<Vec<PublicKey>>,
    pub(super) identity: SignedIdentity,
}

#[derive(Debug, Clone)]
pub(super) enum Signers {
    Keys(Vec<PublicKey>),
    Fulcio { authorities: Authorities, issuer: String, email: String },
    Pki { authorities: Authorities, email: Option<String>, hostname: Option<String> },
}

impl Trusted {
    pub(super) fn check(
        &self,
        attachment: &Attachment,
        subject: &Subject<'_>,
        now: UnixTime,
    ) -> Result<(), Unfit> {
        let text =
            attachment.annotations.get(SIGNATURE).ok_or(Unfit::Not("it has no signature annotation"))?;
        let signature = BASE64.decode(text).map_err(|_| Unfit::Not("its signature is not base64"))?;
        let payload = &attachment.payload;
        match &self.signer {
            Signers::Keys(keys) => {
                let key = keys.iter().find(|key| key.signed(payload, &signature)).ok_or(Unfit::Key)?;
                if let Some(logs) = &self.rekor {
                    let entered =
                        Entered { payload, signature: &signature, signer: SignedWith::Key(&key.spki) };
                    rekor::entered_at(attachment.bundle()?, logs, &entered)?;
                }
            }
            Signers::Fulcio { authorities, issuer, email } => {
                let (leaf, chain) = attachment.certificates()?;
                let entered =
                    Entered { payload, signature: &signature, signer: SignedWith::Certificate(&leaf) };
                let logs = self.rekor.as_deref().unwrap_or_default();
                // The certificate lives for minutes: it must have been valid when the log took the signature.
                let at = certificate::time(rekor::entered_at(attachment.bundle()?, logs, &entered)?);
                let signer = certificate::Signer::verify(&leaf, &chain, authorities, at)?;
                signer.check_issuer(issuer)?;
                signer.check_email(email)?;
                made_by(&signer, payload, &signature)?;
            }
            Signers::Pki { authorities, email, hostname } => {
                let (leaf, chain) = attachment.certificates()?;
                let signer = certificate::Signer::verify(&leaf, &chain, authorities, now)?;
                email.as_deref().map_or(Ok(()), |email| signer.check_email(email))?;
                hostname.as_deref().map_or(Ok(()), |hostname| signer.check_hostname(hostname))?;
                made_by(&signer, payload, &signature)?;
            }
        }
        payload::check(payload, COSIGN, &self.identity, subject)
    }
}

fn made_by(signer: &certificate::Signer<'_>, payload: &[u8], signature: &[u8]) -> Result<(), Unfit> {
    let key = signer.key().ok_or(Unfit::Not("its certificate's kind of key is not known"))?;
    if key.signed(payload, signature) { Ok(()) } else { Err(Unfit::Key) }
}

impl Attachment {
    fn bundle(&self) -> Result<&str, Unfit> {
        let bundle = self.annotations.get(BUNDLE);
        bundle.map(String::as_str).ok_or(Unfit::Rekor("the signature has none"))
    }

    /// The signer's certificate, and what may lie between it and a root.
    fn certificates(&self) -> Result<(CertificateDer<'static>, Vec<CertificateDer<'static>>), Unfit> {
        let leaf = self.annotations.get(CERTIFICATE).ok_or(Unfit::Not("it has no certificate"))?;
        let leaf = certificate::read_pem(leaf.as_bytes());
        let Some([leaf]) = leaf.as_deref() else { return Err(Unfit::Not("its certificate can't be read")) };
        let chain = self.annotations.get(CHAIN).filter(|chain| !chain.is_empty());
        let chain = chain.map(|chain| certificate::read_pem(chain.as_bytes()));
        let chain = chain.unwrap_or(Some(Vec::new())).ok_or(Unfit::Not("its chain can't be read"))?;
        Ok((leaf.clone(), chain))
    }
}
