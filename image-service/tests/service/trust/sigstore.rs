//! `sigstoreSigned`: keys, certificates, the transparency log, and signatures that are not what they say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use image_service::digest::Digest;
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::{Case, NAME, REPOSITORY};
use crate::support::cosign::{self, BUNDLE, CERTIFICATE, CHAIN, LAYER, Signature, key, payload};
use crate::support::picture::OCI_INDEX;
use crate::support::shelf::Node;

impl Case {
    fn tag(&self) -> String {
        format!("a/b:sha256-{}.sig", self.picture.top.hex())
    }

    fn sign(&self, signatures: &[Signature]) {
        self.shelf.put(&self.tag(), &cosign::tagged(signatures));
    }

    fn good(&self, key: &KeyPair) -> Signature {
        Signature::new(key, REPOSITORY, &self.picture.top)
    }

    /// Asks for a signature by the key, for the repository.
    fn asks_for(&self, key: &KeyPair) {
        let path = self.file("key.pub", key.public_key_pem());
        self.policy(json!([{"type": "sigstoreSigned", "keyPath": path,
            "signedIdentity": {"type": "matchRepository"}}]));
    }
}

#[tokio::test]
async fn only_what_the_key_signed_is_pulled() {
    let case = Case::new();
    let (ours, other) = (key(), key());
    case.asks_for(&ours);
    case.refused("there is no such signature: ").await;
    case.refused("; the tag sha256-").await;
    case.sign(&[case.good(&other)]);
    case.refused("none of the policy's keys made it").await;
    let mut tampered = case.good(&ours);
    tampered.payload.push(b' ');
    case.sign(&[tampered]);
    case.refused("its payload was changed").await;
    case.sign(&[Signature::new(&ours, REPOSITORY, &Digest::sha256(b"other"))]);
    case.refused("it is for the manifest sha256:").await;
    case.sign(&[Signature::new(&ours, "one.test/a/c", &case.picture.top)]);
    case.refused("it is for one.test/a/c, which is another image").await;
    case.sign(&[case.good(&ours).annotated(cosign::SIGNATURE, "?")]);
    case.refused("its signature is not base64").await;
    case.sign(&[case.good(&other), case.good(&ours)]);
    case.pull(NAME).await.unwrap();
    case.pull(&format!("{REPOSITORY}@{}", case.picture.top)).await.unwrap();
    assert!(case.pull("two.test/a/b:1").await.unwrap_err().contains("the policy rejects"));
}

#[tokio::test]
async fn keys_come_from_files_or_from_the_policy_itself() {
    let case = Case::new();
    let (ours, other) = (key(), key());
    case.sign(&[case.good(&ours)]);
    let base64 = |key: &KeyPair| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(key.public_key_pem())
    };
    let ask = |mut what: Value| {
        what["type"] = "sigstoreSigned".into();
        what["signedIdentity"] = json!({"type": "matchRepository"});
        case.policy(json!([what]));
    };
    let (a, b) = (case.file("a", other.public_key_pem()), case.file("b", ours.public_key_pem()));
    ask(json!({"keyPaths": [a, b]}));
    case.pull(NAME).await.unwrap();
    ask(json!({"keyData": base64(&ours)}));
    case.pull(NAME).await.unwrap();
    ask(json!({"keyDatas": [base64(&other), base64(&ours)]}));
    case.pull(NAME).await.unwrap();
    ask(json!({"keyDatas": [base64(&other)]}));
    case.refused("none of the policy's keys").await;
    ask(json!({"keyPath": "/nonexistent/key"}));
    case.refused("reading /nonexistent/key").await;
    ask(json!({"keyPath": case.file("c", "no key")}));
    case.refused("no PEM file with a PUBLIC KEY").await;
    ask(json!({"keyPath": case.file("d", ours.public_key_pem() + &other.public_key_pem())}));
    case.refused("more than one key").await;
    for kind in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(kind).unwrap();
        ask(json!({"keyPath": case.file("e", key.public_key_pem())}));
        // With P-384 rcgen signs over SHA-384, and sigstore wants SHA-256 whatever the key.
        case.sign(&[case.good(&key)]);
        assert_eq!(case.pull(NAME).await.is_ok(), kind == &rcgen::PKCS_ED25519);
    }
}

#[tokio::test]
async fn the_identity_is_matched_as_the_policy_says() {
    let case = Case::new();
    let ours = key();
    let path = case.file("key.pub", ours.public_key_pem());
    let ask = |identity: Value| {
        case.policy(json!([{"type": "sigstoreSigned", "keyPath": path, "signedIdentity": identity}]));
    };
    // What cosign signs names no tag, and the default wants one.
    case.sign(&[case.good(&ours)]);
    case.policy(json!([{"type": "sigstoreSigned", "keyPath": path}]));
    case.refused("it is for one.test/a/b, which is another image").await;
    case.sign(&[Signature::new(&ours, NAME, &case.picture.top)]);
    case.pull(NAME).await.unwrap();
    ask(json!({"type": "matchExact"}));
    case.pull(NAME).await.unwrap();
    assert!(case.pull(&format!("{REPOSITORY}@{}", case.picture.top)).await.is_err());
    case.sign(&[Signature::new(&ours, "vendor.test/b:1", &case.picture.top)]);
    case.refused("vendor.test").await;
    ask(json!({"type": "remapIdentity", "prefix": "one.test/a", "signedPrefix": "vendor.test"}));
    case.pull(NAME).await.unwrap();
    ask(json!({"type": "exactReference", "dockerReference": "vendor.test/b:1"}));
    case.pull(NAME).await.unwrap();
    ask(json!({"type": "exactRepository", "dockerRepository": "vendor.test/c"}));
    case.refused("vendor.test").await;
}

#[tokio::test]
async fn a_signature_that_refers_to_the_image_counts() {
    let case = Case::new();
    let ours = key();
    case.asks_for(&ours);
    let tag = format!("a/b:sha256-{}", case.picture.top.hex());
    case.shelf.put(&tag, &cosign::referring(&[case.good(&key())]));
    case.refused("signature 1 of referrer sha256:").await;
    case.shelf.put(&tag, &cosign::referring(&[case.good(&ours)]));
    case.pull(NAME).await.unwrap();
}

#[tokio::test]
async fn a_bundle_that_names_no_image_is_told_as_what_it_is() {
    let case = Case::new();
    let ours = key();
    case.asks_for(&ours);
    let mut picture = cosign::referring(&[case.good(&ours)]);
    let mut index: Value = serde_json::from_slice(&picture.manifests[&picture.top].1).unwrap();
    index["manifests"][0]["artifactType"] = "application/vnd.dev.sigstore.bundle.v0.3+json".into();
    picture.put(OCI_INDEX, &index);
    case.shelf.put(&format!("a/b:sha256-{}", case.picture.top.hex()), &picture);
    case.refused("is a sigstore bundle, which names no image").await;
}

#[tokio::test]
async fn the_instance_is_what_must_be_signed() {
    let mut case = Case::new();
    let ours = key();
    case.asks_for(&ours);
    let instance = case.picture.top.clone();
    let index = case.picture.clone().indexed(OCI_INDEX, &image_service::Platform::host().to_string());
    case.shelf.put("a/b:1", &index);
    case.picture = index;
    case.sign(&[case.good(&ours)]);
    case.refused(&format!("the tag sha256-{}.sig is not there", instance.hex())).await;
    let tag = format!("a/b:sha256-{}.sig", instance.hex());
    case.shelf.put(&tag, &cosign::tagged(&[Signature::new(&ours, REPOSITORY, &instance)]));
    case.pull(NAME).await.unwrap();
}

#[tokio::test]
async fn all_requirements_must_be_met() {
    let case = Case::new();
    let (first, second) = (key(), key());
    let ask = |name: &str, key: &KeyPair| {
        json!({"type": "sigstoreSigned", "keyPath": case.file(name, key.public_key_pem()),
            "signedIdentity": {"type": "matchRepository"}})
    };
    case.policy(json!([{"type": "insecureAcceptAnything"}, ask("a", &first), ask("b", &second)]));
    case.sign(&[case.good(&first)]);
    case.refused("no signature does").await;
    case.sign(&[case.good(&second), case.good(&first)]);
    case.pull(NAME).await.unwrap();
    case.policy(json!([ask("a", &first), {"type": "reject"}]));
    case.refused("the policy rejects").await;
}

#[tokio::test]
async fn a_namespace_can_have_a_policy_of_its_own() {
    let case = Case::new();
    let ours = key();
    case.asks_for(&ours);
    std::fs::create_dir(&case.node.settings.policy_dir).unwrap();
    let own =
        |name: &str, text: &str| std::fs::write(case.node.settings.policy_dir.join(name), text).unwrap();
    own("open.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#);
    own("closed.json", r#"{"default": [{"type": "reject"}]}"#);
    own("broken.json", "{");
    case.pull_for(NAME, Some("open")).await.unwrap();
    for (namespace, why) in [
        (None, "no such signature"),
        (Some("other"), "no such signature"),
        (Some("../open"), "no such signature"),
        (Some("closed"), "the policy rejects"),
        (Some("broken"), "broken.json is not what"),
    ] {
        let text = case.pull_for(NAME, namespace).await.unwrap_err();
        assert!(text.contains(why), "{namespace:?}: {text}");
    }
    case.sign(&[case.good(&ours)]);
    case.pull_for(NAME, Some("other")).await.unwrap();
    assert!(case.pull_for(NAME, Some("closed")).await.is_err());
}

const NOON: u64 = 1_800_000_000;

#[tokio::test]
async fn the_log_must_have_promised_this_very_signature() {
    let case = Case::new();
    let (ours, log) = (key(), key());
    case.policy(json!([{"type": "sigstoreSigned", "keyPath": case.file("key.pub", ours.public_key_pem()),
        "rekorPublicKeyPath": case.file("log.pub", log.public_key_pem()),
        "signedIdentity": {"type": "matchRepository"}}]));
    let pem = ours.public_key_pem();
    let check = |signature: Signature, why: &'static str| {
        case.sign(&[signature]);
        case.refused(why)
    };
    check(case.good(&ours), "the signature has none").await;
    check(case.good(&ours).logged(&key(), &pem, NOON), "none of the policy's logs").await;
    check(case.good(&ours).logged(&log, &key().public_key_pem(), NOON), "of another signer").await;
    let elsewhere = Signature::new(&ours, "one.test/a/c", &case.picture.top).logged(&log, &pem, NOON);
    check(case.good(&ours).annotated(BUNDLE, &elsewhere.annotations[BUNDLE]), "of another signature").await;
    let good = case.good(&ours);
    let bundle = cosign::bundle(&log, &good.annotations[cosign::SIGNATURE], b"other", &pem, NOON);
    check(good.clone().annotated(BUNDLE, bundle), "of another payload").await;
    let bundle = good.clone().logged(&log, &pem, NOON).annotations[BUNDLE].clone();
    check(good.clone().annotated(BUNDLE, bundle.replace("18000", "18001")), "none of the policy's logs")
        .await;
    check(good.clone().annotated(BUNDLE, "{"), "can't be read").await;
    case.sign(&[good.logged(&log, &pem, NOON)]);
    case.pull(NAME).await.unwrap();
}

#[tokio::test]
async fn fulcio_vouches_for_who_signed_and_the_log_for_when() {
    let case = Case::new();
    let (signer, log, authority) = (key(), key(), cosign::Authority::new());
    let (issuer, email) = ("https://login.test", "dev@one.test");
    case.policy(json!([{"type": "sigstoreSigned",
        "fulcio": {"caPath": case.file("ca.pem", authority.pem()), "oidcIssuer": issuer, "subjectEmail": email},
        "rekorPublicKeyPath": case.file("log.pub", log.public_key_pem()),
        "signedIdentity": {"type": "matchRepository"}}]));
    // 2026 to 2030; NOON is in 2027.
    let certified =
        |cert: String, at: u64| case.good(&signer).annotated(CERTIFICATE, &cert).logged(&log, &cert, at);
    let check = |signature: Signature, why: &'static str| {
        case.sign(&[signature]);
        case.refused(why)
    };
    let good = authority.certify(&signer, email, Some(issuer), (2026, 2030));
    check(case.good(&signer), "it has no certificate").await;
    check(certified(good.clone(), NOON + 200_000_000), "its certificate does not do: CertExpired").await;
    check(certified(good.clone(), 1_600_000_000), "does not do: CertNotValidYet").await;
    let other = authority.certify(&signer, "dev@two.test", Some(issuer), (2026, 2030));
    check(certified(other, NOON), "its certificate is for dev@two.test and not for dev@one.test").await;
    let other = authority.certify(&signer, email, Some("https://other.test"), (2026, 2030));
    check(certified(other, NOON), "identities of https://other.test").await;
    check(certified(authority.certify(&signer, email, None, (2026, 2030)), NOON), "identities of nobody")
        .await;
    let stranger = cosign::Authority::new().certify(&signer, email, Some(issuer), (2026, 2030));
    check(certified(stranger, NOON), "its certificate does not do: ").await;
    let not_hers = authority.certify(&key(), email, Some(issuer), (2026, 2030));
    check(certified(not_hers, NOON), "none of the policy's keys made it").await;
    // Long ago by our clock, and it still counts: that is what the log is for.
    let old = authority.certify(&signer, email, Some(issuer), (2020, 2021));
    case.sign(&[certified(old, 1_600_000_000)]);
    case.pull(NAME).await.unwrap();
    case.sign(&[certified(good, NOON).annotated(CHAIN, authority.pem())]);
    case.pull(NAME).await.unwrap();
}

#[tokio::test]
async fn an_authority_of_ones_own_vouches_for_addresses_and_hosts() {
    let case = Case::new();
    let (signer, authority) = (key(), cosign::Authority::new());
    let root = case.file("ca.pem", authority.pem());
    let ask = |email: Option<&str>, hostname: Option<&str>| {
        let mut pki = json!({"caRootsPath": root});
        email.into_iter().for_each(|email| pki["subjectEmail"] = email.into());
        hostname.into_iter().for_each(|hostname| pki["subjectHostname"] = hostname.into());
        case.policy(
            json!([{"type": "sigstoreSigned", "pki": pki, "signedIdentity": {"type": "matchRepository"}}]),
        );
    };
    let good = authority.certify(&signer, "dev@one.test", None, (2020, 2090));
    case.sign(&[case.good(&signer).annotated(CERTIFICATE, good)]);
    ask(Some("dev@one.test"), None);
    case.pull(NAME).await.unwrap();
    ask(Some("dev@one.test"), Some("builder.test"));
    case.pull(NAME).await.unwrap();
    ask(Some("dev@one.test"), Some("other.test"));
    case.refused("other hosts and not for other.test").await;
    ask(Some("ops@one.test"), None);
    case.refused("is for dev@one.test and not for ops@one.test").await;
    ask(Some("dev@one.test"), None);
    let expired = authority.certify(&signer, "dev@one.test", None, (2020, 2021));
    case.sign(&[case.good(&signer).annotated(CERTIFICATE, expired)]);
    case.refused("CertExpired").await;
    let stranger = cosign::Authority::new().certify(&signer, "dev@one.test", None, (2020, 2090));
    case.sign(&[case.good(&signer).annotated(CERTIFICATE, stranger)]);
    case.refused("its certificate does not do").await;
}

#[tokio::test]
async fn hostile_signatures_cost_little_and_hide_nothing() {
    let case = Case::new();
    let ours = key();
    case.asks_for(&ours);
    let good = case.good(&ours);
    let spoil = |change: &dyn Fn(&mut Value)| {
        let mut picture = cosign::tagged(std::slice::from_ref(&good));
        let mut document: Value = serde_json::from_slice(&picture.manifests[&picture.top].1).unwrap();
        change(&mut document);
        picture.put(crate::support::picture::OCI_MANIFEST, &document);
        case.shelf.put(&case.tag(), &picture);
    };
    spoil(&|document| document["layers"][0]["size"] = (1u64 << 40).into());
    case.refused("longer than 1048576 bytes").await;
    spoil(&|document| document["layers"][0]["digest"] = Digest::sha256(b"gone").to_string().into());
    case.refused("it is not there").await;
    spoil(&|document| document["layers"][0]["digest"] = "sha256:../../x".into());
    case.refused("there is no such signature").await;
    spoil(&|document| document["layers"][0]["mediaType"] = "text/plain".into());
    case.refused(&format!("has no layer of type {LAYER}")).await;
    spoil(&|document| document["layers"] = vec![document["layers"][0].clone(); 501].into());
    case.refused("there is no such signature").await;
    // The good one comes after more than are read.
    let mut many = vec![Signature::of(&key(), payload(REPOSITORY, &case.picture.top)); 128];
    many.push(good.clone());
    case.sign(&many);
    case.refused("; and 120 more").await;
    case.sign(&many[1..]);
    case.pull(NAME).await.unwrap();
    case.sign(&[Signature::of(&ours, b"[".repeat(100_000))]);
    case.refused("its payload is none").await;
    // A key of many bytes is not handed on to whoever reads the error.
    let long = "x".repeat(400_000);
    case.sign(&[Signature::of(&ours, format!("{{\"{long}\": 1, \"{long}\": 1}}").into_bytes())]);
    assert!(case.pull(NAME).await.unwrap_err().len() < 2000);
}

#[tokio::test]
async fn a_registry_in_trouble_is_not_one_without_signatures() {
    let (mut case, status) = (Case::new(), Arc::new(AtomicU16::new(503)));
    case.fake = case.shelf.serve_no_referrers(status.clone());
    case.node = Node::new(&case.fake.host());
    let ours = key();
    case.asks_for(&ours);
    let told = case.pull(NAME).await.unwrap_err();
    assert!(!told.contains("SignatureValidationFailed") && told.contains("503"), "{told}");
    // All of these are how registries say that they can't list it.
    for no in [400, 404, 405, 501] {
        status.store(no, Ordering::Relaxed);
        case.refused("there is no such signature").await;
    }
    status.store(503, Ordering::Relaxed);
    case.sign(&[case.good(&ours)]);
    case.pull(NAME).await.unwrap();
}

#[tokio::test]
async fn signatures_are_read_up_to_a_bound_of_bytes() {
    let case = Case::new();
    let (ours, other) = (key(), key());
    case.asks_for(&ours);
    let large = |n: u8| {
        let mut payload = payload(REPOSITORY, &case.picture.top);
        payload.resize((1 << 20) - usize::from(n), b' ');
        Signature::of(&other, payload).annotated("of.no/use", "x".repeat(10_000))
    };
    // Those that are read are no good, and so many are read that the good one is not.
    let mut signatures: Vec<Signature> = (0..12).map(large).chain([case.good(&ours)]).collect();
    case.sign(&signatures);
    case.refused("none of the policy's keys made it").await;
    let blobs = case.fake.paths().iter().filter(|path| path.contains("/blobs/")).count();
    assert_eq!(blobs, 8, "signatures were asked for beyond the bound");
    signatures.rotate_right(1);
    case.sign(&signatures);
    case.pull(NAME).await.unwrap();
}
