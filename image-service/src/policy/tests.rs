//! What policies say of names and files, and which are none.

use super::*;

const POLICY: &str = r#"{
    "default": [{"type": "reject"}],
    "transports": {"docker": {
        "registry.example.com": [{"type": "insecureAcceptAnything"}],
        "registry.example.com/secret": [{"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}],
        "registry.example.com/secret/open:1": [{"type": "insecureAcceptAnything"}],
        "*.example.org": [{"type": "insecureAcceptAnything"}]
    }}
}"#;

fn check(policy: &str, reference: &str, answer: &str) {
    let policy = Policy::parse(policy.as_bytes()).unwrap();
    let verdict = policy.check(&Reference::parse(reference).unwrap());
    let text = verdict.err().map_or("yes".to_owned(), |refusal| refusal.to_string());
    assert!(text.contains(answer), "{reference}: {text}");
}

#[test]
fn the_narrowest_scope_decides() {
    check(POLICY, "registry.example.com/a/b:1", "yes");
    check(POLICY, "registry.example.com/secret/b:1", "signedBaseLayer");
    check(POLICY, "registry.example.com/secret/open:1", "yes");
    check(POLICY, "registry.example.com/secret/open:2", "which no tool can check");
    check(POLICY, "a.b.example.org/x", "yes");
    check(POLICY, "a.example.org:5000/x", "yes");
    check(POLICY, "example.org/x", "rejects");
    check(POLICY, "busybox", "by its entry for everything");
}

#[test]
fn a_file_is_judged_by_its_tag_its_path_and_those_above() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().canonicalize().unwrap();
    std::fs::create_dir_all(real.join("a/b")).unwrap();
    std::os::unix::fs::symlink(real.join("a/b"), real.join("link")).unwrap();
    let real = real.to_str().unwrap();
    let text = format!(
        r#"{{"default": [{{"type": "insecureAcceptAnything"}}], "transports": {{
        "oci": {{"{real}/a": [{{"type": "reject"}}], "{real}/a/b:good": [{{"type": "insecureAcceptAnything"}}]}},
        "docker-archive": {{"": [{{"type": "reject"}}]}}}}}}"#
    );
    let policy = Policy::parse(text.as_bytes()).unwrap();
    let check = |transport: &str, path: &str, tag: Option<&str>, answer: bool| {
        let verdict = policy.check_file(transport, &Path::new(real).join(path), tag);
        assert_eq!(verdict.is_ok(), answer, "{transport} {path} {tag:?}: {verdict:?}");
    };
    check("oci", "a/b", None, false);
    check("oci", "a/b", Some("good"), true);
    check("oci", "a/b", Some("bad"), false);
    check("oci", "link", Some("bad"), false);
    check("oci", "link", Some("good"), true);
    check("oci", "ab", None, true);
    check("oci-archive", "a/b", None, true);
    check("docker-archive", "a/b", None, false);
    for scope in ["/", "relative", "/a/", "/a//b", "/a/../b", "/./a"] {
        let text = format!(
            r#"{{"default": [{{"type": "reject"}}], "transports": {{"oci": {{"{scope}": [{{"type": "reject"}}]}}}}}}"#
        );
        let flaw = Policy::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(flaw.contains("a path is wanted here"), "{scope}: {flaw}");
    }
    for scope in ["/a", "registry.example.com/x:1"] {
        let text = format!(
            r#"{{"default": [{{"type": "reject"}}],
            "transports": {{"docker-archive": {{"{scope}": [{{"type": "insecureAcceptAnything"}}]}}}}}}"#
        );
        let flaw = Policy::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(flaw.contains("docker-archive") && flaw.contains("no scope but"), "{scope}: {flaw}");
    }
}

#[test]
fn the_transports_own_default_comes_before_the_default() {
    let policy = r#"{"default": [{"type": "reject"}],
        "transports": {"docker": {"": [{"type": "insecureAcceptAnything"}]}}}"#;
    check(policy, "busybox", "yes");
}

#[test]
fn every_requirement_must_be_met() {
    let policy = r#"{"default": [{"type": "insecureAcceptAnything"}, {"type": "reject"}]}"#;
    check(policy, "busybox", "rejects");
}

#[test]
fn a_file_that_is_there_must_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.json");
    assert_eq!(Policy::load(&path).unwrap(), Policy::accept());
    for bad in ["", "{}", r#"{"default": []}"#, r#"{"default": [{"type": "reject"}], "defualt": []}"#] {
        std::fs::write(&path, bad).unwrap();
        assert!(Policy::load(&path).is_err(), "{bad}");
    }
}

#[test]
fn what_is_not_known_is_refused_with_its_place() {
    let check = |requirement: &str, why: &str| {
        let text = format!(
            r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"a.io": [{requirement}]}}}}}}"#
        );
        let flaw = Policy::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(
            flaw.contains(r#"transports["docker"]["a.io"][0]"#) && flaw.contains(why),
            "{requirement}: {flaw}"
        );
    };
    check(r#"{"type": "reject", "x": 1}"#, "[0].x: this key is not known");
    check(r#"{"type": "signedByAll"}"#, "[0].type: \"signedByAll\" is not known");
    check(r#"{}"#, "\"type\" is missing");
    check(r#"[]"#, "an object is wanted");
    check(r#"{"type": "signedBy", "keyType": "GPGKeys"}"#, "exactly one of keyPath");
    check(r#"{"type": "signedBy", "keyType": "X", "keyPath": "/k"}"#, "[0].keyType: ");
    check(r#"{"type": "signedBy", "keyPath": "/k"}"#, "\"keyType\" is missing");
    let sigstore = |rest: &str, why: &str| check(&format!(r#"{{"type": "sigstoreSigned"{rest}}}"#), why);
    sigstore("", "exactly one of keyPath");
    sigstore(r#", "keyPath": "/k", "keyData": "eA==""#, "only one of keyPath");
    sigstore(r#", "keyPath": """#, "[0].keyPath: it is empty");
    sigstore(r#", "keyPaths": []"#, "[0].keyPaths: the list is empty");
    sigstore(r#", "keyDatas": []"#, "keyDatas is empty");
    sigstore(r#", "keyDatas": ["eA==", "?"]"#, "[0].keyDatas[1]: it is not base64");
    sigstore(
        r#", "keyPath": "/k", "rekorPublicKeyPath": "/k", "rekorPublicKeyData": "eA==""#,
        "only one of rekor",
    );
    sigstore(r#", "keyPath": "/k", "signedIdentity": {"type": "x"}"#, "[0].signedIdentity.type: ");
    let fulcio = r#""fulcio": {"caPath": "/k", "oidcIssuer": "i", "subjectEmail": "e"}"#;
    sigstore(&format!(", {fulcio}"), "fulcio needs");
    sigstore(&format!(r#", "keyPath": "/k", {fulcio}"#), "exactly one of keyPath");
    sigstore(r#", "fulcio": {"caPath": "/k", "oidcIssuer": "i"}"#, "\"subjectEmail\" is missing");
    sigstore(r#", "pki": {"caRootsPath": "/k"}"#, "subjectEmail, subjectHostname");
    sigstore(
        r#", "pki": {"caRootsPath": "/k", "subjectEmail": "e"}, "rekorPublicKeyPath": "/k""#,
        "don't go together",
    );
    for bad in [
        r#"{"default": [{"type": "reject"}], "default": [{"type": "reject"}]}"#,
        "[]",
        "{",
        r#"{"default": 1}"#,
    ] {
        assert!(Policy::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

/// containers-policy.json(5), "Policy Requirements": every key of every kind, each of the keys that exclude one another.
#[test]
fn every_documented_form_is_taken() {
    let check = |requirement: &str| {
        let text = format!(
            r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"a.io": [{requirement}]}}}}}}"#
        );
        let parsed = Policy::parse(text.as_bytes());
        assert!(parsed.is_ok(), "{requirement}: {}", parsed.unwrap_err());
    };
    let keys = [
        r#""keyPath": "/k""#,
        r#""keyPaths": ["/k", "/l"]"#,
        r#""keyData": "eA==""#,
        r#""keyDatas": ["eA==", "eQ=="]"#,
    ];
    let rekor = keys.map(|key| key.replacen("\"key", "\"rekorPublicKey", 1));
    let identities = [
        r#"{"type": "matchExact"}"#,
        r#"{"type": "matchRepoDigestOrExact"}"#,
        r#"{"type": "matchRepository"}"#,
        r#"{"type": "exactReference", "dockerReference": "docker.io/library/busybox:1"}"#,
        r#"{"type": "exactRepository", "dockerRepository": "docker.io/library/busybox"}"#,
        r#"{"type": "remapIdentity", "prefix": "a.io/x", "signedPrefix": "vendor.example.com"}"#,
    ];
    for key in keys {
        check(&format!(r#"{{"type": "sigstoreSigned", {key}}}"#));
        for log in &rekor {
            check(&format!(r#"{{"type": "sigstoreSigned", {key}, {log}}}"#));
        }
    }
    for key in &keys[..3] {
        check(&format!(r#"{{"type": "signedBy", "keyType": "GPGKeys", {key}}}"#));
    }
    for identity in identities {
        check(&format!(
            r#"{{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k", "signedIdentity": {identity}}}"#
        ));
        check(&format!(r#"{{"type": "sigstoreSigned", "keyPath": "/k", "signedIdentity": {identity}}}"#));
        check(&format!(r#"{{"type": "signedBaseLayer", "baseLayerIdentity": {identity}}}"#));
    }
    for authority in [r#""caPath": "/k""#, r#""caData": "eA==""#] {
        for log in &rekor {
            check(&format!(
                r#"{{"type": "sigstoreSigned", "fulcio": {{{authority}, "oidcIssuer": "i", "subjectEmail": "e"}}, {log}}}"#
            ));
        }
    }
    for roots in [r#""caRootsPath": "/k""#, r#""caRootsData": "eA==""#] {
        for between in ["", r#", "caIntermediatesPath": "/k""#, r#", "caIntermediatesData": "eA==""#] {
            for subject in [
                r#""subjectEmail": "e""#,
                r#""subjectHostname": "h""#,
                r#""subjectEmail": "e", "subjectHostname": "h""#,
            ] {
                check(&format!(r#"{{"type": "sigstoreSigned", "pki": {{{roots}{between}, {subject}}}}}"#));
            }
        }
    }
}
