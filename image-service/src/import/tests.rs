//! Archives of both kinds, honest and hostile.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Opened;
use crate::digest::Digest;
use crate::images::{Images, Settings};
use crate::manifest::MAX_CONFIG_BYTES;
use crate::platform::Platform;
use crate::{Error, Image};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

struct Bench {
    dir: tempfile::TempDir,
    layer: Vec<u8>,
    config: Vec<u8>,
}

impl Bench {
    fn new() -> Bench {
        let layer = tar(&[("hello".to_owned(), b"world".to_vec())]);
        let config = json!({"os": "linux", "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&layer)]}});
        Bench { dir: tempfile::tempdir().unwrap(), layer, config: config.to_string().into_bytes() }
    }

    async fn images(&self) -> Images {
        let mut settings = Settings::new(&self.dir.path().join("root"));
        settings.registries_conf = self.dir.path().join("none");
        settings.registries_conf_dir = self.dir.path().join("none.d");
        settings.policy = self.dir.path().join("policy.json");
        Images::open(settings).await.unwrap()
    }

    async fn import(
        &self,
        files: &[(String, Vec<u8>)],
        name: Option<&str>,
    ) -> Result<Vec<Arc<Image>>, Error> {
        let archive = self.dir.path().join("archive.tar");
        fs::write(&archive, tar(files)).unwrap();
        self.images().await.import(&archive, name).await
    }

    fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
        json!({"mediaType": media_type, "digest": Digest::sha256(bytes), "size": bytes.len()})
    }

    fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
        (format!("blobs/sha256/{}", Digest::sha256(bytes).hex()), bytes.to_vec())
    }

    fn layout(&self, annotations: Value) -> Vec<(String, Vec<u8>)> {
        let layer = Self::descriptor("application/vnd.oci.image.layer.v1.tar", &self.layer);
        let config = Self::descriptor("application/vnd.oci.image.config.v1+json", &self.config);
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
        let manifest = manifest.to_string().into_bytes();
        let mut descriptor = Self::descriptor(MANIFEST, &manifest);
        descriptor["annotations"] = annotations;
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string().into_bytes();
        vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index),
            Self::blob(&manifest),
            Self::blob(&self.config),
            Self::blob(&self.layer),
        ]
    }

    fn docker(&self, tags: Value) -> Vec<(String, Vec<u8>)> {
        let manifest = json!([{"Config": "config.json", "RepoTags": tags, "Layers": ["abc/layer.tar"]}]);
        vec![
            ("abc/layer.tar".to_owned(), self.layer.clone()),
            ("config.json".to_owned(), self.config.clone()),
            ("manifest.json".to_owned(), manifest.to_string().into_bytes()),
        ]
    }

    fn layer_file(&self) -> PathBuf {
        let layer = Digest::sha256(&self.layer);
        self.dir.path().join("root/images/layers").join(layer.hex()).join("hello")
    }
}

#[tokio::test]
async fn an_oci_archive_brings_its_name() {
    let bench = Bench::new();
    let files = bench
        .layout(json!({"io.containerd.image.name": "a.test/b:1", "org.opencontainers.image.ref.name": "1"}));
    let images = bench.import(&files, None).await.unwrap();
    assert_eq!(images[0].id, Digest::sha256(&bench.config).to_string());
    assert_eq!(images[0].repo_tags, ["a.test/b:1"]);
    assert!(images[0].repo_digests[0].starts_with("a.test/b@sha256:"));
    assert_eq!(images[0].config.cmd, ["/hello"]);
    assert_eq!(fs::read_to_string(bench.layer_file()).unwrap(), "world");
}

#[tokio::test]
async fn an_oci_directory_is_read_where_it_is() {
    let bench = Bench::new();
    let layout = bench.dir.path().join("layout");
    for (name, bytes) in bench.layout(json!({"org.opencontainers.image.ref.name": "1"})) {
        let path = layout.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let service = bench.images().await;
    let images = service.import(&layout, Some("a.test/given")).await.unwrap();
    assert_eq!(images[0].repo_tags, ["a.test/given:latest"]);
    assert_eq!(service.find("a.test/given").unwrap().id, images[0].id);
    // A link in the layout that leads outside is not followed there.
    let blob = layout.join(Bench::blob(&bench.config).0);
    fs::write(bench.dir.path().join("outside"), &bench.config).unwrap();
    fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink("../../../outside", &blob).unwrap();
    assert!(service.import(&layout, None).await.is_err());
}

#[tokio::test]
async fn a_docker_archive_brings_its_tags() {
    let bench = Bench::new();
    let images = bench.import(&bench.docker(json!(["busybox:1", "a.test/b:2"])), None).await.unwrap();
    assert_eq!(images[0].repo_tags, ["a.test/b:2", "docker.io/library/busybox:1"]);
    assert!(images[0].repo_digests.is_empty());
    let unnamed = bench.docker(Value::Null);
    assert_eq!(bench.import(&unnamed, Some("c.test/d:1")).await.unwrap()[0].repo_tags.len(), 3);
}

#[tokio::test]
async fn the_policy_is_asked_about_files_too() {
    let bench = Bench::new();
    let policy = r#"{"default": [{"type": "insecureAcceptAnything"}],
        "transports": {"docker-archive": {"": [{"type": "reject"}]}}}"#;
    fs::write(bench.dir.path().join("policy.json"), policy).unwrap();
    let error = bench.import(&bench.docker(Value::Null), None).await.unwrap_err();
    assert!(error.to_string().starts_with("SignatureValidationFailed"), "{error}");
    bench.import(&bench.layout(Value::Null), None).await.unwrap();
}

#[tokio::test]
async fn hostile_archives_are_refused_and_leave_nothing() {
    let bench = Bench::new();
    let swap = |files: Vec<(String, Vec<u8>)>, name: &str, bytes: Vec<u8>| -> Vec<(String, Vec<u8>)> {
        files.into_iter().map(|(n, b)| if n == name { (n, bytes.clone()) } else { (n, b) }).collect()
    };
    let layout = || bench.layout(Value::Null);
    let config = Bench::blob(&bench.config).0;
    let layer = Bench::blob(&bench.layer).0;
    let huge = vec![b' '; 5 << 20];
    let climbing = json!([{"Config": "../../../etc/passwd", "Layers": []}]).to_string().into_bytes();
    let missing = json!([{"Config": "config.json", "Layers": ["nowhere"]}]).to_string().into_bytes();
    let looping = json!({"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST, "size": 1,
        "digest": "sha256:../../../../etc/passwd"}]});
    let other = tar(&[("hello".to_owned(), b"WORLD".to_vec())]);
    let cases = [
        (swap(layout(), "index.json", huge.clone()), "larger than"),
        (swap(layout(), "index.json", b"{".to_vec()), "JSON"),
        (swap(layout(), "index.json", looping.to_string().into_bytes()), "JSON"),
        (swap(layout(), &config, b"{}".to_vec()), "digest"),
        (swap(layout(), &config, huge), "digest"),
        (swap(layout(), &layer, other.clone()), "digest"),
        (swap(layout(), &layer, b"short".to_vec()), "layer"),
        (layout().into_iter().filter(|(name, _)| *name != layer).collect(), "no such file"),
        (swap(bench.docker(Value::Null), "abc/layer.tar", other), "diff ID"),
        (swap(bench.docker(Value::Null), "manifest.json", climbing), "no such file"),
        (swap(bench.docker(Value::Null), "manifest.json", missing), "no such file"),
        (Vec::new(), "neither index.json"),
    ];
    for (number, (files, words)) in cases.into_iter().enumerate() {
        let error = bench.import(&files, None).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(words), "case {number}: {text}");
        assert!(!bench.layer_file().exists(), "case {number}");
        assert!(bench.images().await.list().is_empty(), "case {number}");
    }
    let archive = bench.dir.path().join("archive.tar");
    fs::write(&archive, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let error = bench.images().await.import(&archive, None).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid { what, .. } if what.ends_with("archive.tar")), "{error:?}");
}

#[tokio::test]
async fn an_archive_may_be_packed_once() {
    use std::io::Write;
    let bench = Bench::new();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let plain = tar(&bench.docker(json!(["a.test/b:1"])));
    let archive = bench.dir.path().join("archive.tar.gz");
    for packed in [gzip(&plain), zstd::encode_all(&plain[..], 1).unwrap()] {
        fs::write(&archive, &packed).unwrap();
        let images = bench.images().await.import(&archive, None).await.unwrap();
        assert_eq!(images[0].repo_tags, ["a.test/b:1"]);
        fs::write(&archive, gzip(&packed)).unwrap();
        let error = bench.images().await.import(&archive, None).await.unwrap_err();
        assert!(error.to_string().contains("it is compressed twice"), "{error}");
    }
}

#[tokio::test]
async fn a_docker_archive_may_have_several_images_with_several_tags() {
    let bench = Bench::new();
    let config = String::from_utf8(bench.config.clone()).unwrap().replace("/hello", "/other").into_bytes();
    let mut files = bench.docker(Value::Null);
    files.retain(|(name, _)| name != "manifest.json");
    files.push(("other.json".to_owned(), config.clone()));
    let manifest = json!([
        {"Config": "config.json", "RepoTags": ["a.test/b:1", "a.test/b:2"], "Layers": ["abc/layer.tar"]},
        {"Config": "other.json", "RepoTags": ["c.test/d:1"], "Layers": ["abc/layer.tar"]},
    ]);
    files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
    let images = bench.import(&files, None).await.unwrap();
    let tags: Vec<_> = images.iter().map(|image| image.repo_tags.join(" ")).collect();
    assert_eq!(tags, ["a.test/b:1 a.test/b:2", "c.test/d:1"]);
    assert_eq!(images[1].id, Digest::sha256(&config).to_string());
    let error = bench.import(&files, Some("x.test/y")).await.unwrap_err();
    assert!(error.to_string().contains("it has 2 images"), "{error}");
}

/// A docker archive of so many images, each with a configuration of its own of about so many bytes, or all with
/// the same.
fn crowd(bench: &Bench, count: usize, bytes: usize, same: bool) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("abc/layer.tar".to_owned(), bench.layer.clone())];
    let mut list = Vec::new();
    for n in 0..count {
        let number = if same { 0 } else { n };
        let name = format!("{number}.json");
        if number == n || n == 0 {
            let mut config = bench.config.clone();
            config.resize(bytes - number, b' ');
            files.push((name.clone(), config));
        }
        let tags = [format!("a.test/b:{n}")];
        list.push(json!({"Config": name, "RepoTags": tags, "Layers": ["abc/layer.tar"]}));
    }
    files.push(("manifest.json".to_owned(), Value::from(list).to_string().into_bytes()));
    files
}

#[tokio::test]
async fn the_documents_of_one_import_have_one_bound() {
    let bench = Bench::new();
    let size = MAX_CONFIG_BYTES as usize;
    let error = bench.import(&crowd(&bench, 9, size, false), None).await.unwrap_err();
    assert!(error.to_string().contains("more than 67108864 bytes"), "{error}");
    assert!(bench.images().await.list().is_empty());
    // What many images share is read once and counts once.
    let images = bench.import(&crowd(&bench, 40, size, true), None).await.unwrap();
    assert_eq!(images.last().unwrap().repo_tags.len(), 40);
}

#[tokio::test]
async fn what_images_of_an_archive_share_is_held_once() {
    let bench = Bench::new();
    let open = |files: &[(String, Vec<u8>)]| {
        let archive = bench.dir.path().join("archive.tar");
        fs::write(&archive, tar(files)).unwrap();
        Opened::open(&archive).unwrap().images(&Platform::host(), None).unwrap()
    };
    let mut layout = bench.layout(Value::Null);
    let index: Value = serde_json::from_slice(&layout[1].1).unwrap();
    let entry = index["manifests"][0].clone();
    layout[1].1 = json!({"schemaVersion": 2, "manifests": vec![entry; 3]}).to_string().into_bytes();
    for found in [open(&layout), open(&crowd(&bench, 3, 1000, true))] {
        let held = |n: usize| found[n].documents.iter().map(|(_, bytes)| bytes.as_ptr()).collect::<Vec<_>>();
        assert_eq!((found.len(), held(0), held(0)), (3, held(1), held(2)));
    }
}

#[tokio::test]
async fn the_names_in_an_archive_have_a_bound() {
    let bench = Bench::new();
    let mut files = bench.docker(Value::Null);
    // Components of 200 bytes, and a number at the end.
    let long = format!("{}/", "n".repeat(200)).repeat(19);
    files.extend((0..4500).map(|n| (format!("{long}{n}"), Vec::new())));
    let error = bench.import(&files, None).await.unwrap_err();
    assert!(error.to_string().contains("the names of the files in it"), "{error}");
}
