//! Mirrors: who is asked, in which order, and what becomes of their failures.

use std::net::TcpListener;

use super::*;
use crate::support::fake::{Fake, Manner, Reply};
use crate::support::picture::{Picture, noise};

fn serving(picture: &Picture) -> Fake {
    let served = picture.clone();
    Fake::start(move |seen| served.answer(seen))
}

/// A configuration that puts mirrors, all insecure, before registry.test, which leads to `primary`.
fn conf(mirrors: &[&str], primary: &str) -> String {
    let mut text = format!("[[registry]]\nprefix='registry.test'\nlocation='{primary}'\ninsecure=true\n");
    for mirror in mirrors {
        text.push_str(&format!("[[registry.mirror]]\nlocation='{mirror}'\ninsecure=true\n"));
    }
    text
}

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn the_first_mirror_that_has_it_serves_it() {
    let picture = Picture::oci(b"layer");
    let (empty, full, primary) = (Fake::start(|_| Reply::new(404, "")), serving(&picture), serving(&picture));
    let mirrors = [free_port(), empty.host(), format!("{}/cache/x", full.host())];
    let mirrors: Vec<&str> = mirrors.iter().map(String::as_str).collect();
    let registry = Registry::new(settings(&conf(&mirrors, &primary.host())));
    pull(&registry, "registry.test/team/app:1", None).await.unwrap();
    assert_eq!(empty.paths(), ["/v2/team/app/manifests/1"]);
    assert_eq!(full.paths()[0], "/v2/cache/x/team/app/manifests/1");
    assert_eq!(full.paths().len(), 3);
    assert!(primary.paths().is_empty());
}

#[tokio::test]
async fn when_all_fail_each_cause_is_told() {
    let (empty, broken) = (Fake::start(|_| Reply::new(404, "")), Fake::start(|_| Reply::new(500, "")));
    let primary = free_port();
    let registry = Registry::new(settings(&conf(&[&empty.host(), &broken.host()], &primary)));
    let error = pull(&registry, "registry.test/app:1", None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("fetching registry.test/app:1: "), "{text}");
    assert!(text.contains(&format!("{}: it is not there", empty.host())), "{text}");
    assert!(text.contains(&format!("{}: the server answered 500", broken.host())), "{text}");
    assert!(text.contains(&format!("{primary}: connecting")) && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn a_mirror_that_lies_is_passed_over() {
    let picture = Picture::oci(b"layer");
    let liar = Fake::start(|_| Reply::new(200, r#"{"schemaVersion":2,"manifests":[]}"#));
    let primary = serving(&picture);
    let registry = Registry::new(settings(&conf(&[&liar.host()], &primary.host())));
    pull(&registry, &format!("registry.test/app@{}", picture.top), None).await.unwrap();
}

#[tokio::test]
async fn a_blob_that_one_endpoint_lacks_or_drops_comes_from_another() {
    let layer = noise(50_000);
    let picture = Picture::oci(&layer);
    let (partial, primary) = (picture.clone(), serving(&picture));
    let digest = picture.layer.digest.to_string();
    let mirror = Fake::start(move |seen| {
        let reply = partial.answer(seen);
        match seen.offset() {
            0 if seen.path.ends_with(&digest) => reply.manner(Manner::Cut(10_000)),
            0 => reply,
            _ => Reply::new(404, ""),
        }
    });
    let registry = Registry::new(settings(&conf(&[&mirror.host()], &primary.host())));
    assert!(pull(&registry, "registry.test/app:1", None).await.unwrap().layer == layer);
    let seen = primary.seen();
    assert_eq!((seen.len(), seen[0].offset()), (1, 10_000));
}

#[tokio::test]
async fn who_gave_wrong_bytes_is_asked_last() {
    let picture = Picture::oci(&noise(1000));
    let (spoiled, primary) = (picture.clone(), serving(&picture));
    let mirror = Fake::start(move |seen| {
        let whole = spoiled.blobs.iter().find(|(digest, _)| seen.path.ends_with(digest.as_str()));
        whole.map_or_else(|| spoiled.answer(seen), |(_, bytes)| Reply::new(200, vec![b'x'; bytes.len()]))
    });
    let registry = Registry::new(settings(&conf(&[&mirror.host()], &primary.host())));
    let repository = repository(&registry, "registry.test/app:1", None);
    let resolved = repository.resolve(&amd64()).await.unwrap();
    // The configuration is verified within: the mirror's is thrown away, and the registry's taken.
    assert!(repository.config(&resolved.manifest.config).await.unwrap().starts_with(b"{\"os\""));
    assert!(fetch(&repository, &picture.layer, 0).await.unwrap() == noise(1000));
    assert_eq!(mirror.paths().iter().filter(|path| path.contains("blobs")).count(), 1);
    // When the last is caught too there is nobody left.
    assert!(!repository.distrust(&picture.layer.digest));
}

#[tokio::test]
async fn a_blocked_registry_is_never_asked() {
    let primary = serving(&Picture::oci(b"layer"));
    let text = format!("[[registry]]\nprefix='registry.test'\nlocation='{}'\nblocked=true", primary.host());
    let error = pull(&Registry::new(settings(&text)), "registry.test/app:1", None).await.unwrap_err();
    assert!(matches!(error, Error::Blocked(_)), "{error}");
    assert!(primary.seen().is_empty());
}

#[tokio::test]
async fn an_insecure_registry_is_found_by_either_scheme() {
    let picture = Picture::oci(b"layer");
    let authority = crate::support::tls::Authority::new();
    let served = picture.clone();
    let secure = Fake::start_tls(authority.server(&[], false), move |seen| served.answer(seen));
    let plain = serving(&picture);
    let registry = client(&[&secure.host(), &plain.host()]);
    pull(&registry, &format!("{}/a:1", secure.host()), None).await.unwrap();
    pull(&registry, &format!("{}/a:1", plain.host()), None).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_not_called_insecure_is_never_asked_in_the_clear() {
    let plain = serving(&Picture::oci(b"layer"));
    let error = pull(&client(&[]), &format!("{}/a:1", plain.host()), None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("insecure = true"), "{error}");
    assert!(!plain.paths().iter().any(|path| path.starts_with("/v2")), "{:?}", plain.paths());
}
