//! Certificates: the host's roots, and `certs.d/HOST[:PORT]/{*.crt, *.cert, *.key}` (containers-certs.d(5)).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::client_keys::{ClientKeys, Key};
use super::endpoint::DOCKER_API;
use crate::bounded;
use crate::registries_conf::Tls;

/// A bundle of every root there is has a quarter of this.
const MAX_FILE_BYTES: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("reading {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not PEM")]
    Pem { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{path} has no key beside it")]
    NoKey { path: PathBuf },
    #[error("{path} has no certificate beside it")]
    NoCertificate { path: PathBuf },
    #[error("a certificate of certs.d can't be used")]
    Tls(#[from] rustls::Error),
}

/// What `certs.d` has for one host.
#[derive(Debug, Default)]
pub(super) struct Identity {
    pub(super) roots: Vec<CertificateDer<'static>>,
    keys: Vec<Key>,
}

/// Docker's registry has one name in references and another where it answers. Directories under both count;
/// containers/image reads the first.
const DOCKER: [&str; 2] = ["docker.io", DOCKER_API];

/// A host is one plain name: what would be a path is nothing that a directory of hosts could have.
pub(crate) fn is_plain(host: &str) -> bool {
    !host.is_empty() && !host.starts_with('.') && !host.contains('/')
}

/// Where `certs.d` speaks of a host: under each of its names, in the first directory that has that.
pub(super) fn directories(certs_dirs: &[PathBuf], host: &str) -> Vec<PathBuf> {
    if !is_plain(host) {
        return Vec::new();
    }
    let names = if DOCKER.contains(&host) { &DOCKER[..] } else { std::slice::from_ref(&host) };
    let first = |name: &&str| certs_dirs.iter().map(|dir| dir.join(name)).find(|dir| dir.is_dir());
    names.iter().filter_map(first).collect()
}

impl Identity {
    /// What `certs.d` has for the host.
    pub(super) fn load(certs_dirs: &[PathBuf], host: &str) -> Result<Identity, Error> {
        let mut identity = Identity::default();
        for dir in directories(certs_dirs, host) {
            identity.add(&dir)?;
        }
        Ok(identity)
    }

    /// From the files that a hosts.toml names.
    pub(super) fn given(tls: &Tls) -> Result<Identity, Error> {
        let mut identity = Identity::default();
        for path in &tls.ca {
            identity.roots.extend(certificates(path)?);
        }
        for (cert, key) in &tls.client {
            identity.keys.push(pair(cert, key)?);
        }
        Ok(identity)
    }

    fn add(&mut self, dir: &Path) -> Result<(), Error> {
        for path in list(dir)? {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.roots.extend(certificates(&path)?),
                Some("cert") => {
                    let key_path = path.with_extension("key");
                    if !key_path.exists() {
                        return Err(Error::NoKey { path });
                    }
                    self.keys.push(pair(&path, &key_path)?);
                }
                Some("key") if !path.with_extension("cert").exists() => {
                    return Err(Error::NoCertificate { path });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The host's own store. A certificate that can't be read is left out, as every client does.
pub(super) fn host_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a certificate of the host's store can't be read");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

pub(super) fn verifying(host_roots: Arc<RootCertStore>, identity: Identity) -> Result<ClientConfig, Error> {
    let roots = if identity.roots.is_empty() { host_roots } else { add(&host_roots, identity.roots)? };
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    finish(builder.with_root_certificates(roots), identity.keys)
}

pub(super) fn trusting_anyone(identity: Identity) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let anyone = Arc::new(Anyone(provider()));
    finish(builder.dangerous().with_custom_certificate_verifier(anyone), identity.keys)
}

fn add(
    host_roots: &RootCertStore,
    more: Vec<CertificateDer<'static>>,
) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = host_roots.clone();
    for root in more {
        roots.add(root)?;
    }
    Ok(Arc::new(roots))
}

fn finish(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    keys: Vec<Key>,
) -> Result<ClientConfig, Error> {
    if keys.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let keys = ClientKeys::of(keys, &provider())?;
    Ok(builder.with_client_cert_resolver(Arc::new(keys)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The verifier behind `insecure = true`: the server's name and chain say nothing to it. Signatures are
/// checked all the same, so that the bytes at least come from whoever holds the key shown.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn pair(cert: &Path, key: &Path) -> Result<Key, Error> {
    let pem = |source| Error::Pem { path: key.to_owned(), source };
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(pem)?;
    Ok((certificates(cert)?, private))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(path)?;
    let pem = |source| Error::Pem { path: path.to_owned(), source };
    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(pem)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read { path: dir.to_owned(), source };
    let entries = std::fs::read_dir(dir).map_err(failed)?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    bounded::read(path, MAX_FILE_BYTES).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_s_registry_has_its_files_under_both_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("first"), dir.path().join("second")];
        let put = |place: &str| {
            let path = dir.path().join(place);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let made = rcgen::generate_simple_self_signed(["a.io".to_owned()]).unwrap();
            std::fs::write(&path, made.cert.pem()).unwrap();
            std::fs::write(path.with_extension("key"), made.signing_key.serialize_pem()).unwrap();
        };
        let found = |host: &str| {
            let identity = Identity::load(&dirs, host).unwrap();
            (identity.roots.len(), identity.keys.len())
        };
        std::fs::create_dir_all(dir.path().join("second/docker.io")).unwrap();
        let root = rcgen::generate_simple_self_signed(["ca.io".to_owned()]).unwrap().cert.pem();
        std::fs::write(dir.path().join("second/docker.io/ca.crt"), &root).unwrap();
        assert_eq!(
            (found("registry-1.docker.io"), found("docker.io"), found("a.io")),
            ((1, 0), (1, 0), (0, 0))
        );
        put("first/registry-1.docker.io/client.cert");
        put("first/registry-1.docker.io/other.cert");
        std::fs::write(dir.path().join("first/registry-1.docker.io/ca.crt"), &root).unwrap();
        assert_eq!((found("registry-1.docker.io"), found("a.io")), ((2, 2), (0, 0)));
    }
}
