//! TLS of the streaming server, and of metrics: the certificate, its key, and whose clients may come.
//!
//! The files are looked at for every connection and read again when they have changed, so a renewed
//! certificate needs no restart. While a new one cannot be used, the last good one goes on serving.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Where the PEM files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate, followed by its chain.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate of one of these authorities. None: anyone with a token may come.
    pub client_authorities: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{} has no certificate", path.display())]
    Empty { path: PathBuf },
    #[error("{} and {} do not make a server", certificate.display(), key.display())]
    Unusable { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("the authorities of {}", path.display())]
    Authorities { path: PathBuf, source: rustls::server::VerifierBuilderError },
}

/// What a connection is met with.
pub(crate) struct Tls {
    files: Files,
    current: Mutex<(Vec<Option<SystemTime>>, TlsAcceptor)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// # Errors
    /// When a file is missing, is not PEM, or certificate and key do not belong together.
    pub(crate) fn load(files: Files) -> Result<Tls, Error> {
        let current = Mutex::new((files.changed_at(), files.acceptor()?));
        Ok(Tls { files, current })
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed_at = self.files.changed_at();
        if current.0 != changed_at {
            match self.files.acceptor() {
                Ok(acceptor) => current.1 = acceptor,
                Err(error) => {
                    let error = crate::error::chain(&error);
                    tracing::warn!(error, "the new certificate of a server; the last one stays");
                }
            }
            // Also for a bad one: it is told once, not with every connection.
            current.0 = changed_at;
        }
        current.1.clone()
    }
}

impl Files {
    fn changed_at(&self) -> Vec<Option<SystemTime>> {
        let all = [Some(&self.certificate), Some(&self.key), self.client_authorities.as_ref()];
        let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|data| data.modified()).ok();
        all.into_iter().flatten().map(modified).collect()
    }

    fn acceptor(&self) -> Result<TlsAcceptor, Error> {
        let unusable =
            |source| Error::Unusable { certificate: self.certificate.clone(), key: self.key.clone(), source };
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|source| Error::Read { path: self.key.clone(), source })?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &self.client_authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(authorities(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|source| Error::Authorities { path: path.clone(), source })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder.with_single_cert(certificates(&self.certificate)?, key).map_err(unusable)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(path)?);
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = |source| Error::Read { path: path.to_path_buf(), source };
    let all: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<_, _>>().map_err(read)?;
    if all.is_empty() { Err(Error::Empty { path: path.to_path_buf() }) } else { Ok(all) }
}
