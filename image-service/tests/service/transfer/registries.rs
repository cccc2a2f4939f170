//! From one registry to another, and a look at one; skopeo is the judge.

use serde_json::json;

use super::*;
use crate::support::docker_registry::DockerRegistry;
use crate::support::picture::OCI_INDEX;
use crate::support::shelf::{Node, image, tar};

fn registry(dir: &tempfile::TempDir, name: &str) -> DockerRegistry {
    DockerRegistry::start(&dir.path().join(name).join("storage"), "", "")
}

/// The storage's parent must be there.
fn two(dir: &tempfile::TempDir) -> (DockerRegistry, DockerRegistry) {
    for name in ["a", "b"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    (registry(dir, "a"), registry(dir, "b"))
}

/// `one.test` is the first registry, `two.test` the other.
fn node(first: &str, second: &str) -> Node {
    let node = Node::new(first);
    let conf = std::fs::read_to_string(&node.settings.registries_conf).unwrap();
    let (before, after) = conf.split_once("prefix = \"two.test\"").unwrap();
    let conf = format!("{before}prefix = \"two.test\"{}", after.replacen(first, second, 1));
    std::fs::write(&node.settings.registries_conf, conf).unwrap();
    node
}

#[tokio::test]
async fn an_image_keeps_its_digest_and_only_what_lacks_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = two(&dir);
    let base = tar(&[("base", "x")]);
    let old = image(std::slice::from_ref(&base), json!({"Env": ["A=b"]}));
    let new = image(&[base, tar(&[("more", "y")])], json!({"Env": ["A=c"]}));
    first.push("team/app", "1", &old);
    first.push("team/app", "2", &new);
    let node = node(&first.host(), &second.host());
    let settings = &node.settings;
    let done = copied(settings, "docker://one.test/team/app:1", "docker://two.test/x/app:1").await;
    assert_eq!((done.digest.clone(), done.sent, done.were_there), (old.top.clone(), 2, 0));
    // The layer that both have is there; configuration and the other layer are not.
    let done = copied(settings, "docker://one.test/team/app:2", "docker://two.test/x/app:2").await;
    assert_eq!((done.digest.clone(), done.sent, done.were_there), (new.top.clone(), 2, 1));
    let done = copied(settings, "docker://one.test/team/app:2", "docker://two.test/x/app:3").await;
    assert_eq!((done.sent, done.were_there), (0, 3));
    // To another repository of the same registry nothing is sent either: it takes them over.
    let done = copied(settings, "docker://two.test/x/app:2", "docker://two.test/y:1").await;
    assert_eq!((done.digest, done.sent, done.were_there), (new.top.clone(), 0, 3));
    let place = format!("docker://{}/y:1", second.host());
    let raw = said("skopeo", &["inspect", "--tls-verify=false", "--raw", &place]);
    assert_eq!(raw.as_bytes(), new.manifests[&new.top].1);
    let place = format!("oci:{}:t", dir.path().join("layout").display());
    said("skopeo", &["copy", "--src-tls-verify=false", &format!("docker://{}/y:1", second.host()), &place]);
}

#[tokio::test]
async fn an_index_is_copied_whole_or_the_one_image_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = two(&dir);
    let amd = image(&[tar(&[("amd", "")])], json!({}));
    let arm = image(&[tar(&[("arm", "")])], json!({}));
    first.push("app", "amd", &amd);
    first.push("app", "arm", &arm);
    let mut both = amd.clone();
    let entry = |top: &crate::support::picture::Picture, architecture: &str| {
        let (media_type, bytes) = &top.manifests[&top.top];
        json!({"mediaType": media_type, "digest": top.top, "size": bytes.len(),
            "platform": {"os": "linux", "architecture": architecture}})
    };
    let entries = json!([entry(&amd, "amd64"), entry(&arm, "arm64")]);
    both.put(OCI_INDEX, &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}));
    both.blobs.clear();
    first.push("app", "1", &both);
    let node = node(&first.host(), &second.host());
    let settings = &node.settings;
    let layout = format!("oci:{}:v1", dir.path().join("layout").display());
    let all = copy(settings, order("docker://one.test/app:1", &layout, true)).await.unwrap();
    assert_eq!((all.digest.clone(), all.sent), (both.top.clone(), 4));
    let back = copy(settings, order(&layout, "docker://two.test/app:1", true)).await.unwrap();
    assert_eq!((back.digest, back.sent), (both.top.clone(), 4));
    let place = format!("docker://{}/app:1", second.host());
    let raw = said("skopeo", &["inspect", "--tls-verify=false", "--raw", &place]);
    assert_eq!(raw.as_bytes(), both.manifests[&both.top].1);
    let one = copied(settings, "docker://one.test/app:1", "docker://two.test/app:amd").await;
    assert_eq!(one.digest, amd.top);
    let pinned = format!("docker://two.test/app@{}", both.top);
    let why = refused(settings, "docker://one.test/app:1", &pinned).await;
    assert!(why.contains("what is copied has the digest"), "{why}");
}

#[tokio::test]
async fn what_is_shown_is_what_skopeo_shows() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = two(&dir);
    let labels = json!({"a": "b", "c": "d"});
    let picture = image(&[tar(&[("x", "y")]), tar(&[("z", "")])], json!({"Env": ["A=b"], "Labels": labels}));
    first.push("team/app", "1", &picture);
    first.push("team/app", "2", &picture);
    let node = node(&first.host(), &second.host());
    let theirs =
        said("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{}/team/app:1", first.host())]);
    let mut theirs: serde_json::Value = serde_json::from_str(&theirs).unwrap();
    let ours = shown(&node.settings, "docker://one.test/team/app:1").await.unwrap();
    // What is asked for by another name is called so; of the time, an image without one says nothing.
    theirs["Name"] = json!("one.test/team/app");
    for (key, value) in theirs.as_object().unwrap() {
        if key != "Created" {
            assert_eq!(&ours[key], value, "{key}");
        }
    }
    let mut tags: Vec<_> =
        ours["RepoTags"].as_array().unwrap().iter().filter_map(|tag| tag.as_str()).collect();
    tags.sort_unstable();
    assert!(tags == ["1", "2"] && ours["Labels"] == labels, "{ours}");
    let error = shown(&node.settings, "docker://one.test/team/app:none").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn the_policy_is_asked_before_anything_is_copied_or_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = two(&dir);
    first.push("app", "1", &image(&[tar(&[("x", "y")])], json!({})));
    let node = node(&first.host(), &second.host());
    std::fs::write(&node.settings.policy, r#"{"default": [{"type": "reject"}]}"#).unwrap();
    let why = refused(&node.settings, "docker://one.test/app:1", "docker://two.test/app:1").await;
    assert!(why.starts_with("SignatureValidationFailed"), "{why}");
    let why = shown(&node.settings, "docker://one.test/app:1").await.unwrap_err();
    assert!(why.to_string().starts_with("SignatureValidationFailed"), "{why}");
}

const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K\n";

#[tokio::test]
async fn a_push_is_let_in_by_the_node_s_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _) = two(&dir);
    let picture = image(&[tar(&[("x", "y")])], json!({}));
    first.push("app", "1", &picture);
    let (passwords, storage) = (dir.path().join("htpasswd"), dir.path().join("closed/storage"));
    std::fs::create_dir(dir.path().join("closed")).unwrap();
    std::fs::write(&passwords, HTPASSWD).unwrap();
    let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", passwords.display());
    let closed = DockerRegistry::start(&storage, "", &auth);
    let node = node(&first.host(), &closed.host());
    let mut settings = node.settings.clone();
    let (source, target) = ("docker://one.test/app:1", "docker://two.test/team/app:1");
    let why = refused(&settings, source, target).await;
    assert!(why.contains("two.test/team/app:1 is not pushed") && why.contains("no credentials"), "{why}");
    let file = dir.path().join("auth.json");
    let keys = json!({"auths": {format!("{}/team", closed.host()): {"auth": "dXNlcjpwYXNz"}}});
    std::fs::write(&file, keys.to_string()).unwrap();
    settings.auth_files = vec![file];
    assert_eq!(copied(&settings, source, target).await.digest, picture.top);
}
