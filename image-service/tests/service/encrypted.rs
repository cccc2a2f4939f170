//! Encrypted layers: images that skopeo encrypted, for keys that openssl made.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use image_service::Error;
use image_service::digest::Digest;
use serde_json::{Value, json};

use crate::support::picture::{OCI_MANIFEST, Picture};
use crate::support::shelf::{Node, Shelf, image, request, tar};
use crate::support::{fake, picture};

const NAME: &str = "one.test/a/b:1";
const JWE: &str = "org.opencontainers.image.enc.keys.jwe";
const PUBLIC_OPTIONS: &str = "org.opencontainers.image.enc.pubopts";

fn run(dir: &Path, program: &str, args: &[&str]) {
    let output =
        Command::new(program).args(args).current_dir(dir).output().expect("Debian's skopeo and openssl");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `NAME.pem` and `NAME.pub`.
fn make_key(dir: &Path, name: &str, args: &[&str]) {
    run(dir, "openssl", &[args, &["-out", &format!("{name}.pem")]].concat());
    run(dir, "openssl", &["pkey", "-in", &format!("{name}.pem"), "-pubout", "-out", &format!("{name}.pub")]);
}

fn make_rsa(dir: &Path, name: &str) {
    make_key(dir, name, &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
}

fn write_layout(dir: &Path, picture: &Picture) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let manifests = picture.manifests.iter().map(|(digest, (_, bytes))| (digest, bytes));
    for (digest, bytes) in picture.blobs.iter().chain(manifests) {
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
    }
    let size = picture.manifests[&picture.top].1.len();
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, "digest": picture.top,
        "size": size, "annotations": {"org.opencontainers.image.ref.name": "t"}}]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

fn read_layout(dir: &Path, like: &Picture) -> Picture {
    let index: Value = serde_json::from_slice(&std::fs::read(dir.join("index.json")).unwrap()).unwrap();
    let top = Digest::parse(index["manifests"][0]["digest"].as_str().unwrap()).unwrap();
    let (mut blobs, mut manifests) = (BTreeMap::new(), BTreeMap::new());
    for entry in std::fs::read_dir(dir.join("blobs/sha256")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let digest = Digest::sha256(&bytes);
        if digest == top {
            manifests.insert(digest, (OCI_MANIFEST.to_owned(), bytes));
        } else {
            blobs.insert(digest, bytes);
        }
    }
    Picture { blobs, manifests, top, ..like.clone() }
}

/// The image encrypted by skopeo for these recipients (`NAME.pub` in the directory).
fn encrypt(dir: &Path, plain: &Picture, recipients: &[&str]) -> Picture {
    let (from, to) = (dir.join("plain"), dir.join("sealed"));
    for old in [&from, &to] {
        let _ = std::fs::remove_dir_all(old);
    }
    write_layout(&from, plain);
    let mut args = vec!["--insecure-policy".to_owned(), "copy".to_owned()];
    for name in recipients {
        args.extend(["--encryption-key".to_owned(), format!("jwe:{name}.pub")]);
    }
    args.extend(["oci:plain:t".to_owned(), "oci:sealed:t".to_owned()]);
    run(dir, "skopeo", &args.iter().map(String::as_str).collect::<Vec<_>>());
    let sealed = read_layout(&to, plain);
    assert!(layer(&sealed)["mediaType"].as_str().unwrap().ends_with("+encrypted"));
    sealed
}

fn layer(picture: &Picture) -> Value {
    let document: Value = serde_json::from_slice(&picture.manifests[&picture.top].1).unwrap();
    document["layers"][0].clone()
}

fn spoil(picture: &Picture, change: impl Fn(&mut Value)) -> Picture {
    let mut picture = picture.clone();
    let mut document: Value = serde_json::from_slice(&picture.manifests[&picture.top].1).unwrap();
    change(&mut document["layers"][0]);
    picture.put(OCI_MANIFEST, &document);
    picture
}

fn told(error: &Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

struct Case {
    keys: tempfile::TempDir,
    node: Node,
    shelf: Shelf,
    fake: fake::Fake,
    tar: Vec<u8>,
    plain: Picture,
}

impl Case {
    fn new() -> Case {
        Case::of(tar(&[("app", "hello"), ("etc/", ""), ("etc/conf", "x = 1")]))
    }

    fn of(tar: Vec<u8>) -> Case {
        let plain = image(std::slice::from_ref(&tar), json!({}));
        let shelf = Shelf::default();
        let fake = shelf.serve();
        let mut node = Node::new(&fake.host());
        node.settings.decryption_keys_path = node.dir.path().join("keys");
        std::fs::create_dir(&node.settings.decryption_keys_path).unwrap();
        Case { keys: tempfile::tempdir().unwrap(), node, shelf, fake, tar, plain }
    }

    fn encrypt(&self, recipients: &[&str]) -> Picture {
        encrypt(self.keys.path(), &self.plain, recipients)
    }

    fn give(&self, name: &str) {
        let key = self.keys.path().join(format!("{name}.pem"));
        std::fs::copy(key, self.node.settings.decryption_keys_path.join(name)).unwrap();
    }

    fn take_all(&self) {
        std::fs::remove_dir_all(&self.node.settings.decryption_keys_path).unwrap();
        std::fs::create_dir(&self.node.settings.decryption_keys_path).unwrap();
    }

    /// Pulls, looks at what was unpacked, and removes it.
    async fn pulled(&self) {
        let images = self.node.open().await;
        let pulled = images.pull(request(NAME)).await.map_err(|error| told(&error)).unwrap();
        assert_eq!(std::fs::read(self.node.layer(&self.tar).join("app")).unwrap(), b"hello");
        images.remove(&pulled.id).await.unwrap();
        self.node.check_empty().await;
    }

    /// Not pulled, for this reason, and nothing is left.
    async fn refused(&self, why: &str) {
        let images = self.node.open().await;
        let error = images.pull(request(NAME)).await.unwrap_err();
        assert!(told(&error).contains(why), "{why:?} is not in {:?}", told(&error));
        assert!(images.list().is_empty());
        self.node.check_empty().await;
    }
}

#[tokio::test]
async fn every_kind_of_key_opens_a_layer() {
    let case = Case::new();
    let dir = case.keys.path();
    make_rsa(dir, "pkcs8");
    run(dir, "openssl", &["rsa", "-in", "pkcs8.pem", "-traditional", "-out", "pkcs1.pem"]);
    make_key(dir, "p256", &["ecparam", "-name", "prime256v1", "-genkey", "-noout"]);
    make_key(dir, "p384", &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    make_rsa(dir, "other");
    let check = async |recipients: &[&str], key: &str| {
        case.shelf.put("a/b:1", &case.encrypt(recipients));
        case.take_all();
        case.give("other");
        case.refused("none of the 1 keys").await;
        case.give(key);
        case.pulled().await;
    };
    check(&["pkcs8"], "pkcs8").await;
    check(&["pkcs8"], "pkcs1").await;
    check(&["p256"], "p256").await;
    check(&["p384"], "p384").await;
    check(&["pkcs8", "p256", "p384"], "p384").await;
    check(&["p384", "pkcs8"], "pkcs8").await;
}

#[tokio::test]
async fn a_large_layer_is_opened_behind_its_download() {
    let noise: String = picture::noise(12 << 20).iter().map(|byte| char::from(b'0' + byte % 64)).collect();
    let mut case = Case::of(tar(&[("app", "hello"), ("noise", &noise)]));
    case.node.settings.parts_from_bytes = 8 << 20;
    case.node.settings.parts_after = Duration::ZERO;
    make_rsa(case.keys.path(), "key");
    let sealed = case.encrypt(&["key"]);
    assert!(layer(&sealed)["size"].as_u64().unwrap() > case.node.settings.parts_from_bytes);
    case.shelf.put("a/b:1", &sealed);
    case.give("key");
    case.pulled().await;
}

#[tokio::test]
async fn who_has_no_key_gets_nothing_even_where_others_had_one() {
    let case = Case::new();
    make_rsa(case.keys.path(), "key");
    make_rsa(case.keys.path(), "other");
    case.shelf.put("a/b:1", &case.encrypt(&["key"]));
    case.refused("it is encrypted, and there is no key in").await;
    let asked = case.fake.paths().iter().filter(|path| path.contains("/blobs/")).count();
    assert_eq!(asked, 0, "blobs of what can't be opened were fetched");
    std::fs::write(case.node.settings.decryption_keys_path.join("note"), "no key").unwrap();
    case.refused("(no keys: note: it holds no private key in PEM)").await;
    // The same layer, unpacked already by an image that is not encrypted.
    case.shelf.put("a/c:1", &case.plain);
    let images = case.node.open().await;
    images.pull(request("one.test/a/c:1")).await.unwrap();
    case.give("other");
    let error = images.pull(request(NAME)).await.unwrap_err();
    assert!(told(&error).contains("it is encrypted for others"), "{}", told(&error));
    case.give("key");
    images.pull(request(NAME)).await.unwrap();
}

#[tokio::test]
async fn what_was_changed_after_it_was_encrypted_is_never_shown() {
    let case = Case::new();
    make_rsa(case.keys.path(), "key");
    case.give("key");
    let sealed = case.encrypt(&["key"]);
    let options = |picture: &Picture, change: &dyn Fn(&mut Value)| {
        spoil(picture, |layer| {
            let text = layer["annotations"][PUBLIC_OPTIONS].as_str().unwrap();
            let mut options: Value = serde_json::from_slice(&BASE64.decode(text).unwrap()).unwrap();
            change(&mut options);
            layer["annotations"][PUBLIC_OPTIONS] = BASE64.encode(options.to_string()).into();
        })
    };
    let other = BASE64.encode([7; 32]);
    let spoiled = [
        (
            options(&sealed, &|options| options["hmac"] = other.clone().into()),
            "its authentication code is wrong",
        ),
        (options(&sealed, &|options| options["hmac"] = Value::Null), "there is no authentication code"),
        (options(&sealed, &|options| options["cipher"] = "AES_256_ECB".into()), "the cipher is not"),
        (spoil(&sealed, |layer| layer["annotations"] = json!({})), "there are no public options"),
        (
            spoil(&sealed, |layer| {
                let jwe = layer["annotations"][JWE].take();
                layer["annotations"].as_object_mut().unwrap().remove(JWE);
                layer["annotations"]["org.opencontainers.image.enc.keys.pgp"] = jwe;
            }),
            "its key is wrapped as pgp",
        ),
        (spoil(&sealed, |layer| layer["annotations"][JWE] = "!".into()), "a JWE is not base64"),
        (
            spoil(&sealed, |layer| {
                let text = layer["annotations"][JWE].as_str().unwrap();
                let mut jwe: Value = serde_json::from_slice(&BASE64.decode(text).unwrap()).unwrap();
                let tag = jwe["tag"].as_str().unwrap();
                jwe["tag"] = format!("{}{}", if tag.starts_with('A') { 'B' } else { 'A' }, &tag[1..]).into();
                layer["annotations"][JWE] = BASE64.encode(jwe.to_string()).into();
            }),
            "it is encrypted for others",
        ),
        // The bytes themselves, under the digest that they now have.
        (flipped(&sealed), "is not what its digest says"),
    ];
    for (picture, why) in &spoiled {
        case.shelf.put("a/b:1", picture);
        if *why == "is not what its digest says" {
            // What is not taken away when a service ends is left to the next.
            let images = case.node.open().await;
            let error = images.pull(request(NAME)).await.unwrap_err();
            assert!(matches!(error, Error::Layer { .. } | Error::Verification { .. }), "{}", told(&error));
            case.node.check_empty().await;
        } else {
            case.refused(why).await;
        }
    }
    case.shelf.put("a/b:1", &sealed);
    case.pulled().await;
}

/// A bit of the encrypted bytes is another, and all digests of them say so.
fn flipped(sealed: &Picture) -> Picture {
    let mut picture = spoil(sealed, |_| ());
    let digest = Digest::parse(layer(sealed)["digest"].as_str().unwrap()).unwrap();
    let mut bytes = picture.blobs[&digest].clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let new = Digest::sha256(&bytes);
    picture.blobs.insert(new.clone(), bytes);
    spoil(&picture, |layer| layer["digest"] = new.to_string().into())
}

#[tokio::test]
async fn an_encrypted_layout_is_taken_in_with_the_key_only() {
    let case = Case::new();
    make_rsa(case.keys.path(), "key");
    case.encrypt(&["key"]);
    let layout = case.keys.path().join("sealed");
    let images = case.node.open().await;
    let error = images.import(&layout, Some(NAME)).await.unwrap_err();
    assert!(told(&error).contains("there is no key in"), "{}", told(&error));
    assert!(images.list().is_empty());
    case.give("key");
    images.import(&layout, Some(NAME)).await.unwrap();
    assert_eq!(std::fs::read(case.node.layer(&case.tar).join("app")).unwrap(), b"hello");
}
