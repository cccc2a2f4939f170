//! Which of several client certificates is shown to a server that wants one: the first by an authority that the
//! server knows, as Go's crypto/tls chooses and so containers/image.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use webpki::EndEntityCert;

/// A chain and the key of its first certificate.
pub(super) type Key = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

#[derive(Debug)]
pub(super) struct ClientKeys(Vec<Arc<CertifiedKey>>);

impl ClientKeys {
    /// One pair that can't be used spoils all: who put it there would miss it only when it is needed.
    pub(super) fn of(keys: Vec<Key>, provider: &CryptoProvider) -> Result<ClientKeys, rustls::Error> {
        let read = |(chain, key)| CertifiedKey::from_der(chain, key, provider).map(Arc::new);
        keys.into_iter().map(read).collect::<Result<_, _>>().map(ClientKeys)
    }
}

impl ResolvesClientCert for ClientKeys {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = || self.0.iter().filter(|key| key.key.choose_scheme(schemes).is_some());
        // Where none is by them the server may still know better than its list.
        usable().find(|key| is_by(key, authorities)).or_else(|| usable().next()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

fn is_by(key: &CertifiedKey, authorities: &[&[u8]]) -> bool {
    // The names come with the tag and the length of their SEQUENCE, which the issuer is without.
    let known = |issuer: &[u8]| authorities.iter().any(|name| name.ends_with(issuer));
    let by_known =
        |cert: &CertificateDer<'static>| EndEntityCert::try_from(cert).is_ok_and(|cert| known(cert.issuer()));
    key.cert.iter().any(by_known)
}
