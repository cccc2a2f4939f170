//! Certificates between a signer and a root, roots and logs in the policy's own text, and certificates that are for
//! something else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use serde_json::{Value, json};

use super::{Case, NAME, REPOSITORY};
use crate::support::cosign::{self, Authority, CERTIFICATE, CHAIN, Signature, key};

const EMAIL: &str = "dev@one.test";
const ISSUER: &str = "https://login.test";
/// In 2027.
const NOON: u64 = 1_800_000_000;
/// When both ways to vouch are tried: by our clock, and by the log's.
const YEARS: (i32, i32) = (2020, 2090);

fn base64(text: impl AsRef<[u8]>) -> String {
    BASE64.encode(text)
}

/// Who signs, and the log that takes it in.
struct Signing {
    case: Case,
    signer: KeyPair,
    log: KeyPair,
}

impl Signing {
    fn new() -> Signing {
        Signing { case: Case::new(), signer: key(), log: key() }
    }

    /// The image's only signature: with this certificate, perhaps with certificates that lead on from it.
    fn signed(&self, certificate: &str, chain: Option<&str>) {
        let signature = Signature::new(&self.signer, REPOSITORY, &self.case.picture.top);
        let mut signature =
            signature.annotated(CERTIFICATE, certificate).logged(&self.log, certificate, NOON);
        if let Some(chain) = chain {
            signature = signature.annotated(CHAIN, chain);
        }
        let tag = format!("a/b:sha256-{}.sig", self.case.picture.top.hex());
        self.case.shelf.put(&tag, &cosign::tagged(&[signature]));
    }

    fn asks(&self, mut what: Value) {
        what["type"] = "sigstoreSigned".into();
        what["signedIdentity"] = json!({"type": "matchRepository"});
        self.case.policy(json!([what]));
    }

    fn asks_fulcio(&self, authority: &str) {
        self.asks(
            json!({"fulcio": {"caData": base64(authority), "oidcIssuer": ISSUER, "subjectEmail": EMAIL},
            "rekorPublicKeyData": base64(self.log.public_key_pem())}),
        );
    }

    fn asks_pki(&self, root: &str, between: Option<(&str, String)>) {
        let mut pki = json!({"caRootsData": base64(root), "subjectEmail": EMAIL});
        between.into_iter().for_each(|(name, value)| pki[name] = value.into());
        self.asks(json!({"pki": pki}));
    }

    async fn check(&self, row: &str, why: Option<&str>) {
        match (self.case.pull(NAME).await, why) {
            (Ok(()), None) => {}
            (Err(text), Some(why)) => assert!(text.contains(why), "{row}: {why:?} is not in {text:?}"),
            (pulled, why) => panic!("{row}: {pulled:?} and not {why:?}"),
        }
    }
}

const NO_WAY: Option<&str> = Some("its certificate does not do: UnknownIssuer");

#[tokio::test]
async fn an_intermediate_comes_with_the_signature_or_with_the_policy() {
    let signing = Signing::new();
    let root = Authority::until(YEARS);
    let (between, other) = (root.below(YEARS), Authority::until(YEARS).below(YEARS));
    let deep = between.below(YEARS);
    let by = |authority: &Authority| authority.certify(&signing.signer, EMAIL, Some(ISSUER), YEARS);
    let (cert, deep_cert) = (by(&between), by(&deep));
    let both = between.pem() + &deep.pem();
    let rows = [
        ("with its intermediate", &cert, Some(between.pem()), None),
        ("and the root, as cosign writes it", &cert, Some(between.pem() + &root.pem()), None),
        ("without", &cert, None, NO_WAY),
        ("with an empty chain", &cert, Some(String::new()), NO_WAY),
        ("with the root alone", &cert, Some(root.pem()), NO_WAY),
        ("with another's", &cert, Some(other.pem()), NO_WAY),
        ("two of them", &deep_cert, Some(both.clone()), None),
        ("in any order", &deep_cert, Some(deep.pem() + &between.pem()), None),
        ("one of two", &deep_cert, Some(deep.pem()), NO_WAY),
        ("with a chain that is none", &cert, Some("chain".to_owned()), Some("its chain can't be read")),
        ("with more than anybody has", &cert, Some(between.pem().repeat(11)), Some("is too long")),
    ];
    for (row, cert, chain, why) in &rows {
        signing.signed(cert, chain.as_deref());
        signing.asks_fulcio(&root.pem());
        signing.check(&format!("Fulcio, {row}"), *why).await;
        signing.asks_pki(&root.pem(), None);
        signing.check(&format!("an own authority, {row}"), *why).await;
    }
    let file = |pem: &str| signing.case.file("between.pem", pem);
    let rows = [
        ("a file", &cert, ("caIntermediatesPath", file(&between.pem())), None),
        ("the policy", &cert, ("caIntermediatesData", base64(between.pem())), None),
        ("two in the policy", &deep_cert, ("caIntermediatesData", base64(&both)), None),
        ("another's", &cert, ("caIntermediatesData", base64(other.pem())), NO_WAY),
        (
            "no certificate",
            &cert,
            ("caIntermediatesData", base64("x")),
            Some("no PEM file with certificates"),
        ),
        ("no file", &cert, ("caIntermediatesPath", "/nonexistent".to_owned()), Some("reading /nonexistent")),
    ];
    for (row, cert, between, why) in rows {
        signing.signed(cert, None);
        signing.asks_pki(&root.pem(), Some(between));
        signing.check(row, why).await;
    }
    // What only lies in the chain or among the intermediates is no root.
    signing.signed(&cert, Some(&(between.pem() + &root.pem())));
    signing.asks_pki(&other.pem(), Some(("caIntermediatesData", base64(between.pem() + &root.pem()))));
    signing.check("a root that the signature brings", NO_WAY).await;
}

#[tokio::test]
async fn a_root_and_all_between_must_have_been_valid() {
    let signing = Signing::new();
    let (root, spent_root) = (Authority::until(YEARS), Authority::until((2020, 2021)));
    let (between, spent) = (root.below(YEARS), root.below((2020, 2021)));
    let by = |authority: &Authority| authority.certify(&signing.signer, EMAIL, Some(ISSUER), YEARS);
    let no_root = Some("none of the policy's roots was valid when it was made");
    let rows = [
        ("all valid", by(&between), Some(between.pem()), root.pem(), None),
        ("a spent root", by(&spent_root), None, spent_root.pem(), no_root),
        ("a spent root below another", by(&spent_root), None, spent_root.pem() + &root.pem(), NO_WAY),
        ("a root beside a spent one", by(&root), None, spent_root.pem() + &root.pem(), None),
        ("a spent intermediate", by(&spent), Some(spent.pem()), root.pem(), Some("CertExpired")),
    ];
    for (row, cert, chain, roots, why) in rows {
        signing.signed(&cert, chain.as_deref());
        signing.asks_fulcio(&roots);
        signing.check(&format!("Fulcio, {row}"), why).await;
        signing.asks_pki(&roots, None);
        signing.check(&format!("an own authority, {row}"), why).await;
    }
}

/// As Go's verifier has it, which containers/image uses: a certificate that says nothing of uses is for any.
#[tokio::test]
async fn a_certificate_must_not_be_for_other_uses() {
    use ExtendedKeyUsagePurpose::{Any, CodeSigning, ServerAuth};
    let (signing, root) = (Signing::new(), Authority::until(YEARS));
    let rows = [
        ("code signing", vec![CodeSigning], true),
        ("code signing and more", vec![ServerAuth, CodeSigning], true),
        ("nothing said", vec![], true),
        ("any", vec![Any], true),
        ("TLS servers", vec![ServerAuth], false),
    ];
    for (row, usages, good) in rows {
        let cert = root.certify_for(&signing.signer, EMAIL, Some(ISSUER), YEARS, usages);
        let why = (!good).then_some("its certificate does not do: ");
        signing.signed(&cert, None);
        signing.asks_fulcio(&root.pem());
        signing.check(&format!("Fulcio, {row}"), why).await;
        signing.asks_pki(&root.pem(), None);
        signing.check(&format!("an own authority, {row}"), why).await;
    }
}

#[tokio::test]
async fn roots_and_logs_come_from_files_or_from_the_policy_itself() {
    let (signing, root, other) = (Signing::new(), Authority::until(YEARS), Authority::until(YEARS));
    let cert = root.certify(&signing.signer, EMAIL, Some(ISSUER), YEARS);
    signing.signed(&cert, None);
    let (log, other_log) = (signing.log.public_key_pem(), key().public_key_pem());
    let file = |name: &str, text: &str| signing.case.file(name, text);
    let roots = [
        ("caPath", json!(file("ca.pem", &root.pem())), None),
        ("caPath", json!(file("both.pem", &(other.pem() + &root.pem()))), None),
        ("caData", json!(base64(root.pem())), None),
        ("caData", json!(base64(other.pem() + &root.pem())), None),
        ("caData", json!(base64(other.pem())), Some("its certificate does not do")),
        ("caData", json!(base64(&log)), Some("no PEM file with certificates")),
    ];
    for (name, value, why) in roots {
        let row = format!("{name} {value}");
        signing.asks(json!({"fulcio": {name: value, "oidcIssuer": ISSUER, "subjectEmail": EMAIL},
            "rekorPublicKeyData": base64(&log)}));
        signing.check(&row, why).await;
        let name = name.replace("ca", "caRoots");
        signing.asks(json!({"pki": {name: value, "subjectEmail": EMAIL}}));
        signing.check(&row, why).await;
    }
    let logs = [
        ("rekorPublicKeyPath", json!(file("log", &log)), None),
        ("rekorPublicKeyPaths", json!([file("other", &other_log), file("log", &log)]), None),
        ("rekorPublicKeyData", json!(base64(&log)), None),
        ("rekorPublicKeyDatas", json!([base64(&other_log), base64(&log)]), None),
        ("rekorPublicKeyData", json!(base64(&other_log)), Some("none of the policy's logs")),
        ("rekorPublicKeyDatas", json!([base64(&other_log)]), Some("none of the policy's logs")),
        ("rekorPublicKeyData", json!(base64("x")), Some("no PEM file with a PUBLIC KEY")),
    ];
    for (name, value, why) in logs {
        let mut ask = json!({name: value});
        ask["fulcio"] = json!({"caData": base64(root.pem()), "oidcIssuer": ISSUER, "subjectEmail": EMAIL});
        signing.asks(ask);
        signing.check(name, why).await;
    }
}
