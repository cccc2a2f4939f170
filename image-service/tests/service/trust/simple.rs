//! `signedBy`: what gpg signed, found in files, on a server and in the registry itself.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use image_service::digest::Digest;
use serde_json::{Value, json};

use super::{Case, NAME};
use crate::support::fake::{Fake, Reply};
use crate::support::gpg::{Gpg, payload};
use crate::support::shelf::Node;

impl Case {
    fn lookaside(&self, url: &str) {
        let dir = &self.node.settings.registries_d;
        std::fs::create_dir_all(dir).unwrap();
        let text = format!("docker:\n  one.test:\n    lookaside: {url}\n");
        std::fs::write(dir.join("default.yaml"), text).unwrap();
    }

    /// Keeps the signatures in files, as many as there are.
    fn keep(&self, signatures: &[Vec<u8>]) {
        let base = self.node.dir.path().join("sigs");
        self.lookaside(&format!("file://{}", base.display()));
        let dir = base.join(format!("a/b@sha256={}", self.picture.top.hex()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        for (number, signature) in signatures.iter().enumerate() {
            std::fs::write(dir.join(format!("signature-{}", number + 1)), signature).unwrap();
        }
    }

    fn signed_by(&self, key: &[u8]) {
        let path = self.file("key.gpg", key);
        self.policy(json!([{"type": "signedBy", "keyType": "GPGKeys", "keyPath": path}]));
    }

    fn claim(&self) -> Vec<u8> {
        payload(NAME, &self.picture.top)
    }

    async fn refused_with(&self, signature: Vec<u8>, why: &str) {
        self.keep(&[signature]);
        self.refused(why).await;
    }
}

#[tokio::test]
async fn what_gpg_signed_with_a_key_of_any_kind_is_pulled() {
    let (case, gpg) = (Case::new(), Gpg::new());
    for algorithm in ["rsa3072", "ed25519", "nistp256", "nistp384"] {
        let key = gpg.make(algorithm, &[], "never");
        case.signed_by(&gpg.export(&key));
        for how in [
            &[][..],
            &["--compress-algo", "zlib"],
            &["--compress-algo", "none"],
            &["--digest-algo", "SHA384"],
        ] {
            if how == ["--digest-algo", "SHA384"] && algorithm == "nistp256" {
                continue; // Its digest is the one that fits the curve.
            }
            case.keep(&[gpg.sign(&key, how, &case.claim())]);
            case.pull(NAME).await.unwrap_or_else(|why| panic!("{algorithm} {how:?}: {why}"));
        }
    }
}

#[tokio::test]
async fn only_a_good_signature_by_a_good_key_counts() {
    let (case, gpg) = (Case::new(), Gpg::new());
    let (ours, other) = (gpg.make("ed25519", &[], "never"), gpg.make("rsa3072", &[], "never"));
    case.signed_by(&gpg.export(&ours));
    case.refused("there is no such signature").await;
    let claim = case.claim();
    case.refused_with(gpg.sign(&other, &[], &claim), "none of the policy's keys made it").await;
    case.refused_with(
        gpg.sign(&ours, &[], &payload(NAME, &Digest::sha256(b"x"))),
        "for the manifest sha256:",
    )
    .await;
    case.refused_with(gpg.sign(&ours, &[], &payload("one.test/a/b:2", &case.picture.top)), "another image")
        .await;
    case.refused_with(gpg.sign(&ours, &[], b"{}"), "its payload is none").await;
    case.refused_with(gpg.sign(&ours, &["--digest-algo", "SHA1"], &claim), "too weak").await;
    case.refused_with(
        gpg.run(&["--local-user", &ours, "--detach-sign"], &claim),
        "one signature over one payload",
    )
    .await;
    let both = ["--local-user", ours.as_str(), "--local-user", other.as_str(), "--sign"];
    case.refused_with(gpg.run(&both, &claim), "one signature over one payload").await;
    case.refused_with(claim.clone(), "its format is not known").await;
    let old =
        ["--faked-system-time", "20200101T000000!", "--default-sig-expire", "1d", "--ignore-time-conflict"];
    let early = gpg.make("ed25519", &["--faked-system-time", "20190101T000000!"], "never");
    case.signed_by(&gpg.export(&early));
    case.keep(&[gpg.sign(&early, &[], &claim)]);
    case.pull(NAME).await.unwrap();
    case.refused_with(gpg.sign(&early, &old, &claim), "its signature has expired").await;
    let late = ["--faked-system-time", "20900101T000000!"];
    case.refused_with(gpg.sign(&early, &late, &claim), "from the future").await;
    let signature = gpg.sign(&early, &[], &claim);
    gpg.revoke(&early);
    case.signed_by(&gpg.export(&early));
    case.refused_with(signature, "the key that made it is revoked").await;
    let spent = gpg.make("ed25519", &["--faked-system-time", "20200101T000000!"], "2d");
    let signature = gpg.sign(&spent, &["--faked-system-time", "20200101T000001!"], &claim);
    case.signed_by(&gpg.export(&spent));
    case.refused_with(signature, "the key that made it has expired").await;
}

#[tokio::test]
async fn a_subkey_signs_for_its_primary_key() {
    let (case, gpg) = (Case::new(), Gpg::new());
    let primary = gpg.make("ed25519", &[], "never");
    gpg.run(&["--quick-add-key", &primary, "rsa3072", "sign", "never"], b"");
    let listed = String::from_utf8(gpg.run(&["--list-keys", "--with-colons", &primary], b"")).unwrap();
    let subkey = listed.lines().filter(|line| line.starts_with("fpr:")).nth(1).unwrap();
    let subkey = format!("{}!", subkey.split(':').nth(9).unwrap());
    let exported = gpg.export(&primary);
    case.signed_by(&exported);
    case.keep(&[gpg.sign(&subkey, &[], &case.claim())]);
    case.pull(NAME).await.unwrap();
    // Without the packets behind the subkey nothing binds it.
    let packets = exported.len() - binding_length(&exported);
    case.signed_by(&exported[..packets]);
    case.refused("or nothing binds it").await;
    // Nor without its own word on it, which the primary key's signature does not cover.
    let mut torn = exported.clone();
    let within = torn.len() - 120;
    torn[within] ^= 1;
    case.signed_by(&torn);
    case.refused("or nothing binds it").await;
    let stranger = gpg.make("ed25519", &[], "never");
    case.signed_by(
        &[&gpg.export(&stranger)[..], &exported[exported.len() - subkey_block(&exported)..]].concat(),
    );
    case.refused("or nothing binds it").await;
}

#[tokio::test]
async fn a_revocation_that_nobody_can_check_counts_all_the_same() {
    let (case, gpg) = (Case::new(), Gpg::new());
    let ours = gpg.make("ed25519", &[], "never");
    let good = gpg.export(&ours);
    case.keep(&[gpg.sign(&ours, &[], &case.claim())]);
    gpg.revoke(&ours);
    let revoked = gpg.export(&ours);
    let lengths = packet_lengths(&revoked);
    // The key, then its revocation, whose head is as long as the tag says.
    let (key, body) = (lengths[0], lengths[0] + if revoked[lengths[0]] & 3 == 0 { 2 } else { 3 });
    let with = |at: usize, byte: u8| {
        let mut changed = revoked.clone();
        changed[body + at] = byte;
        changed
    };
    let digits = ours.as_bytes()[24..].chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    let key_id: Vec<u8> = digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect();
    // Version 3, whose type and key ID lie elsewhere (RFC 4880, 5.2.2).
    let v3 = |kind: u8, key_id: &[u8]| {
        [&[0x88, 22, 3, 5, kind, 0, 0, 0, 1][..], key_id, &[1, 8, 0, 0, 0, 8, 255]].concat()
    };
    let behind_key = |packet: Vec<u8>| [&good[..key], &packet, &good[key..]].concat();
    let rings = [
        ("as it is", revoked.clone()),
        ("with SHA-224 (RFC 9580, 9.5)", with(3, 11)),
        ("of an unknown version", with(0, 99)),
        ("with a critical subpacket that nobody knows", with(7, 0x80 | 101)),
        ("of version 3", behind_key(v3(0x20, &key_id))),
    ];
    case.signed_by(&good);
    case.pull(NAME).await.unwrap();
    for (how, ring) in rings {
        case.signed_by(&ring);
        let text = case.pull(NAME).await.expect_err(how);
        assert!(text.contains("the key that made it is revoked"), "{how}: {text}");
    }
    // Somebody else's, and something that revokes nothing.
    for ring in [behind_key(v3(0x20, &[7; 8])), behind_key(v3(0x13, &key_id))] {
        case.signed_by(&ring);
        case.pull(NAME).await.unwrap();
    }
    // A user ID, without which nobody says what the key is for, is taken back alike.
    let user_id = key + packet_lengths(&good)[1];
    case.signed_by(&[&good[..user_id], &v3(0x30, &key_id), &good[user_id..]].concat());
    case.refused("or nothing binds it").await;
}

/// How long each packet is, head and all, for the forms that gpg exports.
fn packet_lengths(mut bytes: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let Some(first) = bytes.first() {
        let length = match first & 3 {
            0 => 2 + usize::from(bytes[1]),
            _ => 3 + usize::from(bytes[1]) * 256 + usize::from(bytes[2]),
        };
        lengths.push(length);
        bytes = &bytes[length..];
    }
    lengths
}

fn binding_length(exported: &[u8]) -> usize {
    *packet_lengths(exported).last().unwrap()
}

fn subkey_block(exported: &[u8]) -> usize {
    packet_lengths(exported).iter().rev().take(2).sum()
}

#[tokio::test]
async fn no_byte_of_a_signature_can_be_changed_and_none_makes_it_crash() {
    let (case, gpg) = (Case::new(), Gpg::new());
    let ours = gpg.make("ed25519", &[], "never");
    case.signed_by(&gpg.export(&ours));
    let good =
        gpg.sign(&ours, &["--compress-algo", "none"], &payload("one.test/a/other:1", &case.picture.top));
    // Each is for another image: a change that is overlooked would be seen as accepted only if it mattered,
    // so every one must be refused, and those in the payload for the signature's sake.
    let at = good.windows(5).position(|window| window == b"other").unwrap();
    let mut forged = good.clone();
    forged.splice(at..at + 5, *b"b:1\"}");
    case.refused_with(forged, "").await;
    let changed: Vec<Vec<u8>> = (0..good.len())
        .map(|at| {
            let mut changed = good.clone();
            changed[at] ^= 1 << (at % 8);
            changed
        })
        .collect();
    for some in changed.chunks(100) {
        case.keep(some);
        case.refused("").await;
    }
    let cut: Vec<Vec<u8>> = (1..good.len()).step_by(3).map(|length| good[..length].to_vec()).collect();
    for some in cut.chunks(100) {
        case.keep(some);
        case.refused("").await;
    }
    let mut bomb = flate2::write::DeflateEncoder::new(vec![0xa3, 1], flate2::Compression::fast());
    bomb.write_all(&vec![0; 8 << 20]).unwrap();
    case.refused_with(bomb.finish().unwrap(), "longer than 1048576 bytes").await;
}

#[tokio::test]
async fn keys_come_from_files_armour_and_the_policy() {
    let (case, gpg) = (Case::new(), Gpg::new());
    let (ours, other) = (gpg.make("ed25519", &[], "never"), gpg.make("ed25519", &[], "never"));
    case.keep(&[gpg.sign(&ours, &[], &case.claim())]);
    let ask = |mut what: Value| {
        (what["type"], what["keyType"]) = ("signedBy".into(), "GPGKeys".into());
        case.policy(json!([what]));
    };
    let armoured = gpg.run(&["--armor", "--export", &other, &ours], b"");
    ask(json!({"keyData": BASE64.encode(&armoured)}));
    case.pull(NAME).await.unwrap();
    let (a, b) = (case.file("a", gpg.export(&other)), case.file("b", gpg.export(&ours)));
    ask(json!({"keyPaths": [a, b]}));
    case.pull(NAME).await.unwrap();
    ask(json!({"keyPaths": [a]}));
    case.refused("none of the policy's keys made it").await;
    ask(json!({"keyPath": case.file("c", "no key")}));
    case.refused("no OpenPGP key").await;
    ask(json!({"keyPath": "/nonexistent"}));
    case.refused("reading /nonexistent").await;
    ask(
        json!({"keyPath": b, "signedIdentity": {"type": "exactReference", "dockerReference": "vendor.test/b:9"}}),
    );
    case.refused("another image").await;
    case.keep(&[gpg.sign(&ours, &[], &payload("vendor.test/b:9", &case.picture.top))]);
    case.pull(NAME).await.unwrap();
}

#[tokio::test]
async fn a_server_beside_the_registry_keeps_signatures() {
    let (case, gpg) = (Case::new(), Gpg::new());
    let (ours, other) = (gpg.make("ed25519", &[], "never"), gpg.make("rsa2048", &[], "never"));
    case.signed_by(&gpg.export(&ours));
    let signatures = [gpg.sign(&other, &[], &case.claim()), gpg.sign(&ours, &[], &case.claim())];
    let place = format!("/sigs/a/b@sha256={}/signature-", case.picture.top.hex());
    let server = Fake::start(move |seen| match seen.path.strip_prefix(&place).map(str::parse::<usize>) {
        Some(Ok(number)) if number <= 2 => Reply::new(200, signatures[number - 1].clone()),
        Some(Ok(_)) => Reply::new(404, ""),
        _ if seen.path.starts_with("/moved") => Reply::new(302, "").header("Location", &seen.path[6..]),
        _ if seen.path.starts_with("/round") => Reply::new(302, "").header("Location", "/round"),
        _ if seen.path.starts_with("/endless") => Reply::new(200, vec![0x80; 2 << 20]),
        _ => Reply::new(403, ""),
    });
    let at = |path: &str| case.lookaside(&format!("http://{}{path}", server.host()));
    at("/sigs");
    case.pull(NAME).await.unwrap();
    at("/moved/sigs/");
    case.pull(NAME).await.unwrap();
    // Whether there is a signature is not known, and that is no verdict.
    for (path, why) in
        [("/round", "too many"), ("/endless", "longer than 1048576"), ("/denied", "access is denied")]
    {
        at(path);
        let text = case.pull(NAME).await.unwrap_err();
        assert!(text.contains(why) && !text.contains("SignatureValidationFailed"), "{path}: {text}");
    }
}

#[tokio::test]
async fn a_registry_can_keep_signatures_itself() {
    let (case, gpg) = (Case::new(), Gpg::new());
    let ours = gpg.make("ed25519", &[], "never");
    let list = |content: &str| {
        json!({"signatures": [
            {"schemaVersion": 2, "name": "x@1", "type": "other", "content": "x"},
            {"schemaVersion": 2, "name": "x@2", "type": "atomic", "content": content}]})
    };
    let good = list(&BASE64.encode(gpg.sign(&ours, &[], &case.claim()))).to_string();
    for (supports, answer, why) in [
        ("1", good.clone(), None),
        ("0", good, Some("keeps no signatures itself")),
        ("1", list("?").to_string(), Some("there is no such signature")),
        ("1", "no list".to_owned(), Some("can't be used")),
    ] {
        let picture = case.picture.clone();
        let path = format!("/extensions/v2/a/b/signatures/{}", picture.top);
        let fake = Fake::start(move |seen| match seen.path.as_str() {
            "/v2/" => Reply::new(200, "{}").header("X-Registry-Supports-Signatures", supports),
            asked if asked == path => Reply::new(200, answer.clone()),
            _ => picture.answer(seen),
        });
        let node = Node::new(&fake.host());
        let case = Case { node, fake, shelf: case.shelf.clone(), picture: case.picture.clone() };
        case.signed_by(&gpg.export(&ours));
        match (case.pull(NAME).await, why) {
            (Ok(()), None) => {}
            (Err(text), Some(why)) => assert!(text.contains(why), "{why:?} is not in {text:?}"),
            (pulled, _) => panic!("{supports} {why:?}: {pulled:?}"),
        }
    }
}

#[tokio::test]
async fn sigstores_signatures_can_lie_beside_the_registry_and_only_there() {
    let (case, ours) = (Case::new(), crate::support::cosign::key());
    let path = case.file("key.pub", ours.public_key_pem());
    case.policy(json!([{"type": "sigstoreSigned", "keyPath": path}]));
    let signature = crate::support::cosign::Signature::new(&ours, NAME, &case.picture.top);
    let stored = json!({"mimeType": crate::support::cosign::LAYER, "payload": BASE64.encode(&signature.payload),
        "annotations": signature.annotations});
    case.keep(&[format!("\0sigstore-json\n{stored}").into_bytes()]);
    case.pull(NAME).await.unwrap();
    case.keep(&[format!("\0other\n{stored}").into_bytes()]);
    case.refused("its format is not known").await;
    let tag = format!("a/b:sha256-{}.sig", case.picture.top.hex());
    case.shelf.put(&tag, &crate::support::cosign::tagged(&[signature]));
    case.pull(NAME).await.unwrap();
    let forbidden = "default-docker:\n  use-sigstore-attachments: false\n";
    std::fs::write(case.node.settings.registries_d.join("default.yaml"), forbidden).unwrap();
    case.refused("there is no such signature").await;
    std::fs::write(case.node.settings.registries_d.join("more.yaml"), forbidden).unwrap();
    case.refused("default-docker is said in").await;
}
