//! What refers to an image: by the API, by the tag in its place, over pages and past mirrors.

use image_service::digest::Digest;
use image_service::manifest::Descriptor;
use serde_json::json;

use super::*;
use crate::support::fake::{Fake, Reply, Seen};
use crate::support::picture::{OCI_INDEX, OCI_MANIFEST, Picture};

const SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";

fn list(entries: &[(&str, u8)]) -> Vec<u8> {
    let entry = |(kind, n): &(&str, u8)| {
        let mut entry = Descriptor::new(OCI_MANIFEST, Digest::sha256(&[*n]), 7);
        entry.artifact_type = Some((*kind).to_owned());
        entry
    };
    let manifests: Vec<_> = entries.iter().map(entry).collect();
    serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})).unwrap()
}

fn index(entries: &[(&str, u8)]) -> Reply {
    Reply::new(200, list(entries)).header("Content-Type", OCI_INDEX)
}

async fn referrers(server: &Fake, kind: Option<&str>) -> Result<Vec<Digest>, Error> {
    let registry = client(&[&server.host()]);
    let repository = repository(&registry, &format!("{}/a/b:1", server.host()), None);
    let found = repository.referrers(&Digest::sha256(b"subject"), kind).await?;
    Ok(found.into_iter().map(|entry| entry.digest).collect())
}

fn digests(of: &[u8]) -> Vec<Digest> {
    of.iter().map(|n| Digest::sha256(&[*n])).collect()
}

#[tokio::test]
async fn referrers_come_by_the_api_page_by_page() {
    let subject = Digest::sha256(b"subject");
    let second = format!("/v2/a/b/referrers/{subject}?last=1");
    let path = second.clone();
    let server = Fake::start(move |seen: &Seen| match seen.path.as_str() {
        first if first == path => index(&[(SIGNATURE, 3)]),
        _ => index(&[(SIGNATURE, 1), ("text/sbom", 2)]).header("Link", format!("<{path}>; rel=\"next\"")),
    });
    assert_eq!(referrers(&server, None).await.unwrap(), digests(&[1, 2, 3]));
    // A server that does not filter leaves it to us.
    assert_eq!(referrers(&server, Some(SIGNATURE)).await.unwrap(), digests(&[1, 3]));
    assert!(server.paths().iter().any(|path| path.contains("?artifactType=application%2Fvnd.dev")));
}

#[tokio::test]
async fn the_next_page_may_be_told_as_a_url_of_the_registry_and_among_other_links() {
    let server = Fake::start(move |seen: &Seen| {
        let host = seen.header("host").unwrap();
        match seen.path.contains("last=1") {
            true => index(&[(SIGNATURE, 3)]),
            false => index(&[(SIGNATURE, 1)])
                .header("Link", "<https://docs.test/>; rel=\"help\"")
                .header("Link", format!("<http://{host}{}?last=1>; rel=\"next\"", seen.path)),
        }
    });
    assert_eq!(referrers(&server, None).await.unwrap(), digests(&[1, 3]));
}

#[tokio::test]
async fn without_the_api_the_tag_says_it() {
    let subject = Digest::sha256(b"subject");
    let tag = format!("/v2/a/b/manifests/sha256-{}", subject.hex());
    let server = Fake::start(move |seen: &Seen| {
        if seen.path == tag { index(&[(SIGNATURE, 1), ("text/sbom", 2)]) } else { Reply::new(404, "") }
    });
    assert_eq!(referrers(&server, Some(SIGNATURE)).await.unwrap(), digests(&[1]));
    let bare = Fake::start(|_| Reply::new(404, ""));
    assert_eq!(referrers(&bare, None).await.unwrap(), digests(&[]));
}

#[tokio::test]
async fn a_list_that_lies_or_never_ends_is_an_error() {
    let elsewhere =
        Fake::start(|_| index(&[(SIGNATURE, 1)]).header("Link", "<https://evil.test/v2/more>; rel=\"next\""));
    assert!(matches!(referrers(&elsewhere, None).await.unwrap_err(), Error::Invalid(_)));
    let otherwise = Fake::start(|seen: &Seen| {
        let url = format!("<https://{}/v2/more>; rel=next", seen.header("host").unwrap());
        index(&[(SIGNATURE, 1)]).header("Link", url)
    });
    assert!(matches!(referrers(&otherwise, None).await.unwrap_err(), Error::Invalid(_)));
    let image = Fake::start(|_| {
        let picture = Picture::oci(b"layer");
        Reply::new(200, picture.manifests[&picture.top].1.clone()).header("Content-Type", OCI_MANIFEST)
    });
    assert!(matches!(referrers(&image, None).await.unwrap_err(), Error::Invalid(_)));
    let many: Vec<_> = (0..=255).map(|n| (SIGNATURE, n)).collect();
    let endless =
        Fake::start(move |seen| index(&many).header("Link", format!("<{}>; rel=\"next\"", seen.path)));
    assert!(matches!(referrers(&endless, None).await.unwrap_err(), Error::Invalid(_)));
    let broken = Fake::start(|_| Reply::new(500, ""));
    assert!(matches!(referrers(&broken, None).await.unwrap_err(), Error::Unavailable(_)));
}

#[tokio::test]
async fn a_mirror_that_knows_of_none_hides_none() {
    let mirror = Fake::start(|_| index(&[]));
    let primary = Fake::start(|_| index(&[(SIGNATURE, 1)]));
    let conf = format!(
        "[[registry]]\nprefix='registry.test'\nlocation='{}'\ninsecure=true\n\
         [[registry.mirror]]\nlocation='{}'\ninsecure=true\n",
        primary.host(),
        mirror.host()
    );
    let registry = Registry::new(settings(&conf));
    let repository = repository(&registry, "registry.test/a:1", None);
    let found = repository.referrers(&Digest::sha256(b"subject"), None).await.unwrap();
    assert_eq!((found.len(), mirror.paths().len()), (1, 1));
}

#[tokio::test]
async fn an_artifact_is_read_verified_and_whole() {
    let payload = br#"{"critical":{}}"#;
    let config = Descriptor::new("application/vnd.oci.empty.v1+json", Digest::sha256(b"{}"), 2);
    let layer = Descriptor::new(
        "application/vnd.dev.cosign.simplesigning.v1+json",
        Digest::sha256(payload),
        payload.len() as u64,
    );
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": SIGNATURE,
        "config": config, "layers": [layer], "subject": Descriptor::new(OCI_MANIFEST, Digest::sha256(b"subject"), 7)});
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let digest = Digest::sha256(&bytes);
    let (blob, wrong) = (layer.digest.clone(), Digest::sha256(b"wrong"));
    let server = Fake::start(move |seen: &Seen| match seen.path.rsplit('/').next().unwrap() {
        "none" => Reply::new(404, ""),
        name if name == blob.as_str() => Reply::new(200, &payload[..]),
        _ => Reply::new(200, bytes.clone()).header("Content-Type", OCI_MANIFEST),
    });
    let registry = client(&[&server.host()]);
    let repository = repository(&registry, &format!("{}/a:1", server.host()), None);
    let artifact = repository.artifact(digest.as_str()).await.unwrap().unwrap();
    assert_eq!((artifact.digest, artifact.manifest.artifact_type.as_str()), (digest, SIGNATURE));
    assert_eq!(artifact.manifest.subject.unwrap().digest, Digest::sha256(b"subject"));
    assert_eq!(&repository.small_blob(&artifact.manifest.layers[0], 100).await.unwrap()[..], payload);
    assert!(matches!(
        repository.small_blob(&artifact.manifest.layers[0], 3).await.unwrap_err(),
        Error::Verification(_)
    ));
    assert!(repository.artifact("none").await.unwrap().is_none());
    assert!(matches!(repository.artifact(wrong.as_str()).await.unwrap_err(), Error::Verification(_)));
}
