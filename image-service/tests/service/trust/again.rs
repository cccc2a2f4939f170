//! An image that is on the node is judged again whenever a container is made of it.

use image_service::digest::Digest;
use image_service::{Image, Images, PullRequest};
use serde_json::{Value, json};

use super::{Case, NAME, REPOSITORY, told};
use crate::support::cosign::{self, Signature, key};
use crate::support::fake::Reply;
use crate::support::shelf::{image, request, tar};

const STRICT: &str = "strict";

/// A case whose image bears a signature by `ours`, under a policy that accepts all, and one that wants signatures of
/// pods of one namespace.
struct Two {
    case: Case,
    images: Images,
    ours: rcgen::KeyPair,
}

impl Two {
    async fn new() -> Two {
        let case = Case::new();
        let images = case.node.open().await;
        std::fs::create_dir(&case.node.settings.policy_dir).unwrap();
        let two = Two { case, images, ours: key() };
        two.wants(&two.ours);
        two
    }

    /// What pods of the one namespace may run.
    fn strict(&self, policy: &Value) {
        let path = self.case.node.settings.policy_dir.join(format!("{STRICT}.json"));
        std::fs::write(path, policy.to_string()).unwrap();
    }

    fn wants(&self, key: &rcgen::KeyPair) {
        let path = self.case.file("key.pub", key.public_key_pem());
        self.strict(&json!({"default": [{"type": "reject"}], "transports": {"docker": {"one.test": [
            {"type": "sigstoreSigned", "keyPath": path, "signedIdentity": {"type": "matchRepository"}}]}}}));
    }

    fn sign(&self, key: &rcgen::KeyPair) {
        let tag = format!("a/b:sha256-{}.sig", self.case.picture.top.hex());
        let signature = Signature::new(key, REPOSITORY, &self.case.picture.top);
        self.case.shelf.put(&tag, &cosign::tagged(&[signature]));
    }

    async fn pull(&self, namespace: Option<&str>) -> std::sync::Arc<Image> {
        let request = PullRequest { namespace: namespace.map(str::to_owned), ..request(NAME) };
        self.images.pull(request).await.unwrap()
    }

    async fn judge(&self, image: &Image, asked: &[&str], namespace: Option<&str>) -> Result<(), String> {
        self.images.judge(image, asked, namespace).await.map_err(|error| told(&error))
    }

    async fn refused(&self, image: &Image, asked: &[&str], why: &str) {
        let text = self.judge(image, asked, Some(STRICT)).await.expect_err(why);
        assert!(text.starts_with("SignatureValidationFailed: "), "{text:?}");
        assert!(text.contains(why), "{why:?} is not in {text:?}");
    }

    /// How often the registry was asked for anything.
    fn asked(&self) -> usize {
        self.case.fake.paths().len()
    }
}

#[tokio::test]
async fn what_one_namespace_pulled_another_does_not_run_without_its_signatures() {
    let two = Two::new().await;
    let image = two.pull(None).await;
    for asked in [&[NAME, image.id.as_str()][..], &[NAME], &[&image.id], &[REPOSITORY]] {
        let before = two.asked();
        two.judge(&image, asked, None).await.unwrap();
        two.judge(&image, asked, Some("lax")).await.unwrap();
        assert_eq!(two.asked(), before, "nobody is asked where all is accepted");
        two.refused(&image, asked, "there is no such signature").await;
        assert!(two.asked() > before);
        let layer = two.case.picture.layer.digest.to_string();
        assert!(two.case.fake.paths().iter().filter(|path| path.ends_with(&layer)).count() == 1);
    }
    two.sign(&key());
    two.refused(&image, &[NAME], "none of the policy's keys made it").await;
    two.sign(&two.ours);
    two.judge(&image, &[NAME, &image.id], Some(STRICT)).await.unwrap();
    // What was found is kept.
    two.case.shelf.put(&format!("a/b:sha256-{}.sig", two.case.picture.top.hex()), &two.case.picture);
    let before = two.asked();
    two.judge(&image, &[NAME], Some(STRICT)).await.unwrap();
    two.judge(&image, &[&image.id], Some(STRICT)).await.unwrap();
    assert_eq!(two.asked(), before);
    // Another key, in the file that the policy names.
    two.case.file("key.pub", key().public_key_pem());
    two.refused(&image, &[NAME], "there is no such signature").await;
    two.case.file("key.pub", two.ours.public_key_pem());
    two.judge(&image, &[NAME], Some(STRICT)).await.unwrap();
    std::fs::remove_file(two.case.node.dir.path().join("key.pub")).unwrap();
    two.refused(&image, &[NAME], "reading ").await;
}

#[tokio::test]
async fn a_policy_that_was_tightened_counts_at_once() {
    let two = Two::new().await;
    let image = two.pull(None).await;
    let node = |policy: Value| std::fs::write(&two.case.node.settings.policy, policy.to_string()).unwrap();
    let judge = async |asked: &str| two.judge(&image, &[asked], None).await;
    judge(NAME).await.unwrap();
    node(json!({"default": [{"type": "reject"}]}));
    assert!(judge(NAME).await.unwrap_err().contains("the policy rejects one.test/a/b:1"));
    assert!(judge(&image.id).await.unwrap_err().contains("the policy rejects"));
    let accept = json!([{"type": "insecureAcceptAnything"}]);
    node(json!({"default": [{"type": "reject"}], "transports": {"docker": {"one.test/a": accept}}}));
    judge(NAME).await.unwrap();
    judge(&image.id).await.unwrap();
    // A word that is no name of this image proves nothing.
    node(
        json!({"default": [{"type": "reject"}], "transports": {"docker": {"two.test": accept, "one.test/a/b:2": accept}}}),
    );
    for asked in ["two.test/a/b:1", "one.test/a/b:2", "sha256"] {
        assert!(judge(asked).await.unwrap_err().contains("the policy rejects one.test/a/b"), "{asked}");
    }
    node(json!({"default": [{"type": "insecureAcceptAnything"}], "defualt": 1}));
    assert!(judge(NAME).await.unwrap_err().contains("without a policy that can be read"));
    std::fs::remove_file(&two.case.node.settings.policy).unwrap();
    judge(NAME).await.unwrap();
    std::os::unix::fs::symlink("nowhere", &two.case.node.settings.policy).unwrap();
    assert!(judge(NAME).await.unwrap_err().contains("reading the policy"), "a link to nowhere is no policy");
}

#[tokio::test]
async fn a_verdict_outlives_the_daemon_and_the_registry() {
    let mut two = Two::new().await;
    two.sign(&two.ours);
    let image = two.pull(Some(STRICT)).await;
    let unsigned = two.images.pull(request("two.test/a/b:1")).await.unwrap();
    assert_eq!(unsigned.id, image.id, "one image by two names");
    let Two { case, images, ours } = two;
    drop(images);
    // From now on nobody answers where the registry was.
    let gone = case.fake.host();
    let Case { node, shelf, fake, picture } = case;
    drop(fake);
    while std::net::TcpStream::connect(&gone).is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let images = node.open().await;
    let elsewhere = shelf.serve();
    two = Two { case: Case { node, shelf, fake: elsewhere, picture }, images, ours };
    for asked in [NAME, &image.id] {
        let found = two.images.find(asked).unwrap();
        two.judge(&found, &[asked, &image.id], Some(STRICT)).await.unwrap();
    }
    // No verdict was given on this name, nor by this key.
    two.refused(&unsigned, &["two.test/a/b:1"], "the policy rejects two.test").await;
    two.wants(&key());
    let why = "this node knows of no signature, and nobody can be asked for one: RegistryUnavailable";
    two.refused(&image, &[NAME], why).await;
}

#[tokio::test]
async fn a_name_that_an_archive_claims_is_judged_like_any_other() {
    let two = Two::new().await;
    let picture = image(&[tar(&[("evil", "")])], json!({}));
    let dir = two.case.node.dir.path().join("layout");
    layout(&dir, &picture, Some("one.test/apps/x:1"));
    let claimed = two.images.import(&dir, None).await.unwrap().remove(0);
    assert_eq!(claimed.repo_tags, ["one.test/apps/x:1"]);
    two.judge(&claimed, &["one.test/apps/x:1"], None).await.unwrap();
    for asked in ["one.test/apps/x:1", &claimed.id] {
        two.refused(&claimed, &[asked], "there is no such signature").await;
    }
    // Signed by the key, for another repository.
    let tag = format!("apps/x:sha256-{}.sig", picture.top.hex());
    let sign =
        |name| two.case.shelf.put(&tag, &cosign::tagged(&[Signature::new(&two.ours, name, &picture.top)]));
    sign("one.test/apps/y");
    two.refused(&claimed, &["one.test/apps/x:1"], "it is for one.test/apps/y, which is another image").await;
    sign("one.test/apps/x");
    two.judge(&claimed, &["one.test/apps/x:1"], Some(STRICT)).await.unwrap();
    two.images.remove(&claimed.id).await.unwrap();
    // Without a name it is what everything is.
    layout(&dir, &picture, None);
    let nameless = two.images.import(&dir, None).await.unwrap().remove(0);
    assert!(nameless.repo_tags.is_empty());
    two.judge(&nameless, &[&nameless.id], None).await.unwrap();
    two.refused(&nameless, &[&nameless.id, NAME], "the policy rejects sha256:").await;
    let signed = json!([{"type": "sigstoreSigned", "keyPath": "/nonexistent"}]);
    two.strict(&json!({"default": [{"type": "reject"}], "transports": {"docker": {"": signed}}}));
    two.refused(&nameless, &[&nameless.id], "it has no name on this node").await;
}

/// An OCI layout of one image, with the name that tools write.
fn layout(dir: &std::path::Path, picture: &crate::support::picture::Picture, name: Option<&str>) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let (kind, manifest) = &picture.manifests[&picture.top];
    let put = |digest: &Digest, bytes: &[u8]| std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
    put(&picture.top, manifest);
    picture.blobs.iter().for_each(|(digest, bytes)| put(digest, bytes));
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    let mut entry = json!({"mediaType": kind, "digest": picture.top, "size": manifest.len()});
    if let Some(name) = name {
        entry["annotations"] = json!({"io.containerd.image.name": name});
    }
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

#[tokio::test]
async fn a_registry_that_does_not_say_gives_no_verdict() {
    let two = Two::new().await;
    let image = two.pull(None).await;
    // A registry that fails gives no verdict, and is told.
    let path = format!("/v2/a/b/manifests/sha256-{}.sig", two.case.picture.top.hex());
    let broken = crate::support::fake::Fake::start(move |seen| match seen.path == path {
        true => Reply::new(403, "{}"),
        false => Reply::new(200, "{}"),
    });
    let conf = std::fs::read_to_string(&two.case.node.settings.registries_conf).unwrap();
    let conf = conf.replace(&two.case.fake.host(), &broken.host());
    std::fs::write(&two.case.node.settings.registries_conf, conf).unwrap();
    two.images.reload().await.unwrap();
    two.refused(&image, &[NAME], "nobody can be asked for one: no registry lets us have").await;
}
