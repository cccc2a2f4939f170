//! Sessions over TLS: who may come, and what a renewed certificate does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;
use crate::stream::TlsFiles;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes `NAME.crt` and `NAME.key`.
    fn sign(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &self.0).unwrap();
        let (certificate_file, key_file) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        std::fs::write(&certificate_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (certificate_file, key_file)
    }

    fn client(&self, identity: Option<&(PathBuf, PathBuf)>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

struct Secure {
    node: Node,
    authority: Authority,
    dir: tempfile::TempDir,
}

impl Secure {
    async fn new(clients: Option<&Authority>) -> Secure {
        let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
        let (certificate, key) = authority.sign(dir.path(), "server");
        let client_authorities = clients.map(|clients| {
            let file = dir.path().join("clients.crt");
            std::fs::write(&file, clients.0.pem()).unwrap();
            file
        });
        let files = TlsFiles { certificate, key, client_authorities };
        Secure { node: Node::over(Some(files)).await, authority, dir }
    }

    /// What the client reads after asking for a shell's output, or why it got nothing.
    async fn ask(&self, client: &TlsConnector) -> Result<String, String> {
        let url = self.node.exec(&["echo", "hello"], With::default());
        let rest = url.strip_prefix("https://").expect("TLS has URLs of its own");
        let (address, path) = rest.split_once('/').unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = client.connect(name, stream).await.map_err(|error| error.to_string())?;
        let mut request = format!("ws://{address}/{path}").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "v4.channel.k8s.io".parse().unwrap());
        let (mut socket, _) =
            tokio_tungstenite::client_async(request, stream).await.map_err(|error| error.to_string())?;
        let mut text = String::new();
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(data) = message
                && data.first() == Some(&1)
            {
                text.push_str(std::str::from_utf8(&data[1..]).unwrap());
            }
        }
        Ok(text)
    }
}

#[tokio::test]
async fn an_exec_runs_over_tls_and_not_for_who_trusts_another_authority() {
    let secure = Secure::new(None).await;
    assert_eq!(secure.ask(&secure.authority.client(None)).await.unwrap(), "hello\n");
    let refused = secure.ask(&Authority::new().client(None)).await.unwrap_err();
    assert!(refused.contains("invalid peer certificate"), "{refused}");
}

#[tokio::test]
async fn who_lacks_the_certificate_that_is_asked_for_is_turned_away() {
    let clients = Authority::new();
    let secure = Secure::new(Some(&clients)).await;
    let ours = clients.sign(secure.dir.path(), "kubelet");
    assert_eq!(secure.ask(&secure.authority.client(Some(&ours))).await.unwrap(), "hello\n");
    secure.ask(&secure.authority.client(None)).await.expect_err("no certificate");
    let strange = Authority::new().sign(secure.dir.path(), "stranger");
    secure.ask(&secure.authority.client(Some(&strange))).await.expect_err("another authority's");
}

#[tokio::test]
async fn a_renewed_certificate_serves_at_once_and_a_broken_one_never() {
    let secure = Secure::new(None).await;
    let server = secure.dir.path().join("server.crt");
    let good = std::fs::read(&server).unwrap();
    std::fs::write(&server, "not a certificate").unwrap();
    assert_eq!(secure.ask(&secure.authority.client(None)).await.unwrap(), "hello\n", "the last good one");
    std::fs::write(&server, good).unwrap();
    let next = Authority::new();
    next.sign(secure.dir.path(), "server");
    assert_eq!(secure.ask(&next.client(None)).await.unwrap(), "hello\n");
    secure.ask(&secure.authority.client(None)).await.expect_err("signed by the next authority");
}

#[tokio::test]
async fn a_server_without_its_key_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = Authority::new().sign(dir.path(), "server");
    std::fs::remove_file(&key).unwrap();
    let tls = Some(TlsFiles { certificate, key: key.clone(), client_authorities: None });
    let error = Streams::serve(Settings { tls, ..Settings::default() }).await.unwrap_err();
    assert!(crate::error::chain(&error).contains(&key.display().to_string()), "{error}");
}
