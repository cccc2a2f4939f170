//! Pulling, naming, keeping and forgetting images: the whole service against a registry that does as told.

use std::time::Duration;

use image_service::digest::Digest;
use image_service::{Error, Images, LayerStage, Progress};
use serde_json::json;
use tokio::sync::watch;

use crate::support::docker_registry;
use crate::support::fake::{Fake, Manner, Reply};
use crate::support::picture::{OCI_INDEX, noise};
use crate::support::shelf::{Node, Shelf, exists, gzip, id, image, image_claiming, request, serving, tar};

async fn pull(images: &Images, name: &str) -> std::sync::Arc<image_service::Image> {
    images.pull(request(name)).await.unwrap()
}

#[tokio::test]
async fn a_pull_by_tag_gives_a_whole_image_under_its_names() {
    let base = tar(&[("etc/", ""), ("etc/passwd", "root:x:0:0::/:/bin/sh\n"), ("etc/issue", "base")]);
    let top = tar(&[("etc/", ""), ("etc/.wh.issue", ""), ("app", "hello")]);
    let picture = image(&[base.clone(), top.clone()], json!({"Env": ["A=b"], "User": "1000"}));
    let picture = picture.indexed(OCI_INDEX, &image_service::Platform::host().to_string());
    let (_fake, node, images) = serving(&[("a/b:1", &picture)]).await;
    let pulled = pull(&images, "one.test/a/b:1").await;
    assert_eq!(pulled.id, id(&picture));
    assert_eq!(pulled.repo_tags, ["one.test/a/b:1"]);
    assert_eq!(pulled.repo_digests, [format!("one.test/a/b@{}", picture.top)]);
    assert_eq!((pulled.config.env[0].as_str(), pulled.config.user.as_str()), ("A=b", "1000"));
    assert_eq!(pulled.accounts.passwd.as_deref(), Some(&b"root:x:0:0::/:/bin/sh\n"[..]));
    assert_eq!(pulled.accounts.group, None);
    assert_eq!(std::fs::read_to_string(node.layer(&top).join("app")).unwrap(), "hello");
    assert_eq!(images.list().len(), 1);
    for name in [&pulled.id, &pulled.id[7..], &pulled.id[7..20], "one.test/a/b:1", &pulled.repo_digests[0]] {
        assert_eq!(images.find(name).map(|found| found.id.clone()), Some(pulled.id.clone()), "{name}");
    }
    for name in ["one.test/a/b", "one.test/a/b:2", "two.test/a/b:1", "0000", "", "sha256:"] {
        assert!(images.find(name).is_none(), "{name}");
    }
    let usage = images.usage();
    assert!(usage.bytes > 0 && usage.inodes == 6, "{usage:?}");
    node.check_settled().await;
}

#[tokio::test]
async fn the_largest_layer_is_begun_first_and_the_order_stays_the_manifest_s() {
    let layers = [1_000, 300_000, 20, 60_000].map(|bytes| {
        let text: String = noise(bytes).iter().map(|byte| char::from(b'0' + byte % 64)).collect();
        tar(&[("a", &text)])
    });
    let picture = image(&layers, json!({}));
    let shelf = Shelf::default();
    shelf.put("a:1", &picture);
    let fake = shelf.serve();
    let mut node = Node::new(&fake.host());
    node.settings.parallel_layers = 1;
    let pulled = pull(&node.open().await, "one.test/a:1").await;
    let blobs = layers.each_ref().map(|layer| Digest::sha256(&gzip(layer)));
    let asked: Vec<_> = fake
        .paths()
        .iter()
        .filter_map(|path| blobs.iter().position(|blob| path.ends_with(blob.as_str())))
        .collect();
    assert_eq!(asked, [1, 3, 0, 2]);
    let diff_ids: Vec<_> = pulled.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    assert_eq!(diff_ids, layers.each_ref().map(|layer| Digest::sha256(layer)));
}

#[tokio::test]
async fn docker_registry_gives_what_was_pushed_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let registry = docker_registry::DockerRegistry::start(&dir.path().join("storage"), "", "");
    let files: Vec<_> =
        (0..300).map(|n| (format!("dir{}/file{n}", n % 7), format!("{n}").repeat(n * 10))).collect();
    let list: Vec<_> = files.iter().map(|(name, data)| (name.as_str(), data.as_str())).collect();
    let layers = [tar(&list), tar(&[("etc/passwd", "root:x:0:0::/:/bin/sh")])];
    let picture = image(&layers, json!({"Cmd": ["sh"]}));
    registry.push("team/app", "v1", &picture);
    let node = Node::new(&registry.host());
    let images = node.open().await;
    let pulled = pull(&images, "one.test/team/app:v1").await;
    assert_eq!((&pulled.id, &pulled.config.cmd[..]), (&id(&picture), &["sh".to_owned()][..]));
    for (name, data) in &files {
        assert_eq!(&std::fs::read_to_string(node.layer(&layers[0]).join(name)).unwrap(), data);
    }
    images.remove("one.test/team/app:v1").await.unwrap();
    let by_digest = format!("one.test/team/app@{}", picture.top);
    assert_eq!(pull(&images, &by_digest).await.repo_digests, [by_digest]);
}

#[tokio::test]
async fn names_without_a_tag_mean_latest() {
    let (_fake, _node, images) = serving(&[
        ("a:latest", &image(&[tar(&[("a", "")])], json!({}))),
        ("library/busybox:latest", &image(&[tar(&[("b", "")])], json!({}))),
    ])
    .await;
    assert_eq!(pull(&images, "one.test/a").await.repo_tags, ["one.test/a:latest"]);
    assert!(images.find("one.test/a").is_some());
    assert_eq!(pull(&images, "busybox").await.repo_tags, ["docker.io/library/busybox:latest"]);
    for name in ["busybox", "busybox:latest", "docker.io/busybox", "library/busybox"] {
        assert!(images.find(name).is_some(), "{name}");
    }
}

#[tokio::test]
async fn a_pull_by_digest_gives_no_tag() {
    let picture = image(&[tar(&[("a", "")])], json!({}));
    let (_fake, node, images) = serving(&[("a:any", &picture)]).await;
    let name = format!("one.test/a@{}", picture.top);
    let pulled = pull(&images, &name).await;
    assert_eq!((pulled.repo_tags.len(), &pulled.repo_digests), (0, &vec![name.clone()]));
    assert!(images.find(&name).is_some());
    images.remove(&name).await.unwrap();
    assert!(images.find(&name).is_none());
    node.check_empty().await;
}

#[tokio::test]
async fn one_image_under_many_names_goes_with_any_of_them() {
    let picture = image(&[tar(&[("pause", "")])], json!({}));
    let shelf = Shelf::default();
    for tag in ["pause:1", "pause:2"] {
        shelf.put(tag, &picture);
    }
    let fake = shelf.serve();
    let node = Node::new(&fake.host());
    let images = node.open().await;
    for by_id in [true, false] {
        let names = ["two.test/pause:1", "one.test/pause:2", "one.test/pause:1"];
        for name in names {
            assert_eq!(pull(&images, name).await.id, id(&picture));
        }
        let found = images.find("two.test/pause:1").unwrap();
        assert_eq!(found.repo_tags, ["one.test/pause:1", "one.test/pause:2", "two.test/pause:1"]);
        assert_eq!(found.repo_digests.len(), 2);
        assert_eq!(images.list().len(), 1);
        let name = if by_id { found.id.clone() } else { "one.test/pause:2".to_owned() };
        let removals = (0..5).map(|_| {
            let (images, name) = (images.clone(), name.clone());
            tokio::spawn(async move { images.remove(&name).await })
        });
        for removal in removals.collect::<Vec<_>>() {
            removal.await.unwrap().unwrap();
        }
        assert!(images.list().is_empty());
        assert_eq!(images.usage().bytes, 0);
        node.check_empty().await;
    }
}

#[tokio::test]
async fn a_moved_tag_leaves_the_old_image_untagged() {
    let base = tar(&[("base", "")]);
    let old = image(&[base.clone(), tar(&[("old", "")])], json!({}));
    let new = image(&[base.clone(), tar(&[("new", "")])], json!({}));
    let shelf = Shelf::default();
    shelf.put("a:1", &old);
    let fake = shelf.serve();
    let node = Node::new(&fake.host());
    let images = node.open().await;
    pull(&images, "one.test/a:1").await;
    shelf.put("a:1", &new);
    assert_eq!(pull(&images, "one.test/a:1").await.id, id(&new));
    let left = images.find(&id(&old)).unwrap();
    assert_eq!((left.repo_tags.len(), left.repo_digests.len()), (0, 1));
    assert_eq!(images.find("one.test/a:1").unwrap().id, id(&new));
    // The layer they share was fetched once, and stays with the one that is left.
    let base_digest = Digest::sha256(&gzip(&base));
    assert_eq!(fake.paths().iter().filter(|path| path.ends_with(base_digest.as_str())).count(), 1);
    images.remove(&id(&old)).await.unwrap();
    assert!(exists(&node.layer(&base).join("base")));
    assert_eq!(node.names("layers").len(), 2);
}

#[tokio::test]
async fn many_who_ask_at_once_share_one_pull() {
    let picture = image(&[tar(&[("a", &"x".repeat(300_000))]), tar(&[("b", "")])], json!({}));
    let (fake, _node, images) = serving(&[("a:1", &picture), ("a:2", &picture)]).await;
    let asked = (0..20).map(|n| {
        let images = images.clone();
        tokio::spawn(async move { images.pull(request(&format!("one.test/a:{}", n % 2 + 1))).await })
    });
    for asked in asked.collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap().unwrap().id, id(&picture));
    }
    assert_eq!(images.list()[0].repo_tags.len(), 2);
    for digest in picture.blobs.keys() {
        let times = fake.paths().iter().filter(|path| path.ends_with(digest.as_str())).count();
        assert_eq!(times, 1, "{digest}");
    }
}

#[tokio::test]
async fn the_last_who_leaves_cancels_and_nothing_is_left() {
    let layer = tar(&[("a", std::str::from_utf8(&[b'x'; 1 << 20]).unwrap())]);
    let picture = image(&[layer.clone(), tar(&[("small", "")])], json!({}));
    let slow = picture.clone();
    let blob = Digest::sha256(&gzip(&layer));
    let fake = Fake::start(move |seen| {
        let reply = slow.answer(seen);
        if seen.path.ends_with(blob.as_str()) { reply.manner(Manner::Silent(1000)) } else { reply }
    });
    let node = Node::new(&fake.host());
    let images = node.open().await;
    let (sender, mut progress) = watch::channel(Progress::default());
    let mut first = request("one.test/a:1");
    first.progress = Some(sender);
    let ask = |request| {
        let images = images.clone();
        tokio::spawn(async move { images.pull(request).await })
    };
    let first = ask(first);
    let second = ask(request("one.test/a:1"));
    let some = progress.wait_for(|now| now.layers.iter().any(|layer| layer.done_bytes >= 1000));
    assert!(!some.await.unwrap().layers[0].stage.is_finished());
    first.abort();
    // The small layer is done and the large one is not: the second still waits for it.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while node.names("ingest").len() != 1 || node.names("layers").len() != 1 {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?} {:?}",
            node.names("ingest"),
            node.names("layers")
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    node.check_empty().await;
    assert!(images.list().is_empty());
    // And a better registry gives the image at the next try.
    drop(images);
    let shelf = Shelf::default();
    shelf.put("a:1", &picture);
    let fake = shelf.serve();
    let node = Node::within(node.dir, &fake.host());
    pull(&node.open().await, "one.test/a:1").await;
}

#[tokio::test]
async fn what_containers_use_outlives_the_image() {
    let layer = tar(&[("./", ""), ("a", "")]);
    let (_fake, node, images) = serving(&[("a:1", &image(std::slice::from_ref(&layer), json!({})))]).await;
    let pulled = pull(&images, "one.test/a:1").await;
    let plan = images.make_writable("c1", &pulled).await.unwrap();
    assert_eq!(plan.lower, [node.layer(&layer)]);
    assert_eq!(images.make_writable("c1", &pulled).await.unwrap(), plan, "making again is made already");
    assert!(exists(&plan.upper) && exists(&plan.work));
    images.remove("one.test/a:1").await.unwrap();
    assert!(images.list().is_empty());
    assert!(exists(&node.layer(&layer)));
    // The daemon may come back in between.
    drop(images);
    let images = node.open().await;
    assert_eq!(images.writables(), ["c1"]);
    assert!(exists(&node.layer(&layer)));
    assert!(images.make_writable("c2", &pulled).await.is_ok(), "its layers are still there");
    std::fs::write(plan.upper.join("file"), vec![1; 10_000]).unwrap();
    assert!(images.writable_usage("c1").bytes >= 10_000);
    for _ in 0..2 {
        images.unmake_writable("c1").await.unwrap();
        images.unmake_writable("c2").await.unwrap();
    }
    assert!(!exists(&plan.upper));
    node.check_empty().await;
    assert!(matches!(images.make_writable("c3", &pulled).await, Err(Error::NotFound { .. })));
    assert!(images.writables().is_empty());
    for bad in ["", ".", "..", "a/b", "../x", "a\0"] {
        assert!(images.make_writable(bad, &pulled).await.is_err(), "{bad:?}");
        assert!(images.unmake_writable(bad).await.is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn writable_layers_of_another_boot_are_gone() {
    let (_fake, node, images) = serving(&[("a:1", &image(&[tar(&[("a", "")])], json!({})))]).await;
    let pulled = pull(&images, "one.test/a:1").await;
    for id in ["old", "torn", "good"] {
        images.make_writable(id, &pulled).await.unwrap();
    }
    drop(images);
    let record = |id: &str| node.settings.containers_dir.join(id).join("held");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let text = std::fs::read_to_string(record("old")).unwrap();
    std::fs::write(record("old"), text.replace(boot.trim(), "another")).unwrap();
    std::fs::write(record("torn"), "{").unwrap();
    let images = node.open().await;
    assert_eq!(images.writables(), ["good"]);
    assert!(!exists(&node.settings.containers_dir.join("old")));
    images.unmake_writable("good").await.unwrap();
    images.remove("one.test/a:1").await.unwrap();
    node.check_empty().await;
}

#[tokio::test]
async fn a_restart_finds_everything_and_drops_only_what_is_damaged() {
    let shared = tar(&[("shared", "")]);
    let good = image(std::slice::from_ref(&shared), json!({"Cmd": ["good"]}));
    let damaged_layer = tar(&[("damaged", "")]);
    let damaged = image(&[shared.clone(), damaged_layer.clone()], json!({}));
    let (_fake, node, images) = serving(&[("good:1", &good), ("damaged:1", &damaged)]).await;
    let before = pull(&images, "one.test/good:1").await;
    pull(&images, "one.test/damaged:1").await;
    let usage = images.usage();
    drop(images);
    // What crashes leave: a layer half unpacked, one that no image came to have, half a removal.
    for left in ["ingest/1", "layers/unheld", "trash/2"] {
        std::fs::create_dir_all(node.settings.root.join(left).join("x/y")).unwrap();
    }
    let images = node.open().await;
    assert_eq!(images.find("one.test/good:1").unwrap(), before);
    assert_eq!((images.list().len(), images.usage()), (2, usage));
    node.check_settled().await;
    assert_eq!(node.names("layers").len(), 2);
    drop(images);
    std::fs::remove_dir_all(node.layer(&damaged_layer)).unwrap();
    let images = node.open().await;
    assert_eq!(images.list(), [before]);
    drop(images);
    assert_eq!(node.open().await.list().len(), 1);
    // An index that is no index costs the images, not the node.
    std::fs::write(node.settings.root.join("index.redb"), vec![7; 100_000]).unwrap();
    let images = node.open().await;
    assert!(images.list().is_empty());
    pull(&images, "one.test/damaged:1").await;
}

#[tokio::test]
async fn a_layer_that_is_not_what_was_announced_leaves_nothing() {
    let layer = tar(&[("a", "x")]);
    let lying = image_claiming(
        &[layer.clone(), tar(&[("b", "")])],
        json!({}),
        &[Digest::sha256(b"1"), Digest::sha256(b"2")],
    );
    let short = image_claiming(std::slice::from_ref(&layer), json!({}), &[]);
    let mut swapped = image(std::slice::from_ref(&layer), json!({}));
    let other = gzip(&tar(&[("a", "y")]));
    let blob = swapped.layer.digest.clone();
    assert_eq!(other.len(), swapped.blobs[&blob].len());
    swapped.blobs.insert(blob, other);
    let hostile = image(
        &[{
            let mut bytes = tar(&[("a", "x")]);
            bytes[0] = b'?';
            bytes
        }],
        json!({}),
    );
    for (picture, words) in
        [(lying, "diff ID"), (short, "0 diff IDs for 1 layers"), (swapped, "digest"), (hostile, "unpacked")]
    {
        let (_fake, node, images) = serving(&[("a:1", &picture)]).await;
        let error = images.pull(request("one.test/a:1")).await.unwrap_err();
        let told = format!("{error:?} {error}");
        assert!(told.contains(words), "{told} does not say {words}");
        assert!(images.list().is_empty());
        node.check_empty().await;
        assert_eq!(images.usage().inodes, 0);
    }
}

#[tokio::test]
async fn failures_have_the_names_the_kubelet_knows() {
    let (fake, node, images) = serving(&[("a:1", &image(&[tar(&[("a", "")])], json!({})))]).await;
    let error = |name: &'static str| {
        let images = images.clone();
        async move { images.pull(request(name)).await.unwrap_err() }
    };
    assert!(matches!(error("one.test/nothing:1").await, Error::NotFound { .. }));
    assert!(matches!(error("one.test/UPPER").await, Error::InvalidReference(_)));
    std::fs::write(&node.settings.policy, r#"{"default": [{"type": "reject"}]}"#).unwrap();
    let seen = fake.seen().len();
    assert!(error("one.test/a:1").await.to_string().starts_with("SignatureValidationFailed"));
    std::fs::write(&node.settings.policy, "no policy").unwrap();
    assert!(error("one.test/a:1").await.to_string().starts_with("SignatureValidationFailed"));
    assert_eq!(fake.seen().len(), seen, "what the policy refuses is not even asked for");
    std::fs::remove_file(&node.settings.policy).unwrap();
    pull(&images, "one.test/a:1").await;
    images.remove("one.test/never-heard-of:1").await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_away_is_said_to_be() {
    let gone = Fake::start(|_| Reply::new(503, "")).host();
    let node = Node::new(&gone);
    let images = node.open().await;
    let pull = tokio::time::timeout(Duration::from_secs(60), images.pull(request("one.test/a:1")));
    let error = pull.await.unwrap().unwrap_err();
    assert!(error.to_string().starts_with("RegistryUnavailable"), "{error}");
}

#[tokio::test]
async fn accounts_are_seen_through_the_layers() {
    let shelf = Shelf::default();
    let base = tar(&[("etc/", ""), ("etc/passwd", "base"), ("etc/group", "base"), ("real/", "")]);
    let linked =
        tar(&[("etc/passwd -> /real/../real/passwd", ""), ("etc/.wh.group", ""), ("real/passwd", "linked")]);
    let opaque = tar(&[("etc/.wh..wh..opq", ""), ("etc/group", "opaque")]);
    let escaping = tar(&[("etc/passwd -> ../../../../etc/passwd", ""), ("etc/group -> group", "")]);
    let large = tar(&[("etc/passwd", &"x".repeat((1 << 20) + 1)), ("etc/group", "g")]);
    type Row = (&'static str, Vec<Vec<u8>>, Option<&'static str>, Option<&'static str>, bool);
    let check: [Row; 5] = [
        ("a:1", vec![base.clone()], Some("base"), Some("base"), false),
        ("a:2", vec![base.clone(), linked], Some("linked"), None, false),
        ("a:3", vec![base.clone(), opaque], None, Some("opaque"), false),
        ("a:4", vec![base.clone(), escaping], None, None, true),
        ("a:5", vec![base, large], None, Some("g"), true),
    ];
    for (name, layers, ..) in &check {
        shelf.put(name, &image(layers, json!({})));
    }
    let fake = shelf.serve();
    let node = Node::new(&fake.host());
    let images = node.open().await;
    for (name, _, passwd, group, unusable) in check {
        let accounts = &pull(&images, &format!("one.test/{name}")).await.accounts;
        let text = |bytes: &Option<Vec<u8>>| {
            bytes.as_deref().map(|bytes| String::from_utf8_lossy(bytes).to_string())
        };
        assert_eq!(text(&accounts.passwd).as_deref(), passwd, "{name}");
        assert_eq!(text(&accounts.group).as_deref(), group, "{name}");
        assert_eq!(accounts.unusable.is_some(), unusable, "{name}: {accounts:?}");
    }
}

#[tokio::test]
async fn images_come_and_go_while_others_come() {
    let shared = tar(&[("shared", "x")]);
    let shelf = Shelf::default();
    let pictures: Vec<_> =
        (0..4).map(|n| image(&[shared.clone(), tar(&[(&format!("own{n}"), "")])], json!({"n": n}))).collect();
    for (n, picture) in pictures.iter().enumerate() {
        shelf.put(&format!("a:{n}"), picture);
    }
    let fake = shelf.serve();
    let node = Node::new(&fake.host());
    let images = node.open().await;
    let tasks = (0..8).map(|task| {
        let images = images.clone();
        tokio::spawn(async move {
            for round in 0..10 {
                let name = format!("one.test/a:{}", (task + round) % 4);
                let pulled = images.pull(request(&name)).await.unwrap();
                let container = format!("c{task}");
                // Another task may have removed it meanwhile; then it is said to be gone, never half there.
                match images.make_writable(&container, &pulled).await {
                    Ok(plan) => assert!(plan.lower.iter().all(|path| path.is_dir())),
                    Err(error) => assert!(matches!(error, Error::NotFound { .. }), "{error}"),
                }
                images.remove(&name).await.unwrap();
                images.unmake_writable(&container).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    for image in images.list() {
        images.remove(&image.id).await.unwrap();
    }
    node.check_empty().await;
    assert_eq!((images.usage().bytes, images.usage().inodes), (0, 0));
}

#[tokio::test]
async fn progress_ends_with_all_bytes_of_a_large_layer() {
    let text: String = noise(8 << 20).iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let picture = image(&[tar(&[("large", &text)])], json!({}));
    let (_fake, _node, images) = serving(&[("a:1", &picture)]).await;
    let (sender, progress) = watch::channel(Progress::default());
    let mut asked = request("one.test/a:1");
    asked.progress = Some(sender);
    let pulled = images.pull(asked).await.unwrap();
    let last = progress.borrow().clone();
    assert!(
        last.layers[0].stage == LayerStage::Fetched && last.layers[0].done_bytes == last.layers[0].size_bytes
    );
    assert!(pulled.size_bytes >= 8 << 20);
}

/// The plan's overlay, mounted where only its descriptor reaches.
fn mount(plan: &image_service::RootfsPlan) -> rustix::fd::OwnedFd {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    };
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    for lower in &plan.lower {
        fsconfig_set_string(&overlay, "lowerdir+", lower).unwrap();
    }
    fsconfig_set_string(&overlay, "upperdir", &plan.upper).unwrap();
    fsconfig_set_string(&overlay, "workdir", &plan.work).unwrap();
    fsconfig_create(&overlay).unwrap();
    fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
}

#[tokio::test]
async fn a_container_sees_its_layers_as_one() {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let root = |mode| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_size(0);
        builder.append_data(&mut header, "./", &[][..]).unwrap();
        builder.into_inner().unwrap()
    };
    let base = tar(&[
        ("etc/", ""),
        ("etc/gone", ""),
        ("etc/kept", "base"),
        ("dir/", ""),
        ("dir/old", ""),
        ("f", "1"),
    ]);
    let middle =
        tar(&[("etc/", ""), ("etc/.wh.gone", ""), ("dir/", ""), ("dir/.wh..wh..opq", ""), ("dir/new", "")]);
    let empty = tar(&[]);
    let layers =
        [root(0o711), base.clone(), middle, empty, base.clone(), tar(&[("etc/", ""), ("etc/.wh.gone", "")])];
    let (_fake, node, images) =
        serving(&[("a:1", &image(&layers, json!({}))), ("scratch:1", &image(&[], json!({})))]).await;
    let pulled = pull(&images, "one.test/a:1").await;
    let plan = images.make_writable("c", &pulled).await.unwrap();
    assert_eq!(plan.lower.len(), 3, "{:?}", plan.lower);
    let mounted = mount(&plan);
    let inside = std::path::PathBuf::from(format!("/proc/self/fd/{}", mounted.as_raw_fd()));
    let list = |dir: &str| {
        let entries = std::fs::read_dir(inside.join(dir)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(list("."), ["dir", "etc", "f"]);
    assert_eq!(list("etc"), ["kept"]);
    assert_eq!(list("dir"), ["new", "old"]);
    let metadata = std::fs::metadata(inside.join(".")).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.uid()), (0o711, 7));
    std::fs::write(inside.join("f"), "2").unwrap();
    assert_eq!(std::fs::read_to_string(node.layer(&base).join("f")).unwrap(), "1");
    drop(mounted);
    let scratch = pull(&images, "one.test/scratch:1").await;
    drop(mount(&images.make_writable("s", &scratch).await.unwrap()));
}

#[tokio::test]
async fn a_directory_that_an_archive_does_not_describe_stays_as_below() {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let directory = |name: &str, mode, uid| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_size(0);
        builder.append_data(&mut header, name, &[][..]).unwrap();
        builder.into_inner().unwrap()
    };
    let layers = [
        directory("tmp/", 0o1777, 0),
        directory("home/", 0o711, 0),
        directory("home/user/", 0o700, 1000),
        tar(&[("tmp/a", ""), ("home/user/deep/file", "x")]),
        tar(&[("etc/hosts", "")]),
    ];
    let shelf = Shelf::default();
    shelf.put("a:1", &image(&layers, json!({})));
    shelf.put("a:2", &image(&[&layers[..], &[tar(&[("tmp/b", "")])]].concat(), json!({})));
    shelf.put("a:3", &image(&layers[3..], json!({})));
    let fake = shelf.serve();
    let node = Node::new(&fake.host());
    for round in 0..2 {
        let images = node.open().await;
        for (name, tmp, home) in [("a:1", 0o1777, 0o711), ("a:2", 0o1777, 0o711), ("a:3", 0o755, 0o755)] {
            let pulled = pull(&images, &format!("one.test/{name}")).await;
            let plan = images.make_writable(&format!("c{}", &name[2..]), &pulled).await.unwrap();
            let mounted = mount(&plan);
            let at = |path: &str| {
                std::fs::metadata(format!("/proc/self/fd/{}/{path}", mounted.as_raw_fd())).unwrap()
            };
            let mode = |path: &str| at(path).permissions().mode() & 0o7777;
            assert_eq!((mode("tmp"), mode("home"), mode("etc")), (tmp, home, 0o755), "{name}, {round}");
            if name != "a:3" {
                assert_eq!((mode("home/user"), at("home/user").uid()), (0o700, 1000));
                assert_eq!((mode("home/user/deep"), at("home/user/deep/file").len()), (0o755, 1));
            }
        }
    }
    // The two images that need the same mending share it.
    assert_eq!(node.names("layers").len(), 7);
    let images = node.open().await;
    for n in 1..=3 {
        images.unmake_writable(&format!("c{n}")).await.unwrap();
        images.remove(&format!("one.test/a:{n}")).await.unwrap();
    }
    node.check_empty().await;
}

/// A small disk, unmounted when the test is done, well or badly.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(options: &str) -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("berth-test", dir.path(), "tmpfs", flags, options.as_c_str()).unwrap();
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_one_clear_error_and_frees_what_it_took() {
    let shelf = Shelf::default();
    let large = "x".repeat(3 << 20);
    let layers: Vec<_> = (0..4).map(|n| tar(&[(&format!("f{n}"), &large)])).collect();
    shelf.put("large:1", &image(&layers, json!({})));
    shelf.put("small:1", &image(&[tar(&[("a", "")])], json!({})));
    let files: Vec<_> = (0..500).map(|n| (format!("f{n}"), "")).collect();
    let files: Vec<_> = files.iter().map(|(name, data)| (name.as_str(), *data)).collect();
    shelf.put("many:1", &image(&[tar(&files)], json!({})));
    let fake = shelf.serve();
    for (options, name) in [("size=8m", "one.test/large:1"), ("nr_inodes=200", "one.test/many:1")] {
        let disk = SmallDisk::new(options);
        let mut node = Node::new(&fake.host());
        node.settings.root = disk.0.path().join("images");
        node.settings.containers_dir = disk.0.path().join("containers");
        let images = node.open().await;
        let error = images.pull(request(name)).await.unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
        node.check_empty().await;
        pull(&images, "one.test/small:1").await;
        drop(images);
        assert_eq!(node.open().await.list().len(), 1);
    }
}

#[tokio::test]
async fn layers_that_come_together_can_not_lead_each_other_outside() {
    // CVE-2025-47290: one layer makes a link while another, unpacked at the same time, goes through it.
    let outside = tempfile::tempdir().unwrap();
    let link = format!("way -> {}", outside.path().display());
    let files: Vec<_> = (0..200).map(|n| format!("way/f{n}")).collect();
    let files: Vec<_> = files.iter().map(|name| (name.as_str(), "x")).collect();
    let links: Vec<_> = (0..200).map(|_| (link.as_str(), "")).collect();
    let (_fake, _node, images) =
        serving(&[("a:1", &image(&[tar(&links), tar(&files), tar(&links[..199])], json!({})))]).await;
    let pulled = pull(&images, "one.test/a:1").await;
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(pulled.layers[1].inodes, 201);
}

#[tokio::test]
async fn a_disk_that_fails_is_an_error_until_it_does_not() {
    let (_fake, node, images) = serving(&[
        ("a:1", &image(&[tar(&[("a", "")])], json!({}))),
        ("b:1", &image(&[tar(&[("b", "")])], json!({}))),
    ])
    .await;
    let pulled = pull(&images, "one.test/a:1").await;
    let (ingest, containers) = (node.settings.root.join("ingest"), &node.settings.containers_dir);
    let aside = |path: &std::path::Path| path.with_extension("aside");
    for path in [&ingest, containers] {
        std::fs::rename(path, aside(path)).unwrap();
    }
    let error = images.pull(request("one.test/b:1")).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("ingest"), "{error:?}");
    let error = images.make_writable("c", &pulled).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("containers/c"), "{error:?}");
    assert!(images.writables().is_empty());
    assert_eq!(images.list().len(), 1);
    for path in [&ingest, containers] {
        std::fs::rename(aside(path), path).unwrap();
    }
    pull(&images, "one.test/b:1").await;
    images.make_writable("c", &pulled).await.unwrap();
    assert_eq!(images.list().len(), 2);
}
