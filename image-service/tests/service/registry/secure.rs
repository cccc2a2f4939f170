//! TLS: who is believed, what is shown to whom, and HTTP/2.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;
use crate::support::docker_registry::DockerRegistry;
use crate::support::fake::{Fake, Reply, Seen};
use crate::support::picture::{Picture, noise};
use crate::support::tls::Authority;

fn answering(picture: &Picture) -> impl Fn(&Seen) -> Reply + Send + Sync + use<> {
    let served = picture.clone();
    move |seen| served.answer(seen)
}

fn with_certs(dir: &Path) -> Registry {
    Registry::new(Settings { certs_dirs: vec![dir.join("none"), dir.to_owned()], ..settings("") })
}

#[tokio::test]
async fn the_real_registry_over_tls_is_believed_by_certs_d_only() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, storage) = (Authority::new(), dir.path().join("storage"));
    let signed = authority.sign("127.0.0.1");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.key.serialize_pem()).unwrap();
    let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", cert.display(), key.display());
    let layer = noise(500_000);
    DockerRegistry::start(&storage, "", "").push("a/b", "v1", &Picture::oci(&layer));
    let server = DockerRegistry::start(&storage, &tls, "");
    let reference = format!("{}/a/b:v1", server.host());
    let certs = dir.path().join("certs.d");
    let error = pull(&with_certs(&certs), &reference, None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    authority.install(&certs, &server.host());
    assert!(pull(&with_certs(&certs), &reference, None).await.unwrap().layer == layer);
}

#[tokio::test]
async fn an_unknown_certificate_is_named_in_the_error() {
    let server = Fake::start_tls(Authority::new().server(&[], false), |_| Reply::new(500, ""));
    let error = pull(&client(&[]), &format!("{}/a:1", server.host()), None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)) && error.to_string().contains("UnknownIssuer"), "{error}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_its_host_alone() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let picture = Picture::oci(b"layer");
    let server = Fake::start_tls(authority.server(&[], true), answering(&picture));
    let reference = format!("{}/a:1", server.host());
    authority.install(dir.path(), &server.host());
    assert!(matches!(pull(&with_certs(dir.path()), &reference, None).await, Err(Error::Unavailable(_))));
    authority.sign("client").install_client(dir.path(), &server.host());
    pull(&with_certs(dir.path()), &reference, None).await.unwrap();
    // Another registry, believed by its own files, sends us to the first: no key is shown there.
    let target = format!("https://{}", server.host());
    let other = Fake::start_tls(authority.server(&[], false), move |seen| {
        Reply::new(307, "").header("Location", format!("{target}{}", seen.path))
    });
    authority.install(dir.path(), &other.host());
    let before = server.seen().len();
    let error = pull(&with_certs(dir.path()), &format!("{}/a:1", other.host()), None).await;
    // The target's own directory has the key, so it is shown by that, and by nothing else.
    std::fs::remove_dir_all(dir.path().join(server.host())).unwrap();
    let without = pull(&with_certs(dir.path()), &format!("{}/a:1", other.host()), None).await;
    assert!(error.is_ok() && server.seen().len() > before);
    assert!(matches!(without, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn of_several_client_certificates_the_server_s_own_kind_is_shown() {
    let (authority, picture) = (Authority::new(), Picture::oci(b"layer"));
    let server = Fake::start_tls(authority.server(&[], true), answering(&picture));
    // Whichever stands first.
    for (ours, other) in [("a", "b"), ("b", "a")] {
        let dir = tempfile::tempdir().unwrap();
        authority.install(dir.path(), &server.host());
        authority.sign("client").install_client_as(dir.path(), &server.host(), ours);
        Authority::named("another").sign("client").install_client_as(dir.path(), &server.host(), other);
        pull(&with_certs(dir.path()), &format!("{}/a:1", server.host()), None).await.unwrap();
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_a_configuration_error() {
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("127.0.0.1:1");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("client.cert"), "").unwrap();
    let error = pull(&with_certs(dir.path()), "127.0.0.1:1/a:1", None).await.unwrap_err();
    assert!(matches!(error, Error::Configuration(_)) && error.to_string().contains("client.cert"), "{error}");
    std::fs::write(host.join("client.key"), "no pem").unwrap();
    let error = pull(&with_certs(dir.path()), "127.0.0.1:1/a:1", None).await.unwrap_err();
    assert!(matches!(error, Error::Configuration(_)) && error.to_string().contains("not PEM"), "{error}");
}

#[tokio::test]
async fn a_redirect_never_leads_from_https_to_http() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let plain = Fake::start(|_| Reply::new(200, "{}"));
    let target = format!("http://{}/x", plain.host());
    let server = Fake::start_tls(authority.server(&[], false), move |_| {
        Reply::new(302, "").header("Location", target.clone())
    });
    authority.install(dir.path(), &server.host());
    let error = pull(&with_certs(dir.path()), &format!("{}/a:1", server.host()), None).await.unwrap_err();
    assert!(error.to_string().contains("from https to http"), "{error}");
    assert!(plain.seen().is_empty());
}

#[tokio::test]
async fn http2_is_spoken_where_it_is_offered() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let layer = noise(3_000_000);
    let picture = Arc::new(Picture::oci(&layer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let acceptor = tokio_rustls::TlsAcceptor::from(authority.server(&["h2"], false));
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(stream).await.unwrap();
            let picture = picture.clone();
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                assert_eq!(request.version(), hyper::Version::HTTP_2);
                let name = request.uri().path().rsplit_once('/').unwrap().1.to_owned();
                let blob = picture.blobs.iter().find(|(digest, _)| digest.as_str() == name);
                let body = blob.map_or(&picture.manifests[&picture.top].1, |(_, bytes)| bytes);
                let answer = hyper::Response::new(Full::new(Bytes::from(body.clone())));
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    authority.install(dir.path(), &host);
    assert!(pull(&with_certs(dir.path()), &format!("{host}/a:1"), None).await.unwrap().layer == layer);
    serving.abort();
}
