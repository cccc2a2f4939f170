//! Certificates made on the spot, and where a node keeps them.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, signed by an authority.
pub(crate) struct Signed {
    pub(crate) cert: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        Authority::named("berth test authority")
    }

    pub(crate) fn named(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn sign(&self, name: &str) -> Signed {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        Signed { cert: params.signed_by(&key, &self.0).unwrap(), key }
    }

    /// Puts the authority's certificate under `certs_dir` for the host.
    pub(crate) fn install(&self, certs_dir: &Path, host: &str) {
        std::fs::create_dir_all(certs_dir.join(host)).unwrap();
        std::fs::write(certs_dir.join(host).join("ca.crt"), self.pem()).unwrap();
    }

    /// A server for 127.0.0.1; with `clients`, only for those whom this authority signed.
    pub(crate) fn server(&self, alpn: &[&str], clients: bool) -> Arc<ServerConfig> {
        self.serve(&self.sign("127.0.0.1"), alpn, clients)
    }

    /// A server for another name.
    pub(crate) fn server_of(&self, name: &str, alpn: &[&str]) -> Arc<ServerConfig> {
        self.serve(&self.sign(name), alpn, false)
    }

    fn serve(&self, signed: &Signed, alpn: &[&str], clients: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = if clients {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let chain: Vec<CertificateDer<'static>> = vec![signed.cert.der().clone()];
        let key = PrivateKeyDer::try_from(signed.key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl Signed {
    pub(crate) fn install_client(&self, certs_dir: &Path, host: &str) {
        self.install_client_as(certs_dir, host, "client");
    }

    pub(crate) fn install_client_as(&self, certs_dir: &Path, host: &str, name: &str) {
        let dir = certs_dir.join(host);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{name}.cert")), self.cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), self.key.serialize_pem()).unwrap();
    }
}
