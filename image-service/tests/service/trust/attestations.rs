//! Copies of whole indexes under a policy that asks for signatures, with what buildkit puts beside images.

use image_service::digest::Digest;
use image_service::manifest::Descriptor;
use image_service::transfer::{Copied, Copy, Location, copy};
use image_service::{Error, Platform};
use rcgen::KeyPair;
use serde_json::json;

use super::{Case, REPOSITORY, told};
use crate::support::cosign::{self, Signature, key};
use crate::support::picture::{OCI_INDEX, OCI_MANIFEST, Picture};
use crate::support::shelf::CONFIG;

/// An index with the image, and an attestation of it: a manifest with an image's configuration, as its media type
/// says, and a layer that is none.
fn with_attestation(image: &Picture) -> (Picture, Digest) {
    let mut all = image.clone();
    let mut add = |media_type: &str, bytes: &[u8]| {
        let descriptor = Descriptor::new(media_type, Digest::sha256(bytes), bytes.len() as u64);
        all.blobs.insert(descriptor.digest.clone(), bytes.to_vec());
        descriptor
    };
    let config = add(
        CONFIG,
        br#"{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#,
    );
    let statement = add("application/vnd.in-toto+json", br#"{"_type":"https://in-toto.io/Statement/v0.1"}"#);
    let manifest =
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [statement]});
    all.put(OCI_MANIFEST, &manifest);
    let attestation = all.top.clone();
    let entry = |digest: &Digest, platform: &str| {
        let (os, architecture) = platform.split_once('/').unwrap();
        let (media_type, bytes) = &all.manifests[digest];
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len(),
            "platform": {"os": os, "architecture": architecture}})
    };
    let mut beside = entry(&attestation, "unknown/unknown");
    beside["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image.top});
    let entries = json!([entry(&image.top, "linux/amd64"), beside]);
    all.put(OCI_INDEX, &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}));
    (all, attestation)
}

/// Signs each of these, and nothing else.
fn sign(case: &Case, key: &KeyPair, all: [&Digest; 3], signed: &[&Digest]) {
    for digest in all {
        let signatures =
            if signed.contains(&digest) { vec![Signature::new(key, REPOSITORY, digest)] } else { vec![] };
        case.shelf.put(&format!("a/b:sha256-{}.sig", digest.hex()), &cosign::tagged(&signatures));
    }
}

async fn copied(case: &Case, all: bool) -> Result<Copied, Error> {
    let layout = tempfile::tempdir_in(case.node.dir.path()).unwrap();
    let target = format!("oci:{}:v1", layout.path().join("layout").display());
    let order = Copy {
        source: Location::read("docker://one.test/a/b:1").unwrap(),
        target: Location::read(&target).unwrap(),
        all,
        platform: Platform::parse("linux/amd64").unwrap(),
        auth_files: Vec::new(),
        progress: tokio::sync::watch::channel(Default::default()).0,
    };
    copy(&case.node.settings, order).await
}

#[tokio::test]
async fn an_attestation_may_be_signed_by_way_of_its_index_and_an_image_may_not() {
    let case = Case::new();
    let (ours, image) = (key(), case.picture.top.clone());
    let (index, attestation) = with_attestation(&case.picture);
    case.shelf.put("a/b:1", &index);
    let path = case.file("key.pub", ours.public_key_pem());
    case.policy(
        json!([{"type": "sigstoreSigned", "keyPath": path, "signedIdentity": {"type": "matchRepository"}}]),
    );
    let top = index.top.clone();
    let check = async |signed: &[&Digest], all: bool, refused: Option<&Digest>| {
        sign(&case, &ours, [&image, &attestation, &top], signed);
        match (copied(&case, all).await, refused) {
            (Ok(copied), None) => assert_eq!(copied.digest, if all { top.clone() } else { image.clone() }),
            (Err(error), Some(digest)) => {
                let why = told(&error);
                assert!(why.contains("SignatureValidationFailed") && why.contains(digest.hex()), "{why}");
            }
            (other, expected) => panic!("{signed:?}, all: {all}: {other:?}, not {expected:?}"),
        }
    };
    check(&[&image], false, None).await;
    check(&[&image, &attestation, &top], true, None).await;
    check(&[&image, &attestation], true, None).await;
    // The index is signed, and names the attestation by its digest.
    check(&[&image, &top], true, None).await;
    check(&[&image], true, Some(&attestation)).await;
    // An image that runs is signed itself, as when it is pulled.
    check(&[&attestation, &top], true, Some(&image)).await;
    check(&[&top], false, Some(&image)).await;
    check(&[], true, Some(&image)).await;
}
