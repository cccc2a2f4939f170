//! Holding the store against its digests, mending it, and giving images out of it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use image_service::digest::Digest;
use image_service::transfer::{self, Location};
use image_service::{Images, Outcome, Progress, Repair, Verified, Verifying};
use serde_json::json;
use tokio::sync::watch;

use crate::support::shelf::{Node, Shelf, exists, id, image, request, serving, tar};
use crate::support::{docker_registry, fake};

async fn verified(images: &Images, repair: bool) -> Verified {
    let repair = if repair { Repair::mend() } else { Repair::Leave };
    images.verify(&[], &repair, watch::channel(Verifying::default()).0).await.unwrap()
}

/// What the findings are, each as (layer, why, outcome).
fn findings(verified: &Verified) -> Vec<(String, String, Outcome)> {
    let told = |one: &image_service::Finding| (one.object.clone(), one.why.clone(), one.outcome.clone());
    verified.findings.iter().map(told).collect()
}

fn blobs_asked(fake: &fake::Fake) -> usize {
    fake.paths().iter().filter(|path| path.contains("/blobs/")).count()
}

fn layers() -> [Vec<u8>; 2] {
    let big = "text ".repeat(100_000);
    let base =
        tar(&[("etc/", ""), ("etc/issue", "hello"), ("big", &big), ("empty", ""), ("l -> etc/issue", "")]);
    [base, tar(&[("etc/", ""), ("etc/.wh.issue", ""), ("app", "run")])]
}

#[tokio::test]
async fn what_the_disk_has_spoilt_is_found_and_only_that_is_pulled_again() {
    let [base, top] = layers();
    let (fake, node, images) = serving(&[("a:1", &image(&[base.clone(), top.clone()], json!({})))]).await;
    let pulled = images.pull(request("one.test/a:1")).await.unwrap();
    let whole = verified(&images, true).await;
    assert_eq!((whole.images, whole.layers, whole.findings), (1, 2, vec![]));
    let layer = node.layer(&base);
    let digest = Digest::sha256(&base).to_string();
    type Spoiler<'a> = (&'a str, &'a dyn Fn(&Path));
    let spoilers: [Spoiler<'_>; 6] = [
        ("digest is", &|layer| std::fs::write(layer.join("etc/issue"), "hellp").unwrap()),
        ("has 4 bytes and not 5", &|layer| std::fs::write(layer.join("etc/issue"), "hell").unwrap()),
        ("empty can't be found", &|layer| std::fs::remove_file(layer.join("empty")).unwrap()),
        ("can't be opened", &|layer| std::fs::remove_dir_all(layer.join("etc")).unwrap()),
        ("l leads elsewhere", &|layer| {
            std::fs::remove_file(layer.join("l")).unwrap();
            std::os::unix::fs::symlink("/etc/shadow", layer.join("l")).unwrap();
        }),
        ("big has another mode", &|layer| {
            std::fs::set_permissions(layer.join("big"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        }),
    ];
    for (why, spoil) in spoilers {
        spoil(&layer);
        let before = blobs_asked(&fake);
        let found = findings(&verified(&images, false).await);
        assert!(found.len() == 1 && found[0].0 == digest && found[0].1.contains(why), "{why}: {found:?}");
        assert_eq!((&found[0].2, blobs_asked(&fake)), (&Outcome::Left, before));
        let found = findings(&verified(&images, true).await);
        assert_eq!(found.iter().map(|one| &one.2).collect::<Vec<_>>(), [&Outcome::Mended], "{why}");
        // The one layer, and neither the other nor the configuration.
        assert_eq!(blobs_asked(&fake), before + 1, "{why}");
        assert_eq!(verified(&images, true).await.findings, []);
        assert_eq!(std::fs::read_to_string(layer.join("etc/issue")).unwrap(), "hello");
    }
    assert_eq!(images.find("one.test/a:1").unwrap().id, pulled.id);
    images.remove("one.test/a:1").await.unwrap();
    node.check_empty().await;
    assert_eq!(node.names("recipes"), Vec::<String>::new());
}

#[tokio::test]
async fn what_can_not_be_mended_is_told_and_stays() {
    let [base, top] = layers();
    let shelf = Shelf::default();
    shelf.put("a:1", &image(&[base.clone(), top], json!({})));
    let fake = shelf.serve();
    let node = Node::new(&fake.host());
    let images = node.open().await;
    let pulled = images.pull(request("one.test/a:1")).await.unwrap();
    std::fs::write(node.layer(&base).join("etc/issue"), "other").unwrap();
    // The registry has something else by now.
    shelf.put("a:1", &image(&[tar(&[("new", "")])], json!({})));
    images.make_writable("c1", &pulled).await.unwrap();
    let found = findings(&verified(&images, true).await);
    assert!(matches!(&found[0].2, Outcome::Not(why) if why.contains("container c1 uses it")), "{found:?}");
    images.unmake_writable("c1").await.unwrap();
    let found = findings(&verified(&images, true).await);
    assert!(matches!(&found[0].2, Outcome::Not(why) if why.contains("is not there")), "{found:?}");
    // It is better than nothing, and no worse than before.
    images.make_writable("c2", &pulled).await.unwrap();
}

#[tokio::test]
async fn whoever_gives_up_mending_leaves_the_layer_as_it_was() {
    let [base, top] = layers();
    let shelf = Shelf::default();
    shelf.put("a:1", &image(&[base.clone(), top], json!({})));
    let silent = Arc::new(AtomicBool::new(false));
    let fake = shelf.serve_unless(silent.clone());
    let node = Node::new(&fake.host());
    let images = node.open().await;
    let pulled = images.pull(request("one.test/a:1")).await.unwrap();
    std::fs::write(node.layer(&base).join("etc/issue"), "other").unwrap();
    silent.store(true, Ordering::Relaxed);
    let before = blobs_asked(&fake);
    let given_up = async {
        while blobs_asked(&fake) == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        images.make_writable("early", &pulled).await.expect_err("it is being replaced");
    };
    tokio::select! {
        _ = verified(&images, true) => panic!("nothing came"),
        () = given_up => {}
    }
    images.make_writable("late", &pulled).await.unwrap();
}

#[tokio::test]
async fn documents_and_restarts_are_looked_after_too() {
    let [base, top] = layers();
    let picture = image(&[base.clone(), top], json!({"Cmd": ["x"]}));
    let (_fake, node, images) = serving(&[("a:1", &picture)]).await;
    images.pull(request("one.test/a:1")).await.unwrap();
    drop(images);
    let images = node.open().await;
    assert_eq!(verified(&images, true).await.findings, []);
    let error =
        images.verify(&["nothing".to_owned()], &Repair::mend(), watch::channel(Verifying::default()).0).await;
    assert!(matches!(error, Err(image_service::Error::NotFound { .. })));
}

#[tokio::test]
async fn what_an_archive_replaces_of_itself_is_kept_to_prove_it() {
    let archives: [(&str, &[(&str, &str)]); 6] = [
        (
            "file by file, again and again",
            &[("f", "one"), ("g", "x"), ("f", ""), ("f", "two"), ("f", "three")],
        ),
        ("file by directory", &[("f", "one"), ("f/", ""), ("f/g", "two")]),
        ("directory by file", &[("d/", ""), ("d/e/", ""), ("d/e/f", "one"), ("d/.wh.x", ""), ("d", "two")]),
        ("link by file", &[("l -> f", ""), ("l", "one"), ("f", "two")]),
        ("file by link", &[("f", "one"), ("f -> g", ""), ("g", "two")]),
        (
            "and back",
            &[("f", "one"), ("f/", ""), ("f/g", "two"), ("f", "three"), ("f/", ""), ("f/g", "four")],
        ),
    ];
    for (name, archive) in archives {
        let archive = tar(archive);
        let (_fake, node, images) =
            serving(&[("a:1", &image(std::slice::from_ref(&archive), json!({})))]).await;
        images.pull(request("one.test/a:1")).await.unwrap();
        assert_eq!(verified(&images, true).await.findings, [], "{name}");
        let place = node.dir.path().join("out");
        export(&images, "one.test/a:1", &format!("oci:{}", place.display())).await.unwrap();
        let blob = place.join("blobs/sha256").join(Digest::sha256(&archive).hex());
        assert!(std::fs::read(blob).unwrap() == archive, "{name}: it comes out otherwise");
        // What is there in the end is looked at as ever.
        let last = ["f/g", "f", "d", "l"].map(|path| node.layer(&archive).join(path));
        let last = last.iter().find(|path| path.is_file()).unwrap();
        std::fs::write(last, "spoilt").unwrap();
        let found = findings(&verified(&images, true).await);
        assert_eq!(
            found.iter().map(|one| &one.2).collect::<Vec<_>>(),
            [&Outcome::Mended],
            "{name}: {found:?}"
        );
        assert_eq!(verified(&images, true).await.findings, [], "{name}");
        images.remove("one.test/a:1").await.unwrap();
        node.check_empty().await;
        assert_eq!(node.names("recipes"), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_layer_that_replaces_what_can_not_be_kept_is_not_called_damaged() {
    // The file came by a link, so what replaces it has another name.
    let by_link = tar(&[("x/", ""), ("a -> x", ""), ("a/b", "one"), ("x/b", "two")]);
    let long = "n".repeat(90);
    let many: Vec<String> = (0..12_000).map(|n| format!("d/{long}{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).chain([("d", "")]).collect();
    for archive in [by_link, tar(&many)] {
        let (_fake, _node, images) =
            serving(&[("a:1", &image(std::slice::from_ref(&archive), json!({})))]).await;
        images.pull(request("one.test/a:1")).await.unwrap();
        let found = findings(&verified(&images, true).await);
        assert_eq!(
            found.iter().map(|one| (one.0.as_str(), &one.2)).collect::<Vec<_>>(),
            [(Digest::sha256(&archive).as_str(), &Outcome::Unknown)]
        );
        let error = export(&images, "one.test/a:1", "oci:/nonexistent/x").await.unwrap_err();
        assert!(error.contains("replaces too much of itself"), "{error}");
    }
}

async fn export(images: &Images, name: &str, target: &str) -> Result<transfer::Copied, String> {
    let (images, name, target) = (images.clone(), name.to_owned(), Location::read(target).unwrap());
    let progress = watch::channel(Progress::default()).0;
    let work = tokio::task::spawn_blocking(move || transfer::export(&images, &name, &target, &progress));
    work.await.unwrap().map_err(|error| error.to_string())
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn what_is_given_out_is_what_came_in() {
    let [base, top] = layers();
    let picture = image(&[base.clone(), top.clone()], json!({"Cmd": ["x"]}));
    let (fake, node, images) = serving(&[("a:1", &picture)]).await;
    images.pull(request("one.test/a:1")).await.unwrap();
    let path = |name: &str| node.dir.path().join(name).display().to_string();
    for (n, transport) in ["oci", "oci-archive", "docker-archive"].into_iter().enumerate() {
        let place = format!("{transport}:{}", path(transport));
        export(&images, "one.test/a:1", &place).await.unwrap();
        let config = said("skopeo", &["inspect", "--config", "--raw", &place]);
        assert_eq!(config.as_bytes(), picture.blobs[&picture.config.digest], "{transport}");
        // Every byte of the layers is as it was, so another node makes the same image of it.
        let other = Node::new(&fake.host());
        let taken = other.open().await.import(path(transport).as_ref(), None).await.unwrap();
        assert_eq!(
            (&taken[0].id, &taken[0].repo_tags[..]),
            (&id(&picture), &["one.test/a:1".to_owned()][..]),
            "{n}"
        );
        assert_eq!(std::fs::read_to_string(other.layer(&top).join("app")).unwrap(), "run");
    }
    let shown = transfer::inspect_stored(&images, "one.test/a:1").unwrap();
    assert_eq!(shown.digest.as_ref(), Some(&picture.top));
    assert_eq!(shown.raw, picture.manifests[&picture.top].1);
    assert_eq!(shown.json().unwrap()["RepoTags"], json!(["one.test/a:1"]));
    let why = export(&images, "one.test/a:1", "docker://one.test/b:1").await.unwrap_err();
    assert!(why.contains("an export goes to oci:"), "{why}");
    // What is damaged is not given out as if it were whole.
    std::fs::write(node.layer(&base).join("etc/issue"), "jello").unwrap();
    let out = path("damaged");
    let why = export(&images, "one.test/a:1", &format!("oci-archive:{out}")).await.unwrap_err();
    assert!(why.contains("not what its digest says") && !exists(out.as_ref()), "{why}");
}

#[tokio::test]
async fn a_layer_that_can_be_had_in_chunks_is_read_as_zstd() {
    let [base, top] = layers();
    let picture = image(&[base.clone(), top.clone()], json!({}));
    let dir = tempfile::tempdir().unwrap();
    let registry = docker_registry::DockerRegistry::start(&dir.path().join("storage"), "", "");
    registry.push("a", "1", &picture);
    let from = format!("docker://{}/a:1", registry.host());
    let place = |kind: &str, name: &str| format!("{kind}:{}", dir.path().join(name).display());
    // skopeo packs only what is not packed, so it goes by way of a place that has it plain.
    let (plain, chunked) = (place("dir", "plain"), place("oci", "chunked:x"));
    said("skopeo", &["copy", "--quiet", "--src-tls-verify=false", "--dest-decompress", &from, &plain]);
    let packing = ["--dest-compress", "--dest-compress-format", "zstd:chunked"];
    said("skopeo", &[&["copy", "--quiet"], &packing[..], &[&plain, &chunked]].concat());
    let raw = said("skopeo", &["inspect", "--raw", &chunked]);
    assert!(raw.contains("zstd-chunked.manifest-checksum") && raw.contains("tar+zstd"), "{raw}");
    let node = Node::new(&registry.host());
    let order = transfer::Copy {
        source: Location::read(&chunked).unwrap(),
        target: Location::read("docker://one.test/a:chunked").unwrap(),
        all: false,
        platform: image_service::Platform::host(),
        auth_files: Vec::new(),
        progress: watch::channel(Progress::default()).0,
    };
    transfer::copy(&node.settings, order).await.unwrap();
    let images = node.open().await;
    let pulled = images.pull(request("one.test/a:chunked")).await.unwrap();
    assert_eq!(pulled.layers.len(), 2);
    assert_eq!(std::fs::read_to_string(node.layer(&top).join("app")).unwrap(), "run");
    assert_eq!(std::fs::read_to_string(node.layer(&base).join("etc/issue")).unwrap(), "hello");
}

#[tokio::test]
async fn what_a_pod_s_credentials_brought_is_mended_with_those_of_a_file() {
    let layer = tar(&[("app", "hello")]);
    let picture = image(std::slice::from_ref(&layer), json!({}));
    let basic = "Basic dXNlcjpzZWNyZXQ=";
    let fake = fake::Fake::start(move |seen| match seen.header("authorization") == Some(basic) {
        true => picture.answer(seen),
        false => fake::Reply::new(401, "{}").header("WWW-Authenticate", r#"Basic realm="test""#),
    });
    let node = Node::new(&fake.host());
    let images = node.open().await;
    let credentials = image_service::Credentials {
        username: "user".to_owned(),
        password: "secret".to_owned(),
        ..image_service::Credentials::default()
    };
    let asked = image_service::PullRequest { credentials: Some(credentials), ..request("one.test/a:1") };
    images.pull(asked).await.unwrap();
    std::fs::write(node.layer(&layer).join("app"), "jello").unwrap();
    let found = findings(&verified(&images, true).await);
    let Outcome::Not(why) = &found[0].2 else { panic!("{found:?}") };
    assert!(why.starts_with("one.test/a@sha256:") && why.contains("--auth-file"), "{why}");
    let file = node.dir.path().join("auth.json");
    let auths = json!({"auths": {fake.host(): {"auth": "dXNlcjpzZWNyZXQ="}}});
    std::fs::write(&file, auths.to_string()).unwrap();
    let repair = Repair::Mend { auth_files: vec![file] };
    let mended = images.verify(&[], &repair, watch::channel(Verifying::default()).0).await.unwrap();
    assert_eq!(mended.findings.iter().map(|one| &one.outcome).collect::<Vec<_>>(), [&Outcome::Mended]);
    assert_eq!(verified(&images, false).await.findings, []);
}
