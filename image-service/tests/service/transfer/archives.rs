//! Layouts and archives: what others write we read, and what we write others read.

use serde_json::json;

use super::*;
use crate::support::docker_registry::DockerRegistry;
use crate::support::shelf::{Node, gzip, id, image, tar};

struct Bench {
    dir: tempfile::TempDir,
    node: Node,
    picture: crate::support::picture::Picture,
    _registry: DockerRegistry,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let registry = DockerRegistry::start(&dir.path().join("storage"), "", "");
        // The same layer twice, as builders that add nothing make them.
        let layers = [tar(&[("etc/", ""), ("etc/issue", "hello")]), tar(&[("x", "y")]), tar(&[("x", "y")])];
        let picture = image(&layers, json!({"Cmd": ["/x"], "Labels": {"a": "b"}}));
        registry.push("team/app", "1", &picture);
        Bench { node: Node::new(&registry.host()), dir, picture, _registry: registry }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    async fn copied(&self, source: &str, target: &str) -> Copied {
        copied(&self.node.settings, source, target).await
    }
}

const APP: &str = "docker://one.test/team/app:1";

#[tokio::test]
async fn layouts_and_archives_keep_the_digest_on_every_way() {
    let bench = Bench::new();
    let places = ["oci:{}/l:v1", "oci-archive:{}/a.tar:v1"].map(|place| place.replace("{}", &bench.path("")));
    let mut source = APP.to_owned();
    for place in &places {
        assert_eq!(bench.copied(&source, place).await.digest, bench.picture.top);
        let raw = said("skopeo", &["inspect", "--raw", place]);
        assert_eq!(raw.as_bytes(), bench.picture.manifests[&bench.picture.top].1);
        let shown = shown(&bench.node.settings, place).await.unwrap();
        assert_eq!(shown["Labels"], json!({"a": "b"}));
        source = place.clone();
    }
    assert_eq!(bench.copied(&source, "docker://one.test/back:1").await.were_there, 0);
    // Twice into the same layout costs nothing, and under another name it is there twice.
    let again = bench.copied(APP, &places[0].replace(":v1", ":v2")).await;
    assert_eq!((again.sent, again.were_there), (0, 3));
    let why = shown(&bench.node.settings, places[0].trim_end_matches(":v1")).await.unwrap_err();
    assert!(told(&why).contains("it has 2 images") && told(&why).contains("v1, v2"), "{}", told(&why));
    // What is damaged there is replaced.
    let blob = bench.path(&format!("l/blobs/sha256/{}", bench.picture.layer.digest.hex()));
    std::fs::write(&blob, "damaged").unwrap();
    let why = refused(&bench.node.settings, &places[0], "docker://one.test/other:1").await;
    assert!(why.contains("has 7 bytes and not"), "{why}");
    assert_eq!(bench.copied(APP, &places[0]).await.sent, 1);
    assert_eq!(std::fs::read(&blob).unwrap(), bench.picture.blobs[&bench.picture.layer.digest]);
}

#[tokio::test]
async fn skopeo_and_podman_take_our_docker_archive_and_we_skopeo_s() {
    let bench = Bench::new();
    let ours = format!("docker-archive:{}", bench.path("ours.tar"));
    bench.copied(APP, &ours).await;
    let config = said("skopeo", &["inspect", "--config", "--raw", &ours]);
    assert_eq!(config.as_bytes(), bench.picture.blobs[&bench.picture.config.digest]);
    let (root, run) = (bench.path("podman"), bench.path("podman-run"));
    let podman = ["--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
    let loaded = said("podman", &[&podman[..], &["load", "-i", &bench.path("ours.tar")]].concat());
    assert!(loaded.contains("one.test/team/app:1"), "{loaded}");
    let found =
        said("podman", &[&podman[..], &["inspect", "--format", "{{.Id}}", "one.test/team/app:1"]].concat());
    assert_eq!(format!("sha256:{}", found.trim()), id(&bench.picture));
    said("podman", &[&podman[..], &["rmi", "--all"]].concat());
    // An archive is never written over.
    let why = refused(&bench.node.settings, APP, &ours).await;
    assert!(why.contains("it is there already"), "{why}");
    let layout = format!("oci:{}:x", bench.path("from-skopeo"));
    said("skopeo", &["copy", "--quiet", &ours, &layout]);
    let theirs = format!("docker-archive:{}:b.test/c:2", bench.path("theirs.tar"));
    said("skopeo", &["copy", "--quiet", &layout, &theirs]);
    // Packed as a whole, as people keep them.
    let packed = bench.path("theirs.tar.gz");
    std::fs::write(&packed, gzip(&std::fs::read(bench.path("theirs.tar")).unwrap())).unwrap();
    for (n, place) in [theirs.clone(), format!("docker-archive:{packed}")].iter().enumerate() {
        let shown = shown(&bench.node.settings, place).await.unwrap();
        assert_eq!((&shown["Name"], &shown["Labels"]), (&json!("b.test/c"), &json!({"a": "b"})), "{place}");
        let target = format!("docker://one.test/loaded:{n}");
        bench.copied(place, &target).await;
        assert!(shown["Layers"].as_array().unwrap().len() == 3);
    }
    let images = bench.node.open().await;
    let imported = images.import(packed.as_ref(), None).await.unwrap();
    // skopeo writes the configuration anew, in Docker's words.
    assert_eq!(imported[0].repo_tags, ["b.test/c:2"]);
    assert_eq!((&imported[0].config.cmd[..], imported[0].layers.len()), (&["/x".to_owned()][..], 3));
}

#[tokio::test]
async fn an_archive_that_breaks_off_leaves_nothing() {
    let bench = Bench::new();
    let layout = format!("oci:{}:v1", bench.path("l"));
    bench.copied(APP, &layout).await;
    let blob = bench.path(&format!("l/blobs/sha256/{}", bench.picture.layer.digest.hex()));
    let mut bytes = std::fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let out = bench.dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    for transport in ["oci-archive", "docker-archive", "oci"] {
        let target = format!("{transport}:{}", out.join(transport).display());
        let why = refused(&bench.node.settings, &layout, &target).await;
        assert!(why.contains("its digest is"), "{why}");
    }
    let left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["oci"]);
    assert!(!out.join("oci/index.json").exists());
    let why = refused(&bench.node.settings, &layout, "docker://one.test/broken:1").await;
    assert!(why.contains("one.test/broken:1 is not pushed") && why.contains("DIGEST_INVALID"), "{why}");
}

#[tokio::test]
async fn indexes_that_go_on_and_on_end() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new("127.0.0.1:1");
    let layout = dir.path().join("l");
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let kind = crate::support::picture::OCI_INDEX;
    let put = |entry: serde_json::Value| {
        let bytes = json!({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}).to_string();
        let digest = image_service::digest::Digest::sha256(bytes.as_bytes());
        std::fs::write(blobs.join(digest.hex()), &bytes).unwrap();
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    };
    let place = format!("oci:{}", layout.display());
    let copied = async |entry: &serde_json::Value| {
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
        std::fs::write(layout.join("oci-layout"), "{}").unwrap();
        told(&copy(&node.settings, order(&place, "docker://one.test/a:1", true)).await.unwrap_err())
    };
    let nowhere = image_service::digest::Digest::sha256(b"nowhere");
    let mut entry = json!({"mediaType": kind, "digest": nowhere, "size": 1});
    for _ in 0..7 {
        entry = put(entry);
    }
    let why = copied(&entry).await;
    assert!(why.contains("too deep"), "{why}");
    // One that names itself can only be a lie about its digest.
    let own = json!({"mediaType": kind, "digest": nowhere, "size": 1});
    let bytes = json!({"schemaVersion": 2, "mediaType": kind, "manifests": [own]}).to_string();
    std::fs::write(blobs.join(nowhere.hex()), bytes).unwrap();
    let why = copied(&own).await;
    assert!(why.contains("its digest is"), "{why}");
}
