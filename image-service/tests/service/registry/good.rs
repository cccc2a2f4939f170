//! Pulls from a registry that does everything right.

use super::*;
use crate::support::docker_registry::DockerRegistry;
use crate::support::fake::{Fake, Manner, Reply};
use crate::support::picture::{DOCKER_LIST, OCI_INDEX, Picture, noise};

#[tokio::test]
async fn oci_and_docker_images_come_by_tag_and_by_digest() {
    let dir = tempfile::tempdir().unwrap();
    let server = DockerRegistry::start(&dir.path().join("storage"), "", "");
    let layer = noise(300_000);
    let images = [
        ("oci", Picture::oci(&layer)),
        ("docker", Picture::docker(&layer)),
        ("index", Picture::oci(&layer).indexed(OCI_INDEX, "linux/amd64")),
        ("list", Picture::docker(&layer).indexed(DOCKER_LIST, "linux/amd64")),
        ("nested", Picture::oci(&layer).indexed(OCI_INDEX, "linux/amd64").indexed(OCI_INDEX, "linux/amd64")),
    ];
    let registry = client(&[&server.host()]);
    for (name, picture) in images {
        server_has(&dir, &server, name, &picture);
        for selector in [":v1".to_owned(), format!("@{}", picture.top), format!(":v1@{}", picture.top)] {
            let reference = format!("{}/team/{name}{selector}", server.host());
            let pulled =
                pull(&registry, &reference, None).await.unwrap_or_else(|e| panic!("{reference}: {e}"));
            assert_eq!(*pulled.resolved.digest(), picture.top, "{reference}");
            assert_eq!(pulled.resolved.documents.len(), picture.manifests.len(), "{reference}");
            assert!(pulled.config.starts_with(b"{\"os\""));
            assert!(pulled.layer == layer, "{reference}: other bytes");
        }
    }
}

/// docker-registry refuses an index that names what it doesn't hold; its storage takes anything.
fn server_has(dir: &tempfile::TempDir, server: &DockerRegistry, name: &str, picture: &Picture) {
    let repository = format!("team/{name}");
    let mut plain = picture.clone();
    let whole: Vec<_> = plain.manifests.keys().cloned().collect();
    plain.manifests.retain(|_, (media_type, _)| media_type.contains("manifest.v"));
    plain.top = plain.manifests.keys().next().unwrap().clone();
    server.push(&repository, "v1", &plain);
    let base = dir.path().join("storage/docker/registry/v2");
    for digest in whole {
        let (_, bytes) = &picture.manifests[&digest];
        let hex = digest.hex();
        let blob = base.join(format!("blobs/sha256/{}/{hex}", &hex[..2]));
        let revision = base.join(format!("repositories/{repository}/_manifests/revisions/sha256/{hex}"));
        for path in [&blob, &revision] {
            std::fs::create_dir_all(path).unwrap();
        }
        std::fs::write(blob.join("data"), bytes).unwrap();
        std::fs::write(revision.join("link"), digest.as_str()).unwrap();
    }
    let tag = base.join(format!("repositories/{repository}/_manifests/tags/v1/current/link"));
    std::fs::write(tag, picture.top.as_str()).unwrap();
}

#[tokio::test]
async fn a_blob_is_resumed_at_any_offset() {
    let dir = tempfile::tempdir().unwrap();
    let server = DockerRegistry::start(&dir.path().join("storage"), "", "");
    let picture = Picture::oci(&noise(100_000));
    server.push("a/b", "v1", &picture);
    let registry = client(&[&server.host()]);
    let repository = repository(&registry, &format!("{}/a/b:v1", server.host()), None);
    for offset in [0, 1, 50_000, 99_999, 100_000] {
        let bytes = fetch(&repository, &picture.layer, offset).await.unwrap();
        assert!(bytes == noise(100_000)[offset as usize..], "from {offset}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let server = DockerRegistry::start(&dir.path().join("storage"), "", "");
    let picture = Picture::oci(b"layer");
    server.push("a/b", "v1", &picture);
    let registry = client(&[&server.host()]);
    for name in ["a/b:v2", "a/c:v1", &format!("a/b@{}", image_service::digest::Digest::sha256(b"x"))] {
        let error = pull(&registry, &format!("{}/{name}", server.host()), None).await.unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{name}: {error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(&server.host()), "{text}");
    }
    let repository = repository(&registry, &format!("{}/a/b:v1", server.host()), None);
    let gone = Descriptor::new("x", image_service::digest::Digest::sha256(b"gone"), 4);
    assert!(matches!(repository.blob(&gone, 0).await.unwrap_err(), Error::NotFound(_)));
}

#[tokio::test]
async fn connections_are_used_again() {
    let picture = Picture::oci(&noise(200_000));
    let served = picture.clone();
    let server = Fake::start(move |seen| served.answer(seen));
    let registry = client(&[&server.host()]);
    for _ in 0..3 {
        pull(&registry, &format!("{}/a:1", server.host()), None).await.unwrap();
    }
    // Nine requests, and one handshake that a server without TLS could not answer.
    assert_eq!(server.paths().iter().filter(|path| path.starts_with("/v2/")).count(), 9);
    assert!(server.connections() <= 3, "{} connections", server.connections());
}

#[tokio::test]
async fn a_server_without_lengths_or_ranges_will_do() {
    let picture = Picture::oci(&noise(50_000));
    let served = picture.clone();
    let server = Fake::start(move |seen| {
        let whole = served.blobs.iter().find(|(digest, _)| seen.path.ends_with(digest.as_str()));
        match whole {
            Some((_, bytes)) => Reply::new(200, bytes.clone()).manner(Manner::Chunked),
            None => served.answer(seen).manner(Manner::Chunked),
        }
    });
    let registry = client(&[&server.host()]);
    let reference = format!("{}/a:1", server.host());
    assert!(pull(&registry, &reference, None).await.unwrap().layer == noise(50_000));
    let repository = repository(&registry, &reference, None);
    let bytes = fetch(&repository, &picture.layer, 20_000).await.unwrap();
    assert!(bytes == noise(50_000)[20_000..]);
}

#[tokio::test]
async fn a_proxy_is_asked_for_all_but_the_loopback() {
    let picture = Picture::oci(b"layer");
    let served = picture.clone();
    let proxy = Fake::start(
        move |seen| {
            if seen.method == "CONNECT" { Reply::new(502, "") } else { served.answer(seen) }
        },
    );
    let mut settings = settings(&insecure_conf(&["far.test", "no.test", &proxy.host()]));
    let address = format!("http://{}", proxy.host());
    settings.proxies = Proxies::Given { http: address.clone(), https: address, no: "no.test".to_owned() };
    let registry = Registry::new(settings);
    pull(&registry, "far.test/a:1", None).await.unwrap();
    let paths = proxy.paths();
    assert!(paths.iter().any(|path| path == "far.test:443"), "{paths:?}");
    assert!(paths.iter().any(|path| path == "http://far.test/v2/a/manifests/1"), "{paths:?}");
    assert!(matches!(pull(&registry, "no.test/a:1", None).await.unwrap_err(), Error::Unavailable(_)));
    pull(&registry, &format!("{}/a:1", proxy.host()), None).await.unwrap();
    assert!(proxy.paths().iter().any(|path| path == "/v2/a/manifests/1"));
}
